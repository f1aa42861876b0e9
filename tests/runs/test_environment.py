import json
import subprocess
import sys
import time
import types

import pytest

from nrm_keras.runs import environment


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    package = tmp_path / "checkout/package"
    package.mkdir(parents=True)
    (package / "a.py").write_text("a = 1\n")
    git(tmp_path, "init", "-b", "main", "checkout")
    monkeypatch.setattr(environment, "PACKAGE", package)
    return package


def test_collect_is_json_and_keeps_secrets_out(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    monkeypatch.setenv("TF_TOKEN_app_terraform_io", "secret")
    monkeypatch.setenv("TF_VAR_password", "secret")
    found = environment.collect()
    assert "secret" not in json.dumps(found["variables"])
    assert found["variables"]["XLA_FLAGS"] == "--xla_dump_to=x"
    assert {"python", "tensorflow", "keras", "numpy"} <= set(found["versions"])
    assert found["machine"]["processors"] >= 1 and found["machine"]["memory_gib"] > 0


def test_collect_asks_a_loaded_tensorflow_and_survives_its_failure(monkeypatch):
    def fail():
        raise RuntimeError("no context")

    threading = types.SimpleNamespace(get_intra_op_parallelism_threads=fail)
    fake = types.SimpleNamespace(config=types.SimpleNamespace(threading=threading))
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    assert environment.collect()["tensorflow"] == {"problem": "RuntimeError: no context"}


def test_collect_without_tensorflow_says_nothing_of_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert "tensorflow" not in environment.collect()


def test_git_state_of_a_checkout(checkout):
    assert environment.git_state() is None  # nothing is tracked, so nothing says that this is its checkout
    git(checkout, "add", ".")
    assert environment.git_state()["commit"] == "none yet"
    git(checkout, "commit", "-m", "one")
    clean = environment.git_state()
    assert len(clean["commit"]) == 40 and clean["branch"] == "main" and clean["dirty"] is False and "diff" not in clean
    (checkout / "a.py").write_text("a = 2\n")
    (checkout.parent / "new file.txt").write_text("new")
    dirty = environment.git_state()
    assert dirty["dirty"] is True and "+a = 2" in dirty["diff"] and len(dirty["untracked"]) == 1


def test_a_long_diff_is_cut(checkout):
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "one")
    (checkout / "a.py").write_text("é = 1\n" * 100_000)
    diff = environment.git_state()["diff"]
    assert len(diff.encode()) <= environment.DIFF_LIMIT + 20 and diff.endswith("[cut here]\n")


def test_variables_of_a_git_hook_do_not_mislead(checkout, monkeypatch):
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "one")
    expected = environment.git_state()
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert environment.git_state() == expected


def test_without_git_and_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "PACKAGE", tmp_path)
    assert environment.git_state() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.git_state() is None


@pytest.mark.parametrize(
    ("devices", "precision"),
    [
        (None, "float32"),
        ([], "float32"),
        ([{"type": "CPU"}], "float32"),
        ([{"type": "CPU"}, {"type": "TPU"}], "mixed_bfloat16"),
        ([{"type": "GPU", "compute_capability": "6.1"}], "float32"),
        ([{"type": "GPU", "compute_capability": "7.0"}], "mixed_float16"),
        ([{"type": "GPU", "compute_capability": "8.0"}], "mixed_bfloat16"),
        ([{"type": "GPU", "compute_capability": "10.0"}], "mixed_bfloat16"),
        ([{"type": "GPU", "compute_capability": "9.0"}, {"type": "GPU", "compute_capability": "7.5"}], "mixed_float16"),
        ([{"type": "GPU"}], "float32"),
    ],
)
def test_recommended_precision(devices, precision):
    found, reason = environment.recommend_precision(devices)
    assert found == precision and reason


def test_devices_of_this_machine():
    found = environment.devices()
    assert "problem" not in found
    assert any(device["type"] == "CPU" for device in found["devices"]) and isinstance(found["xla"]["CPU"], bool)


def test_a_time_limit_that_cannot_be_kept():
    began = time.monotonic()
    found = environment.devices(timeout=0.02)
    assert "did not answer within 0.02 s" in found["problem"] and found["precision"] == "float32"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("tensorflow", "words"),
    [
        ("raise ImportError('libcudart is missing')", "libcudart is missing"),
        ("import os; os._exit(0)", "asking TensorFlow failed"),
        ("import os; os.abort()", "exit status -6"),
    ],
)
def test_a_broken_tensorflow_is_told_in_words(tmp_path, monkeypatch, tensorflow, words):
    (tmp_path / "tensorflow.py").write_text(tensorflow)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = environment.devices()
    assert words in found["problem"] and found["precision"] == "float32" and found["reason"]


@pytest.mark.parametrize("executable", ["/no/such/python", "/bin/false", ""])
def test_a_broken_interpreter_is_told_in_words(tmp_path, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "asking TensorFlow failed" in environment.devices()["problem"]
