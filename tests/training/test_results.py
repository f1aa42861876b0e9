"""The main job reaches what README says, in every precision, and resumes bit for bit."""

import pytest

import nrm_keras
from nrm_keras.training import snapshot


@pytest.mark.parametrize("precision,accuracy", [("float32", 0.97), ("mixed_float16", 0.96), ("mixed_bfloat16", 0.96)])
def test_digits(tmp_path, precision, accuracy):
    options = {"train.precision": precision, "train.checkpoint_every": 7}
    run = nrm_keras.run("images/digits_adaptive", options, out=tmp_path, say=lambda line: None)
    summary, metrics = run.summary, run.metrics
    assert summary["precision"] == precision
    assert summary["metrics"]["test"]["accuracy"] >= accuracy
    # back to the last checkpoint within an epoch, as if the process had been killed there
    state = run.path / "checkpoints" / snapshot.CURRENT
    (run.path / "checkpoints" / snapshot.PREVIOUS).replace(state)
    (run.path / "summary.json").unlink()
    said = []
    nrm_keras.resume(run.path, say=said.append)
    assert "Resuming at epoch 15, step 15." in said
    drop = lambda values: {k: v for k, v in values.items() if k != "seconds"}
    assert drop(run.metrics) == drop(metrics)
    assert drop(run.summary) == drop(summary)
