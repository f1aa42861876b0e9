"""Two logical CPUs as replicas, in processes of their own: devices are fixed once TensorFlow is used."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from nrm_keras.runs.metrics import read_metrics
from nrm_keras.training.distribution import precision, resolve_precision

# 1,255 training examples in batches of 64 leave a ragged 39, which two replicas share as 19 and 20; so do 359 for the test
QUICK = ["model={type: mlp, units: [32, 16]}", "data.limit=1255", "train.epochs=2", "train.checkpoint_every=7"]
MIRRORED = ["train.strategy=mirrored", "train.replicas=2"]


def run(out, *words):
    command = [sys.executable, "-m", "nrm_keras", "run", *map(str, words)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    (recipe,) = out.glob("runs/**/recipe.yaml")
    return recipe.parent, result.stdout


def outcome(path):
    import keras

    import nrm_keras

    metrics = {k: v for k, v in read_metrics(path).items() if k != "seconds"}
    model = nrm_keras.load(path)
    weights = {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}
    return metrics, json.loads((path / "summary.json").read_text())["metrics"], weights


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return outcome(run(tmp_path_factory.mktemp("one"), "images/digits_adaptive", *QUICK)[0])


def test_two_replicas_give_the_result_of_one_device(one_device, tmp_path):
    path, _ = run(tmp_path, "images/digits_adaptive", *QUICK, *MIRRORED)
    metrics, scores, weights = outcome(path)
    for name, values in one_device[0].items():
        np.testing.assert_allclose(metrics[name], values, rtol=0, atol=1e-5, err_msg=name)
    for split, values in one_device[1].items():
        assert scores[split] == pytest.approx(values, abs=1e-5)
    for name, value in one_device[2].items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    confusion = np.array(json.loads((path / "evaluation.json").read_text())["confusion"])
    assert np.trace(confusion) / confusion.sum() == pytest.approx(scores["test"]["accuracy"])


def test_without_synchronization_the_result_differs(one_device, tmp_path):
    """The control: the equality above is not for want of sensitivity."""
    metrics, *_ = outcome(run(tmp_path, "images/digits_adaptive", *QUICK, *MIRRORED, "norm.synchronized=false")[0])
    assert np.abs(np.array(metrics["loss"]) - one_device[0]["loss"]).max() > 1e-3


def test_resumes_at_a_ragged_last_batch(one_device, tmp_path):
    # step 19 of 20: what is left of the epoch is one batch of 19 + 20 examples
    path, _ = run(tmp_path, "images/digits_adaptive", *QUICK, *MIRRORED, "train.checkpoint_every=19")
    expected = outcome(path)
    state = path / "checkpoints" / "state.npz"
    state.unlink()
    (path / "checkpoints" / "state.previous.npz").rename(state)
    (path / "summary.json").unlink()
    _, output = run(tmp_path, "--resume", path)
    assert "Resuming at epoch 2, step 20." in output
    again = outcome(path)
    assert again[:2] == expected[:2]
    assert all((again[2][name] == value).all() for name, value in expected[2].items())


def test_more_replicas_than_the_batch_can_be_shared_by(tmp_path):
    command = [
        sys.executable,
        "-m",
        "nrm_keras",
        "run",
        "images/digits_adaptive",
        "train.strategy=mirrored",
        "train.replicas=5",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "64" in result.stderr and "5" in result.stderr and "Traceback" not in result.stderr


def test_precision_is_put_back():
    import keras

    before = keras.config.dtype_policy().name
    with precision("mixed_bfloat16"):
        assert keras.layers.Dense(1).dtype_policy.name == "mixed_bfloat16"
    assert keras.config.dtype_policy().name == before
    assert resolve_precision("mixed_float16") == "mixed_float16"
