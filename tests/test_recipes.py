"""Every shipped recipe and every one of its variants trains for two steps; small ones train for real."""

import pytest

import nrm_keras
from nrm_keras.data import sources
from nrm_keras.data.packages import PackagedSource
from nrm_keras.recipe import catalog, loading


def _unlike():
    """Every recipe, and its variants but for those that another recipe has too: on other data, but else the same."""
    first = {}
    for name in catalog.names():
        for loaded in loading.load_with_variants(name):
            all_but_data = loaded.recipe.model_copy(update={"data": None, "title": ""})
            if first.setdefault(repr(all_but_data), name) == name or loaded.name == name:
                yield loaded.name


@pytest.mark.parametrize("name", _unlike())
def test_smoke(name, tmp_path):
    """On random data of the same shape where the data is not on this machine."""
    said = []
    run = nrm_keras.run(name, _unwatched(name), out=tmp_path, smoke=True, say=said.append)
    summary = run.summary
    assert summary["status"] == "finished" and summary["smoke"] and summary["steps"] == 2
    assert set(summary["metrics"]) == {"train", "validation", "test"}
    assert (run.path / "report.html").stat().st_size > 10_000
    assert run.load().count_params() == summary["parameters"]
    assert any(line.startswith("Test: ") and "nan" not in line for line in said)


def _unwatched(variant):
    """Overrides for a variant that is watched as its recipe is: that is tried there, and takes longer than the training."""
    own, recipe = (loading.load(name).recipe.diagnostics for name in (variant, variant.partition("@")[0]))
    return {"diagnostics": None} if "@" in variant and own is not None and own == recipe else {}


# what a fraction of the shipped training reaches; the whole of it is in RESULTS.md (digits: training/test_results.py)
FLOORS = {
    "images/mnist_5k": ("accuracy", 0.93, {"train.epochs": 4}),
    "medical/breast_cancer": ("accuracy", 0.93, {}),
    "genomics/pbmc68k": ("accuracy", 0.75, {}),
    "text/spam": ("accuracy", 0.9, {"train.epochs": 1, "data.length": 64}),
    "medical/brain": ("dice", 0.85, {"train.epochs": 2, "data.downsample": 2}),
    "physics/nuclei": ("r2", 0.9, {"train.epochs": 10}),
}


@pytest.mark.parametrize("name", FLOORS)
def test_small_recipes_learn(name, real_data, tmp_path):
    metric, floor, overrides = FLOORS[name]
    real_data(loading.load(name).recipe.data)
    run = nrm_keras.run(name, overrides, out=tmp_path, say=lambda line: None)
    assert run.summary["metrics"]["test"][metric] > floor


@pytest.mark.parametrize("name", catalog.names())
def test_header(name):
    """Every recipe says what it is, where from, what to expect, and the command."""
    head = (catalog.root() / f"{name}.yaml").read_text("utf-8").partition("\nextends:")[0]
    lines = head.splitlines()
    assert all(line.startswith("# ") for line in lines)
    assert any(line.startswith("# From: ") for line in lines) and any(line.startswith("# Expected: ") for line in lines)
    commands = [line for line in lines if "python -m nrm_keras run" in line]
    assert len(commands) == 1 and f"run {name}" in commands[0]
    source = sources.SOURCES[loading.load(name).recipe.data.source]
    if issubclass(source, PackagedSource):
        assert f"data prepare {source.name} && " in commands[0]
