"""Warnings: each fires where it should and is silent beside it."""

import pytest

from nrm_keras.recipe import catalog
from nrm_keras.recipe.lints import LINTS, lints
from nrm_keras.recipe.loading import load, load_with_variants
from tests.recipe.conftest import COMPLETE

FIRES = {
    "tiny_batch": [
        ["data.batch_size=2"],
        ["data.batch_size=32", "norm.virtual_batch_size=2"],
        ["data.batch_size=4", "train.replicas=2", "train.strategy=mirrored", "norm.synchronized=false"],
    ],
    "noisy_share": [["norm.type=switchable", "data.batch_size=1"], ["norm.type=switchable", "data.batch_size=2"]],
    "closed_gate": [["norm.type=adaptive", "data.batch_size=1"]],
    "dropout_before_batch": [
        ["model.dropout=0.1"],
        ["model.dropout=0.1", "norm.type=adaptive"],
        ["model.dropout=0.1", "norm.type=switchable"],
        ["model={type: residual_mlp, dropout: 0.1}"],
    ],
    "coupled_decay": [["optimizer.weight_decay=5e-4"], ["optimizer.weight_decay=1e-4"]],
    "idle_decay": [
        ["optimizer.decay_normalizers=true", "optimizer.weight_decay=0"],
        ["optimizer={type: adam, decay_normalizers: true}"],
    ],
    "double_decay": [["optimizer.weight_decay=5e-3", "optimizer.l2=5e-4"]],
    "flipped_digits": [["data.augment=[crop, flip]"]],
    "idle_patience": [["train.epochs=10", "callbacks=[{type: early_stopping, patience: 10}]"]],
}
SILENT = [
    [],
    ["data.batch_size=3"],
    ["data.batch_size=2", "norm.type=layer"],
    ["data.batch_size=4", "train.replicas=2", "train.strategy=mirrored"],
    ["norm.type=adaptive", "data.batch_size=2"],
    ["norm.type=switchable", "data.batch_size=3"],
    ["model.dropout=0.1", "norm.type=layer"],
    ["model.dropout=0.1", "model.units=[8]"],
    ["model={type: residual_mlp, dropout: 0.1}", "norm.type=layer"],
    ["optimizer.weight_decay=5e-3"],
    ["optimizer.weight_decay=5e-4", "optimizer.momentum=0"],
    ["optimizer={type: adamw, weight_decay: 5e-4}"],
    ["optimizer={type: adamw, decay_normalizers: true}"],
    ["optimizer={type: sgd, l2: 5e-4, decay_normalizers: true}"],
    ["optimizer={type: adam, l2: 5e-4, decay_normalizers: true}"],
    ["data.augment=[crop]"],
    ["callbacks=[{type: early_stopping, patience: 9}, {type: terminate_on_nan}]"],
]


def test_every_lint_has_a_case():
    assert {lint.__name__ for lint in LINTS} == set(FIRES)


@pytest.mark.parametrize(("name", "overrides"), [(name, case) for name, cases in FIRES.items() for case in cases])
def test_lints_that_fire(write, name, overrides):
    loaded = load(write(COMPLETE), overrides)
    assert [lint.__name__ for lint in LINTS if list(lint(loaded.recipe))] == [name]
    (line,) = lints(loaded)
    assert line.startswith(("command line: ", "x.yaml:")) and ": warning: " in line


@pytest.mark.parametrize("overrides", SILENT)
def test_lints_that_are_silent(write, overrides):
    assert lints(load(write(COMPLETE), overrides)) == []


def test_lints_name_the_line(write):
    text = COMPLETE.replace("{type: sgd}", "{type: sgd, weight_decay: 5e-4}")
    (line,) = lints(load(write(text)))
    assert line.startswith("x.yaml:4: optimizer.weight_decay: warning: 0.0005 looks like")


# what batches of one and two do to these normalizers is what these variants are there to show
ON_PURPOSE = {"medical/brain@batch", "medical/tissue@batch", "medical/brain_3d@batch", "medical/brain_3d@adaptive"}


@pytest.mark.parametrize("name", catalog.names())
def test_shipped_recipes_have_no_warnings(name):
    assert {loaded.name for loaded in load_with_variants(name) if lints(loaded)} <= ON_PURPOSE
