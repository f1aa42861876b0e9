"""Trains one cell of a study after the other in one process, each with the bits of a process of its own.

Importing this imports no TensorFlow: the threads must be set first.
"""

from __future__ import annotations

import _thread
import contextlib
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from nrm_keras.errors import UserError
from nrm_keras.recipe import loading
from nrm_keras.runs import directory
from nrm_keras.studies.outcome import LOG, RUN, Job, Outcome
from nrm_keras.training.startup import quiet_start

# OMP_NUM_THREADS reaches NumPy and scikit-learn too; of a GPU each worker takes only what it needs
ENVIRONMENT = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
POLL = 0.2  # seconds

_go_on: Path | None = None  # the file whose removal tells this worker to stop


def start(go_on: Path | None = None) -> None:
    """Prepares this process for `run_cell`, before it imports TensorFlow.

    Args:
        go_on: a file; when it is removed, the training stops with its checkpoint. When the process that started this one
            ends, this one ends at once: the cell then goes on from its last checkpoint.
    """
    global _go_on
    os.environ.update(ENVIRONMENT)
    if threading.current_thread() is threading.main_thread():
        # a terminal sends Ctrl-C to all; between cells the main process acts
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _go_on = go_on
    threading.Thread(target=_watch, args=(go_on,), daemon=True).start()


def _watch(go_on: Path | None) -> None:
    parent, told = multiprocessing.parent_process(), False  # Ray has its own way to end what it started
    while parent is None or parent.is_alive():
        if go_on and not told and not go_on.exists():
            told = True
            _thread.interrupt_main(signal.SIGTERM)
        time.sleep(POLL)
    os._exit(1)


def run_cell(job: Job, executor: str = "local") -> Outcome:
    """Trains the cell, or goes on with what is there of it, measures its probes and writes `result.json`.

    All that is printed meanwhile, by TensorFlow's libraries too, goes to the cell's `log.txt`.

    Returns:
        What became of it; also when it failed or was stopped.
    """
    began, processor = time.monotonic(), time.process_time()
    probes, threads, error = {}, 0, ""
    with _output_to(job.folder / LOG), _interruptible():
        try:
            if _go_on and not _go_on.exists():
                raise KeyboardInterrupt
            print(f"{executor} worker, process {os.getpid()}")
            loaded = _load(job)  # what is wrong with a recipe is said before TensorFlow is imported
            threads = _one_thread()
            _forget_cells_before()
            run = _train(job, loaded)
            diverged = run.summary["status"] == "diverged"
            probes = _measure(job, run.path, diverged)
            status = "diverged" if diverged else "finished"
        except KeyboardInterrupt:
            status = "stopped"
        except UserError as problem:
            status, error = "failed", str(problem)
            print(problem)
        except (Exception, SystemExit) as problem:  # noqa: BLE001 - whatever it is, the other cells go on
            status, error = "failed", f"{type(problem).__name__}: {problem}"
            traceback.print_exc()
    outcome = Outcome(
        job.cell,
        status,
        job.newest_run(),
        probes,
        round(time.monotonic() - began, 3),
        round(time.process_time() - processor, 3),
        threads,
        os.getpid(),
        executor,
        error,
    )
    outcome.write(job.folder)
    return outcome


def _load(job: Job) -> loading.Loaded:
    loaded = loading.load(job.recipe, job.overrides, allow_imports=job.allow_imports)
    if loaded.recipe.train.strategy != "none":
        raise UserError(
            "Cells are trained on one device each, so that all executors give the same bits."
            f" Received: train.strategy {loaded.recipe.train.strategy}. Set train.strategy: none."
        )
    return loaded


def _one_thread() -> int:
    """The threads that TensorFlow has, as it tells them itself.

    Raises:
        UserError: they are more than one, because this process had used TensorFlow before.
    """
    with quiet_start():
        import tensorflow as tf
    threads = tf.config.threading
    with contextlib.suppress(RuntimeError):  # TensorFlow has begun: what it has counts
        threads.set_intra_op_parallelism_threads(1)
        threads.set_inter_op_parallelism_threads(1)
    found = threads.get_intra_op_parallelism_threads(), threads.get_inter_op_parallelism_threads()
    if found != (1, 1):
        raise UserError(
            "A cell is trained with one thread, so that it has the same bits everywhere. Received: a process whose"
            f" TensorFlow has {found[0]} threads within and {found[1]} between operations (0: automatic)."
            " Start the study in a process that has not used TensorFlow."
        )
    return max(found)


def _forget_cells_before() -> None:
    """Leaves nothing of cells before this one: names, graphs, kernels, settings, memory."""
    import keras
    from tensorflow.python.framework import config, ops  # no public function takes determinism and gradients back

    config.disable_op_determinism()
    # a custom gradient stays registered for ever, and with it the graph that it was traced in
    gradients = ops.gradient_registry._registry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]
    keras.utils.clear_session()  # collects garbage too


def _train(job: Job, loaded: loading.Loaded):
    """The cell's finished `Run`."""
    from nrm_keras.training import earlier, launch

    out = job.folder / RUN
    found, unlike = (None, "") if job.smoke else earlier.find(out, loaded)
    if unlike:
        print(f"Trained again, as {unlike}")
    if found and loaded.recipe.diagnostics and not directory.summary(found):
        print(
            "Trained from the start again: drift is measured against the first step that is watched, which a resume moves"
        )
        shutil.rmtree(found)
    elif found:
        return launch.resume(found, allow_imports=job.allow_imports)
    return launch.run(job.recipe, job.overrides, out=out, smoke=job.smoke, allow_imports=job.allow_imports)


def _measure(job: Job, run: Path, diverged: bool) -> dict[str, dict[str, float]]:
    if not job.probes:
        return {}
    from nrm_keras.studies.probes import PROBES, measuring

    recipe = loading.load(run / directory.RECIPE, allow_imports=job.allow_imports).recipe
    try:
        return measuring.measure_all(job.probes, recipe, run, smoke=job.smoke)
    except Exception:
        if not diverged:
            raise
        traceback.print_exc()  # of weights that are not finite nothing can be measured
        return {name: dict.fromkeys(PROBES[probe["type"]].fields, math.nan) for name, probe in job.probes.items()}


@contextlib.contextmanager
def _output_to(path: Path):
    """Standard output and error go to the end of a file, also what libraries write past Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    before = os.dup(1), os.dup(2)
    with open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1) as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield
        finally:
            _flush()
            for descriptor, old in zip((1, 2), before, strict=True):
                os.dup2(old, descriptor)
                os.close(old)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


@contextlib.contextmanager
def _interruptible():
    """Signals raise KeyboardInterrupt where the training doesn't handle them: while data are read, between epochs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _raise) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number, frame):
    raise KeyboardInterrupt
