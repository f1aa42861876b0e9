"""Probes of runs that were trained: against NumPy, other functions of the package, and what must come out otherwise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import nrm_keras
from nrm_keras.diagnostics.gap import train_inference_gap
from nrm_keras.recipe import loading
from nrm_keras.studies.probes import (
    PROBES,
    channel_groups,
    corruption,
    insulation,
    recalibration,
    relu_shift,
)
from nrm_keras.studies.probes.forward import Look
from nrm_keras.studies.probes.measuring import measure, measure_all
from nrm_keras.studies.probes.trained import Trained

SMALL = {"data.limit": 400, "train.epochs": 1, "train.jit": False, "diagnostics": None}


def trained(root, overrides):
    run = nrm_keras.run("images/digits_adaptive", SMALL | overrides, out=root, say=lambda line: None)
    return Trained(loading.load(run.path / "recipe.yaml").recipe, run.path)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    """A function from a norm to a trained perceptron."""
    found = {}

    def of(norm):
        if norm not in found:
            rate = {"optimizer.learning_rate": 1e-2} if norm == "none" else {}
            model = {"model": {"type": "mlp", "units": [12, 10]}, "norm": {"type": norm}}
            found[norm] = trained(tmp_path_factory.mktemp(norm), model | rate)
        return found[norm]

    return of


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    model = {"model": {"type": "resnet", "depth": 8, "width": 4}, "norm": {"type": "batch"}}
    return trained(tmp_path_factory.mktemp("resnet"), model | {"data.limit": 64})


def test_the_fresh_model_has_the_initial_weights_of_the_run(tmp_path):
    """A training with a vanishing learning rate ends where it began."""
    still = {"optimizer": {"type": "sgd", "learning_rate": 1e-30, "momentum": 0.0}, "norm": {"type": "batch"}}
    one = trained(tmp_path, still | {"model": {"type": "mlp", "units": [5]}})
    for start, end in zip(one.fresh_model().trainable_variables, one.model().trainable_variables, strict=True):
        np.testing.assert_allclose(start.numpy(), end.numpy(), rtol=0, atol=1e-25)


def test_a_diverged_run_has_no_numbers(tmp_path):
    options = {"model": {"type": "mlp", "units": [5]}, "norm": {"type": "none"}, "optimizer.learning_rate": 1e30}
    one = trained(tmp_path, options | {"train.keep": "last"})
    probes = {"end": {"type": "active_units"}, "start": {"type": "active_units", "at": "start"}}
    found = measure_all(probes, one.recipe, one.run_dir)
    assert set(found["end"]) == set(PROBES["active_units"].fields)
    assert all(map(math.isnan, found["end"].values()))
    assert all(map(math.isfinite, found["start"].values()))


def test_a_probe_without_anything_to_measure_has_no_numbers(mlp, capsys):
    one = mlp("batch")
    gelu = one.recipe.model_copy(update={"model": one.recipe.model.model_copy(update={"activation": "gelu"})})
    found = measure_all({"a": {"type": "relu_shift"}}, gelu, one.run_dir)
    assert all(map(math.isnan, found["a"].values()))
    assert "needs model.activation relu. Received: gelu" in capsys.readouterr().out


# corruption and recalibration are below
@pytest.mark.parametrize("kind", sorted(set(PROBES) - {"corruption", "recalibration"}))
def test_every_probe_measures_a_real_run(resnet, mlp, kind):
    small = {
        "curvature": {"examples": 16, "products": 10},
        "stable_learning_rate": {"steps": 8, "start": 0.4, "optimizer": "recipe"},
        "channel_groups": {"groups": 2, "permutations": 50},
    }
    run = mlp("batch") if kind in ("curvature", "stable_learning_rate") else resnet
    found = measure({"type": kind, **small.get(kind, {})}, run)
    assert tuple(found) == PROBES[kind].fields
    assert all(map(math.isfinite, found.values()))


@pytest.mark.parametrize("kind", ["relu_shift", "insulation", "channel_groups"])
def test_the_same_bits_twice(mlp, kind):
    plain = {"type": kind} | ({"groups": 2} if kind == "channel_groups" else {})
    assert measure(plain, mlp("batch")) == measure(plain, mlp("batch"))


def test_relu_shift_is_that_of_numpy(mlp):
    one = mlp("none")
    found = relu_shift.measure(one, at="end", examples=10_000)
    pixels = one.examples.test.inputs.reshape(len(one.examples.test), -1).astype("float64")
    train = one.examples.train.inputs.astype("float64")
    weights = [w.astype("float64") for w in one.model().get_weights()]
    first = (pixels - train.mean()) / train.std() @ weights[0] + weights[1]
    second = np.maximum(first, 0) @ weights[2] + weights[3]

    def ratio(values):
        return np.mean(np.abs(values.mean(0)) / values.std(0))

    z = [np.maximum((a - a.mean(0)) / a.std(0), 0).mean() for a in (first, second)]
    expected = [np.mean(z), *map(ratio, (np.maximum(first, 0), np.maximum(second, 0), first, second))]
    assert list(found.values()) == pytest.approx(expected, rel=1e-4)


def test_batch_normalization_insulates_and_the_others_do_not(mlp):
    found = {norm: insulation.measure(mlp(norm), "end", 200, 0.5) for norm in ("batch", "layer", "none")}
    assert found["batch"]["mean_minus_beta"] < 1e-5
    assert found["batch"]["mean_minus_beta_disturbed"] < 1e-5
    assert found["batch"]["mean_moved"] < 1e-5
    assert all(row["beta_gradient_error"] < 1e-5 for row in found.values())
    assert found["layer"]["mean_minus_beta"] > 0.1 and found["layer"]["mean_moved"] > 0.05
    assert found["none"]["mean_moved"] > 0.5


def test_looking_changes_nothing(mlp):
    model, batch = mlp("batch").model(), mlp("batch").batch(50)
    before = [v.numpy() for v in model.variables]
    assert Look(model, *batch).normalizers
    for a, v in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, v.numpy())


def test_groups_that_do_not_fit_are_refused(mlp):
    with pytest.raises(nrm_keras.errors.UserError, match="Received: 7 groups, and 10, 12 channels"):
        channel_groups.measure(mlp("batch"), "end", 50, groups=7, permutations=50)


def test_recalibration_mends_running_statistics_that_lag_behind(tmp_path):
    """A momentum of 0.99 keeps 0.99^14 = 87 % of the initial values in 14 steps."""
    norm = {"type": "batch", "momentum": 0.99, "warmup": False}
    one = trained(tmp_path, {"model": {"type": "mlp", "units": [32, 32, 32]}, "norm": norm, "train.epochs": 2})
    found = measure({"type": "recalibration", "examples": 10_000, "training_examples": 320}, one)
    # the model is the one that the run keeps
    kept = json.loads((one.run_dir / "summary.json").read_text())["metrics"]["test"]
    assert (found["metric"], found["loss"]) == pytest.approx((kept["accuracy"], kept["loss"]), rel=1e-4)
    assert found["recalibrated_metric"] > found["metric"] + 0.1
    assert found["gap"] > 0.1 and abs(found["recalibrated_gap"]) < 0.3 * found["gap"]


def test_the_gap_is_that_of_the_diagnostics(mlp):
    one = mlp("batch")
    found = recalibration.measure(one, examples=96, training_examples=100)
    data = one.dataset(one.some(one.held_out, 96))
    expected = train_inference_gap(one.model(), data).loss
    assert found["gap"] == pytest.approx(expected.difference, rel=1e-4)
    assert found["loss"] == pytest.approx(expected.inference, rel=1e-5)


def test_without_running_statistics_there_is_no_gap(mlp):
    found = recalibration.measure(mlp("none"), examples=100, training_examples=100)
    assert found["gap"] == found["recalibrated_gap"] == 0
    assert found["metric"] == found["recalibrated_metric"]


def test_images_that_are_not_corrupted_are_clean(mlp):
    found = corruption.measure(mlp("none"), examples=200)
    for name in ("accuracy", "calibration_error", "drift_score"):
        assert found[f"clean_{name}"] == found[name] == found[f"recalibrated_{name}"]
    assert abs(found["drift_score"]) < 2


def test_corruption_is_seen_and_costs(mlp):
    found = measure({"type": "corruption", "examples": 360, "noise": 0.5}, mlp("batch"))
    assert all(map(math.isfinite, found.values()))
    assert found["accuracy"] < found["clean_accuracy"] - 0.1
    assert found["drift_score"] > found["clean_drift_score"] + 3
    assert found["recalibrated_accuracy"] != found["accuracy"]
