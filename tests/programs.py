"""Programs of their own, for what must be set before Keras starts or must be seen in a fresh process."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BACKENDS = ("tensorflow", "jax", "torch")


def python(*arguments: str, backend: str = "tensorflow", folder: pathlib.Path = ROOT, timeout: int = 300) -> str:
    """What `python ...` prints in the folder, with this backend of Keras; fails the test with its errors if it fails."""
    skip_without(backend)
    own = {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def report(*arguments: str, backend: str = "tensorflow"):
    """The JSON in the last line that `python ...` prints."""
    return json.loads(python(*arguments, backend=backend).splitlines()[-1])


def skip_without(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed, see CONTRIBUTING.md")
