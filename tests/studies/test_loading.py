"""What a study's file may not say, and where messages say it stands."""

import subprocess
import sys
import time

import pytest

from nrm_keras.errors import UserError
from nrm_keras.recipe import catalog
from nrm_keras.studies import loading


def refusal(name, **options):
    with pytest.raises(UserError) as caught:
        loading.load(name, **options)
    return str(caught.value)


CLAIM = {"statement": "s", "measurement": "error", "compare": {"norm": "batch"}, "expect": "less", "smallest_effect": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "titel: unknown key. Did you mean 'title'?"),
        ({"seeds": []}, "seeds: must be a list of at least 1"),
        ({"seeds": [0, 1, 1]}, "seeds: a seed pairs cells once. Received: 1 twice."),
        ({"recipe": "images/digits"}, "recipe: no recipe is called 'images/digits'."),
        ({"overrides": {"train": {"epocs": 1}}}, "train.epocs: unknown key. Did you mean 'epochs'?"),
        ({"overrides": {"train": {"seed": 1}}}, "train.seed: 'seeds' says which seeds are trained."),
        ({"overrides": {"train": {"strategy": "mirrored"}}}, "a cell is trained on one device"),
        ({"grid": {"norm": {"batch": {"norm": {"momentum": 2}}}}}, "norm.momentum: must be"),
        ({"grid": {"norm": {"a b": {}}}}, "have letters, digits, _ . + - only. Received: 'a b'."),
        ({"grid": {"measurement": {"a": {}}}}, "'measurement' has a meaning of its own"),
        ({"measurements": {"error": {"probe": "p.q"}}}, "exactly one of metric, statistic, probe."),
        ({"measurements": {"error": {"metrc": "x"}}}, "measurements.error.metrc: unknown key. Did you mean 'metric'?"),
        ({"measurements": {"error": {"transform": "complment"}}}, "Did you mean 'complement'?"),
        ({"probes": {"p": {"type": "nothing_like_it"}}}, "probes.p.type: a probe's name is expected."),
        ({"claims": {"alike": {"measurement": "eror"}}}, "no measurement is called 'eror'. Did you mean 'error'?"),
        ({"claims": {"alike": {"compare": {"norn": "batch"}}}}, "no factor 'norn'. Did you mean 'norm'?"),
        ({"claims": {"alike": {"compare": {"norm": "bach"}}}}, "'norm' has no level 'bach'. Did you mean 'batch'?"),
        ({"claims": {"alike": {"to": {"norm": "batch"}}}}, "Name different levels of a factor on both sides."),
        (
            {"claims": {"some": {**CLAIM, "compare": {}, "to": {"norm": "batch"}}}},
            "Name different levels of a factor on both sides.",
        ),
        ({"grid": {"norm": {"None": {}}}}, "differ in more than capitals"),
        ({"seconds_per_cell": 1e308}, "at most 1000000"),
        ({"measurements": {"error": {"metric": None, "statistic": "drift", "transform": "none"}}}, "without a field"),
        ({"claims": {"alike": {"to": {"measurement": "error"}}}}, "compares two measurements"),
        ({"claims": {"alike": {"smallest_effect": 0}}}, "smallest_effect: must be greater than 0"),
        ({"claims": {"alike": {"expect": "same"}}}, "claims.alike.expect: must be one of greater, less, equal"),
        ({"claims": {"alike": {"choose": "lowest"}}}, "no list in to"),
        ({"claims": {"b": {**CLAIM, "to": {"norm": ["none"]}}}}, "a list has different levels, two or more"),
        ({"claims": {"b": {**CLAIM, "to": {"norm": ["none", "batch"]}}}}, "choose: missing"),
        (
            {"claims": {"b": {**CLAIM, "to": {"norm": ["none", "batch"]}, "choose": "lowest", "choose_on": [0, 7]}}},
            "choose_on: must be seeds of the study. Received: 7",
        ),
        (
            {"claims": {"b": {**CLAIM, "to": {"norm": ["none", "batch"]}, "choose": "lowest", "choose_on": [0, 1]}}},
            "at least 2 other seeds must judge. Received: 1.",
        ),
        ({"confidence": 95}, "confidence: must be less than 1"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(write, changes, message):
    lines = refusal(write(changes)).splitlines()
    [line] = [line for line in lines if message in line]
    assert line.startswith("tiny.yaml:")


HAND_WRITTEN = """\
title: Lines
claim: Messages name the line.
source: nobody
recipe: images/digits_adaptive
grid:
  norm:
    batch: {norm: {type: batch}}
    none: {norm: {type: nune}}
seeds: [0, 1, 1]
measurements:
  error: {metric: test.accuracy}
claims:
  one:
    statement: one
    measurement: eror
    compare: {norm: bach}
    to:
      norm: nine
    expect: less
    smallest_effect: 1
"""


def test_lines(write, tmp_path):
    (tmp_path / write(name="x.yaml")).write_text(HAND_WRITTEN)
    places = [line.split(": ")[:2] for line in refusal("x.yaml").splitlines()]
    assert places == [
        ["x.yaml:8", "norm.type"],
        ["x.yaml:9", "seeds"],
        ["x.yaml:15", "claims.one.measurement"],
        ["x.yaml:16", "claims.one.compare.norm"],
        ["x.yaml:18", "claims.one.to.norm"],
    ]


def test_all_mistakes_at_once_in_the_order_of_the_file(write):
    name = write(
        {
            "overrides": {"train": {"epocs": 1}},
            "seeds": [0, 0],
            "measurements": {"error": {"over_layers": "avg"}},
            "claims": {"alike": {"compare": {"norm": "bach"}, "expect": "same"}},
        }
    )
    lines = refusal(name).splitlines()
    assert [any(word in line for line in lines) for word in ("epocs", "0 twice", "'avg'", "'same'")] == [True] * 4
    numbers = [int(line.split(":")[1]) for line in lines]
    assert numbers == sorted(numbers)


def test_a_metric_that_no_run_has(write):
    assert "measurements.error: " in refusal(write({"measurements": {"error": {"metric": "test.acuracy"}}}))


def test_a_statistic_without_diagnostics(write):
    said = refusal(write({"measurements": {"drift": {"statistic": "drift.mean_shift"}}}))
    assert "measurements.drift: " in said and "diagnostics" in said


def test_a_grid_of_a_million_cells_is_refused_at_once_and_none_is_made(write):
    factor = {f"l{number}": {} for number in range(10)}
    name = write({"grid": {f"f{number}": factor for number in range(5)}, "seeds": list(range(5))})
    began = time.monotonic()
    said = refusal(name)
    assert time.monotonic() - began < 2
    assert "at most 10,000 cells. Received: 1,000,000" in said
    assert "Cut levels" in said


def test_more_seeds_may_make_a_grid_too_large(write):
    loaded = loading.load(write())
    with pytest.raises(UserError, match="Received: 20,000"):
        loaded.with_seeds(range(10_000))


def test_cells_with_different_data_are_not_paired(write):
    name = write({"grid": {"norm": {"none": {"data": {"limit": 50}}}}})
    assert "Received: data.limit 100 in norm=batch and 50 in norm=none" in refusal(name)
    other = write({"grid": {"norm": {"none": {"data": {"source": "mnist_5k"}}}}}, "other.yaml")
    assert "Received: data.source 'digits' in norm=batch and 'mnist_5k' in norm=none" in refusal(other)


def test_batch_sizes_and_factors_that_are_averaged_may_have_different_data(write):
    sizes = {"batch": {"data": {"batch_size": 10}}, "none": {"data": {"batch_size": 20}}}
    amounts = {"some": {"data": {"limit": 50}}, "more": {"data": {"limit": 60}}}
    loaded = loading.load(write({"grid": {"norm": sizes, "amount": amounts}}))
    assert len(loaded.cells()) == 12


def test_two_factors_that_name_a_recipe(write):
    level = {"a": {"recipe": "images/digits_adaptive"}}
    assert "two factors name a recipe" in refusal(write({"grid": {"x": level, "y": level}}))


def test_imports_of_a_study_need_permission(write, tmp_path, monkeypatch):
    (tmp_path / "never_imported.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    name = write({"overrides": {"imports": ["never_imported"]}})
    assert "add --allow-imports" in refusal(name)
    assert "never_imported" not in sys.modules
    assert loading.load(name, allow_imports=True).combinations


def test_names_and_paths(write):
    assert loading.load("first_epoch") == loading.load("studies/first_epoch")
    assert "no study is called 'first_epoc'. Did you mean 'first_epoch'?" in refusal("first_epoc")
    assert "no such file" in refusal("none.yaml")
    assert loading.is_study("studies/first_epoch") and loading.is_study(write())
    assert not loading.is_study("images/digits_adaptive") and not loading.is_study("none.yaml")


def test_a_study_is_no_recipe(write):
    from nrm_keras.recipe.loading import load

    assert not any(name.startswith("studies/") for name in catalog.names())
    for name in ("first_epoch", "studies/first_epoch", write()):
        with pytest.raises(UserError, match="not one run. Run it: python -m nrm_keras study"):
            load(name)


@pytest.mark.parametrize("name", catalog.study_names())
def test_shown_studies_load_as_the_equal_one(name, tmp_path):
    loaded = loading.load(name)
    copy = tmp_path / "copy.yaml"
    copy.write_text(loaded.to_yaml())
    again = loading.load(copy)
    assert again.study == loaded.study
    assert [one.loaded.recipe for one in again.combinations] == [one.loaded.recipe for one in loaded.combinations]
    copy.write_text(loaded.to_yaml(origin=True))
    assert loading.load(copy).study == loaded.study


def test_loading_imports_no_tensorflow():
    code = "import sys; from nrm_keras.studies import planning; planning.plan('first_epoch', workers=1);"
    code += "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", catalog.study_names())
def test_header(name):
    """Every study says its claim, whose it is, on what data, what it costs, and the command; and can be judged."""
    head = (catalog.root() / f"{name}.yaml").read_text("utf-8").partition("\ntitle:")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    for word in ("Claim: ", "From: ", "Data: ", "Seeds: ", "Cost: "):
        assert word in head
    assert f"python -m nrm_keras study {name.removeprefix('studies/')}" in head
    study = loading.load(name).study
    assert len(study.seeds) >= 3 and study.seconds_per_cell
