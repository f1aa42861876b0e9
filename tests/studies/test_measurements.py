"""Numbers of cells, from files of runs that are written by hand, and of one that was really trained."""

import json
import math

import pytest

import nrm_keras
from nrm_keras.errors import UserError
from nrm_keras.recipe import loading
from nrm_keras.studies.measurements import check, value
from nrm_keras.studies.probes import PROBES
from nrm_keras.studies.schema import Measurement
from nrm_keras.studies.statistic_kinds import KINDS

PLACE = {"step", "epoch", "kind", "layer", "seconds"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Everything that diagnostics write, of adaptive normalization."""
    overrides = {
        "data": {"source": "digits", "limit": 200, "batch_size": 32},
        "model": {"type": "mlp", "units": [6]},
        "optimizer": {"type": "sgd", "learning_rate": 0.05, "weight_decay": 1e-3},
        "train": {"epochs": 2, "jit": False},
        "diagnostics": {"every": 3, "drift_every": 3, "deep_every": 6, "alerts": False},
    }
    flat = {f"{a}.{b}": v for a, part in overrides.items() for b, v in part.items() if a not in ("data", "model")}
    flat |= {"data": overrides["data"], "model": overrides["model"]}
    out = tmp_path_factory.mktemp("run")
    return nrm_keras.run("images/digits_adaptive", flat, out=out, say=lambda line: None).path


def records(path, kind):
    lines = map(json.loads, (path / "statistics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def test_kinds_are_those_that_diagnostics_write(run):
    seen = {json.loads(line)["kind"] for line in (run / "statistics.jsonl").read_text().splitlines()}
    assert seen == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_fields_are_those_that_diagnostics_write(run, name):
    found, kind = records(run, name), KINDS[name]
    fields = {field for record in found for field, entry in record.items() if not isinstance(entry, list)} - PLACE
    assert fields == {*kind.numbers, *kind.by}
    assert all(("layer" in record) == kind.layered for record in found)
    words = {field for record in found for field, entry in record.items() if isinstance(entry, (str, bool))} - PLACE
    assert words == set(kind.by)


def test_statistics_of_a_real_run(run):
    rows = [r for r in records(run, "drift") if r["reference"] == "start"]
    last = max(r["step"] for r in rows)
    by_layer = {r["layer"]: r["mean_shift"] for r in rows if r["step"] == last}
    asked = {"statistic": "drift.mean_shift", "where": {"reference": "start"}}
    assert value(Measurement(**asked), run, {}) == pytest.approx(sum(by_layer.values()) / len(by_layer))
    largest = Measurement(**asked, over_layers="max", layers=("dense*",))
    assert value(largest, run, {}) == max(v for layer, v in by_layer.items() if layer.startswith("dense"))
    gate = value(Measurement(statistic="gate.batch_weight", over_steps="first", over_layers="last"), run, {})
    first = records(run, "gate")[0]["step"]
    assert gate == [r["batch_weight"] for r in records(run, "gate") if r["step"] == first][-1]


def test_metrics_of_a_real_run(run):
    scores = json.loads((run / "summary.json").read_text())["metrics"]
    assert value(Measurement(metric="test.accuracy", transform="complement"), run, {}) == 1 - scores["test"]["accuracy"]
    rows = (run / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val_loss")
    numbers = [float(row.split(",")[column]) for row in rows[1:]]
    assert [value(Measurement(metric="val_loss", epoch=e), run, {}) for e in (1, 2)] == numbers
    assert value(Measurement(metric="val_loss"), run, {}) == numbers[-1]


# By hand -------------------------------------------------------------------------------------------------------------

BY_HAND = [
    {"step": 1, "epoch": 0, "kind": "step", "loss": 2.0},
    {"step": 1, "epoch": 0, "kind": "activation", "layer": "b", "mean": -4.0, "dead": None},
    {"step": 1, "epoch": 0, "kind": "activation", "layer": "a", "mean": 2.0, "dead": 0.5},
    {"step": 1, "epoch": 0, "kind": "weight", "layer": "b/kernel", "norm": 3.0},
    {"step": 5, "epoch": 1, "kind": "activation", "layer": "b", "mean": 8.0, "dead": None},
    {"step": 5, "epoch": 1, "kind": "activation", "layer": "a", "mean": 1.0, "dead": 0.25},
    {"step": 9, "epoch": 1, "kind": "activation", "layer": "b", "mean": None, "dead": None},
    {"step": 9, "epoch": 1, "kind": "activation", "layer": "a", "mean": 6.0, "dead": 0.0},
]


@pytest.fixture
def by_hand(tmp_path):
    (tmp_path / "statistics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in BY_HAND))
    (tmp_path / "metrics.csv").write_text("epoch,loss,val_loss\n1,0.5,0.25\n2,nan,0.125\n")
    (tmp_path / "summary.json").write_text('{"metrics": {"test": {"loss": 8.0, "accuracy": null}}}')
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"over_steps": "first"}, -1.0),
        ({"over_steps": "first", "transform": "absolute"}, 3.0),  # each number first, the mean then
        ({"over_steps": "first", "over_layers": "first"}, -4.0),  # the model's order, not the alphabet's
        ({"over_steps": "first", "over_layers": "last"}, 2.0),
        ({"over_steps": "first", "over_layers": "max", "transform": "negative"}, 4.0),
        ({"layers": ("a",), "over_steps": "mean"}, 3.0),
        ({"layers": ("a",), "over_steps": "max"}, 6.0),
        ({"layers": ("a",), "over_steps": "min"}, 1.0),
        ({"layers": ("a",), "transform": "log2", "over_steps": "first"}, 1.0),
        ({"layers": ("a", "b"), "over_layers": "median", "epoch": 2, "over_steps": "first"}, 4.5),
        ({"layers": ("[ab]",), "over_steps": "first", "over_layers": "min"}, -4.0),
        ({}, math.nan),  # b was lost at the last step
        ({"over_steps": "max"}, math.nan),
        ({"over_layers": "last"}, 6.0),
        ({"layers": ("b",), "over_steps": "first", "transform": "log10"}, math.nan),
        ({"statistic": "activation.dead", "over_steps": "first"}, 0.5),  # b never has dead units
        ({"statistic": "weight.norm", "layers": ("b",)}, 3.0),  # a layer's name stands for its weights
        ({"statistic": "step.loss"}, 2.0),
    ],
)
def test_layers_and_steps(by_hand, asked, expected):
    found = value(Measurement(**{"statistic": "activation.mean", **asked}), by_hand, {})
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"metric": "test.loss", "transform": "log2"}, 3.0),
        ({"metric": "test.accuracy"}, math.nan),
        ({"metric": "loss"}, math.nan),
        ({"metric": "loss", "epoch": 1}, 0.5),
        ({"metric": "val_loss"}, 0.125),
        ({"probe": "a.rate", "transform": "negative"}, -2.0),
        ({"probe": "a.none"}, math.nan),
    ],
)
def test_metrics_and_probes(by_hand, asked, expected):
    found = value(Measurement(**asked), by_hand, {"a": {"rate": 2.0, "none": math.nan}})
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"metric": "test.auroc"}, "summary.json: test.auroc must be there. There is: test.loss, test.accuracy."),
        ({"metric": "val_accuracy"}, "metrics.csv: val_accuracy must be there. There is: epoch, loss, val_loss."),
        ({"metric": "loss", "epoch": 3}, "metrics.csv: epoch 3 must be there. There is: 1, 2."),
        ({"statistic": "drift.mean_shift"}, "statistics.jsonl: drift.mean_shift must be there. There is: step,"),
        ({"statistic": "activation.mean", "layers": ("c",)}, "of layers [['c']]+ must be there. There is: a, b."),
        ({"statistic": "activation.mean", "where": {"type": "ReLU"}}, "of type: 'ReLU' must be there."),
        ({"probe": "a.speed"}, "the cell's probes: a.speed must be there. There is: a.rate."),
    ],
)
def test_what_is_not_there_is_said(by_hand, asked, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.").replace("[['c']]+", r"\['c'\]")):
        value(Measurement(**asked), by_hand, {"a": {"rate": 2.0}})


def test_without_diagnostics_there_is_nothing(tmp_path):
    with pytest.raises(UserError, match=r"statistics\.jsonl: step\.loss must be there\. There is: nothing\."):
        value(Measurement(statistic="step.loss"), tmp_path, {})


# Before training -----------------------------------------------------------------------------------------------------

RECIPE = loading.load("images/digits_adaptive", {"diagnostics": {"every": 10}, "train.epochs": 4}).recipe
PROBE = {"rate": PROBES["stable_learning_rate"].options(type="stable_learning_rate")}


@pytest.mark.parametrize(
    "asked",
    [
        {"metric": "test.accuracy"},
        {"metric": "train.loss"},
        {"metric": "val_accuracy", "epoch": 4},
        {"metric": "learning_rate"},
        {"metric": "test.loss", "layers": None, "over_steps": "last", "where": {}},  # what a written study says
        {"statistic": "drift.mean_shift", "where": {"reference": "start"}},
        {"statistic": "gate.batch_weight", "layers": ("stage1*",)},
        {"statistic": "step.loss", "epoch": 1},
        {"probe": "rate.log2_rate"},
    ],
)
def test_what_a_run_will_have(asked):
    assert check(Measurement(**asked), RECIPE, PROBE) == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"metric": "test.acuracy"}, "Received: test.acuracy. Did you mean 'test.accuracy'?"),
        ({"metric": "test.dice"}, "train.metrics lists what is measured"),
        ({"metric": "tset.accuracy"}, "Did you mean 'test'?"),
        ({"metric": "test.accuracy", "epoch": 1}, "epoch goes with a column of metrics.csv"),
        ({"metric": "val_accuracy", "epoch": 5}, "train.epochs 4. Received: 5"),
        ({"metric": "val_accuracy", "layers": ("a",)}, "layers: for statistics only"),
        ({"statistic": "drfit.mean_shift"}, "Did you mean 'drift'?"),
        ({"statistic": "drift.mean_shfit"}, "Did you mean 'mean_shift'?"),
        ({"statistic": "drift.mean_shift", "where": {"refrence": "start"}}, "Did you mean 'reference'?"),
        ({"statistic": "step.loss", "layers": ("a",)}, "step is of the whole model"),
        ({"statistic": "curvature.largest"}, "needs diagnostics.deep_every"),
        ({"statistic": "covariate_shift.cosine"}, "covariate shift needs diagnostics.deep_every"),
        ({"probe": "raet.rate"}, "Did you mean 'rate'?"),
        ({"probe": "rate.raet"}, "Did you mean 'rate'?"),
        ({"probe": "rate.rate", "epoch": 1}, "probes are measured behind the training"),
    ],
)
def test_mistakes_are_seen_before_training(asked, message):
    (found,) = check(Measurement(**asked), RECIPE, PROBE)
    assert message in found


@pytest.mark.parametrize(
    ("overrides", "asked", "message"),
    [
        ({"diagnostics": None}, {"statistic": "step.loss"}, "statistics need diagnostics"),
        ({"norm": {"type": "layer"}}, {"statistic": "gate.prior"}, "gate is of norm.type adaptive. Received: layer"),
        ({"data.test": 0.0}, {"metric": "test.loss"}, "needs a test split"),
        (
            {"data.validation": 0.0, "train.keep": "last"},
            {"metric": "val_loss"},
            "val_loss needs a validation split. Received: data.validation 0",
        ),
        ({"model.activation": "gelu"}, {"probe": "relu.relu_mean"}, "needs model.activation relu. Received: gelu"),
    ],
)
def test_what_the_recipe_rules_out(overrides, asked, message):
    recipe = loading.load("images/digits_adaptive", {"diagnostics": {"every": 10}} | overrides).recipe
    probes = {"relu": PROBES["relu_shift"].options(type="relu_shift")}
    (found,) = check(Measurement(**asked), recipe, probes)
    assert message in found
