"""What a run ran on: versions, machine, devices, code. Importing this imports no TensorFlow.

This file is also run on its own, in a process that may be killed when a driver hangs: see `devices`. So it needs the
standard library only.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DISTRIBUTIONS = [
    *("nrm_keras", "tensorflow", "keras", "numpy", "tensorflow-datasets", "importlib_resources", "Pillow", "PyYAML"),
    *("pydantic", "rich", "scikit-learn", "scipy", "plotly", "jinja2", "h5py", "ml_dtypes"),
    *("statsmodels", "psutil", "ray"),
]

# Listed one by one: TF_TOKEN_... and TF_VAR_... belong to Terraform and hold secrets.
VARIABLES = [
    *("KERAS_BACKEND", "KERAS_HOME", "TF_CONFIG", "TF_XLA_FLAGS", "XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS"),
    *("TF_DETERMINISTIC_OPS", "TF_CUDNN_DETERMINISTIC", "TF_CUDNN_USE_AUTOTUNE", "TF_CUDNN_USE_FRONTEND"),
    *("TF_ENABLE_LAYOUT_OPTIMIZER", "TF_ENABLE_AUTO_MIXED_PRECISION", "TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_ALLOCATOR"),
    *("TF_GPU_THREAD_MODE", "TF_GPU_THREAD_COUNT", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    *("TF_CPP_MIN_LOG_LEVEL", "TF_USE_LEGACY_KERAS", "NVIDIA_TF32_OVERRIDE", "CUDA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "PYTHONHASHSEED"),
]

DIFF_LIMIT = 200_000
PACKAGE = Path(__file__).resolve().parents[1]


def collect() -> dict:
    """The content of `environment.json`. Call it in the training process, after TensorFlow was loaded; never raises."""
    found = {
        "recorded": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "versions": versions(),
        "machine": machine(),
        "tensorflow": _guarded(_loaded_tensorflow),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "git": _guarded(git_state),
    }
    return {name: value for name, value in found.items() if value}


def versions() -> dict[str, str]:
    """Version of Python and of every distribution a run depends on, where installed."""
    found = {"python": f"{platform.python_version()} ({platform.python_implementation()})"}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict:
    facts = {"platform": platform.platform(), "processor": _processor(), "processors": os.cpu_count()}
    if hasattr(os, "sched_getaffinity"):
        facts["processors_usable"] = len(os.sched_getaffinity(0))
    with contextlib.suppress(AttributeError, OSError, ValueError):  # where the system doesn't tell
        facts["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _guarded(fact) -> dict | None:
    try:
        return fact()
    except Exception as error:  # noqa: BLE001 - a fact that cannot be had must not cost the training
        return {"problem": f"{type(error).__name__}: {error}"}


def _loaded_tensorflow() -> dict | None:
    tf = sys.modules.get("tensorflow")
    if tf is None:
        return None
    threading = tf.config.threading
    facts = {
        "intra_op_threads": threading.get_intra_op_parallelism_threads() or "automatic",
        "inter_op_threads": threading.get_inter_op_parallelism_threads() or "automatic",
        "devices": _physical_devices(tf),
    }
    keras = sys.modules.get("keras")
    return {"keras_backend": keras.config.backend(), **facts} if keras else facts


def _physical_devices(tf) -> list[dict]:
    found = []
    for device in tf.config.list_physical_devices():
        if device.device_type in {"CPU", "GPU", "TPU"}:
            details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
            capability = details.get("compute_capability")
            facts = {
                "type": device.device_type,
                "name": details.get("device_name") or device.name.split("physical_device:")[-1],
            }
            found.append({**facts, **({"compute_capability": ".".join(map(str, capability))} if capability else {})})
    return found


def git_state() -> dict | None:
    """Commit, uncommitted changes and their diff of the checkout the package lies in; None where it lies in none.

    The files must be tracked: an environment inside somebody's repository says nothing about this code.
    """
    if not _git("ls-files", "--", ".", limit=1):
        return None
    status = _git("status", "--porcelain", "--untracked-files=normal", "--", ":/") or ""
    diff = _git("diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD", "--", ":/", limit=DIFF_LIMIT + 1) or ""
    facts = {
        "commit": (_git("rev-parse", "--verify", "--quiet", "HEAD") or "").strip() or "none yet",
        "branch": (_git("branch", "--show-current") or "").strip() or "detached",
        "dirty": bool(status.strip()),
        "untracked": [line[3:] for line in status.splitlines() if line.startswith("??")][:100],
    }
    cut = len(diff.encode()) > DIFF_LIMIT
    facts["diff"] = diff.encode()[:DIFF_LIMIT].decode("utf-8", errors="ignore") + ("\n[cut here]\n" if cut else "")
    return {name: value for name, value in facts.items() if value not in ("", [])}


def _git(*arguments: str, limit: int = 1_000_000) -> str | None:
    # GIT_DIR and its like, set within a git hook, would name another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        status, output, _ = run_limited(["git", "-C", str(PACKAGE), *arguments], 10, environment, limit)
    except (OSError, subprocess.SubprocessError):
        return None
    return output if status == 0 else None


def run_limited(command: list[str], timeout: float, environment: dict, limit: int) -> tuple[int, str, str]:
    """Runs a command; returns its status, the first `limit` bytes of its output and the end of its errors."""
    # files, not pipes: a grandchild that outlives a killed child would keep a pipe open and us waiting
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=environment,
            timeout=timeout,
            check=False,
        )
        output.seek(0)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 2000))
        return done.returncode, output.read(limit).decode("utf-8", "replace"), errors.read().decode("utf-8", "replace")


def devices(timeout: float = 60) -> dict:
    """Asks TensorFlow, in a process of its own with a time limit, what it can compute on. Never raises.

    Returns:
        `devices` (type, name, compute_capability, memory_gib), `xla` (type of device -> bool), `precision` and `reason`
        (see `recommend_precision`), and `problem`, in words, where TensorFlow could not be asked.
    """
    found = _ask_tensorflow(timeout)
    precision, reason = recommend_precision(found.get("devices"))
    return {**found, "precision": precision, "reason": reason}


def _ask_tensorflow(timeout: float) -> dict:
    # growth: the question must not take the memory of a GPU on which something else is training
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    try:
        # -P: the folder of this file must not hide modules of the same names
        command = [sys.executable or "python", "-P", str(Path(__file__).resolve())]
        status, output, errors = run_limited(command, timeout, environment, 1_000_000)
        if status == 0:
            return json.loads(output.strip().splitlines()[-1])
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        return {"problem": f"asking TensorFlow failed with exit status {status}: {last}"}
    except subprocess.TimeoutExpired:
        return {
            "problem": f"TensorFlow did not answer within {timeout:g} s; a hanging driver or a busy machine does that"
        }
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        return {"problem": f"asking TensorFlow failed: {type(error).__name__}: {error}"}


def recommend_precision(devices: list[dict] | None) -> tuple[str, str]:
    """The precision that makes sense on these devices, and why."""
    if devices is None:
        return "float32", "the devices are unknown, and float32 is right everywhere"
    if any(device["type"] == "TPU" for device in devices):
        return "mixed_bfloat16", "TPUs multiply bfloat16 natively"
    gpus = [device for device in devices if device["type"] == "GPU"]
    if not gpus:
        return "float32", "there is no GPU or TPU, and a CPU gains little from 16 bits"
    # several GPUs train together, so the oldest decides
    oldest = min(tuple(map(int, gpu.get("compute_capability", "0.0").split("."))) for gpu in gpus)
    if oldest == (0, 0):
        return "float32", "a GPU does not tell its compute capability"
    words = f"compute capability {oldest[0]}.{oldest[1]}"
    if oldest >= (8, 0):
        return "mixed_bfloat16", f"{words}: tensor cores for bfloat16, which needs no loss scaling"
    if oldest >= (7, 0):
        return "mixed_float16", f"{words}: tensor cores for float16, not for bfloat16"
    return "float32", f"{words}: tensor cores begin at 7.0"


def _tell_devices() -> dict:
    import tensorflow as tf

    found = _physical_devices(tf)
    xla = {kind: _compiles(tf, kind) for kind in sorted({device["type"] for device in found})}
    memory = {name: amount for name, amount in _guarded(_gpu_memory).items() if name != "problem"}
    for device, index in zip([device for device in found if device["type"] == "GPU"], range(len(memory)), strict=False):
        device["memory_gib"] = memory[f"/device:GPU:{index}"]
    return {"devices": found, "xla": xla}


def _compiles(tf, kind: str) -> bool:
    try:
        with tf.device(f"/{kind}:0"):
            return float(tf.function(lambda x: x + 1.0, jit_compile=True)(tf.ones(()))) == 2.0
    except Exception:  # noqa: BLE001 - whatever XLA raises, it does not compile here
        return False


def _gpu_memory() -> dict[str, float]:
    from tensorflow.python.client import device_lib  # no public function tells it

    return {d.name: round(d.memory_limit / 2**30, 1) for d in device_lib.list_local_devices() if d.device_type == "GPU"}


if __name__ == "__main__":
    print(json.dumps(_tell_devices()))
