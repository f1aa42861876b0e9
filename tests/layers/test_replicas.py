"""Synchronized statistics on two replicas with batches of 3 and 2 examples."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.layers.two_replicas"]
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("mask", ["all", "masked"])
@pytest.mark.parametrize("name", ["batch", "switchable", "domain", "adaptive", "adaptive-separate"])
def test_synchronized_replicas_are_one_device(report, name, mask):
    """Outputs, gradients and running statistics, at a mean of 1000, where float32 has 6e-5 to give."""
    found = report[f"{name} {mask}"]
    assert found["results"] < 1e-4
    assert found["states"] < 2e-4
    assert found["replicas"] == 0


def test_nan_on_one_replica_leaves_both_alone(report):
    assert report["nan"] == 0


def test_unsynchronized_replicas_agree_on_running_statistics(report):
    assert report["local"]["replicas"] == 0
    assert report["local"]["mean"] < 2e-4
