"""Whether the corpus is what it says. Nothing is trained here; `harm.py` measures what the faults do."""

import inspect
from collections import Counter

import keras
import numpy as np
import pytest

from tests.faults.programs import HELD_OUT, PROGRAMS, half

BY_NAME = {program.name: program for program in PROGRAMS}
FAULTY = [program for program in PROGRAMS if program.fault]
HEALTHY = [program for program in PROGRAMS if not program.fault]
FAMILIES = {"mlp", "cnn", "recurrent", "transformer"}
ALONE = [program for program in HEALTHY if program.name not in {faulty.twin for faulty in FAULTY}]


@pytest.fixture(scope="module")
def runs():
    return {program.name: program.build(0) for program in PROGRAMS}


def layers(run):
    """Names of the model's layers and of those in its submodels; what Keras' layers are made of has no names of ours."""
    models = [run.model, *(layer for layer in run.model.layers if isinstance(layer, keras.Model))]
    return [layer.name for model in models for layer in model.layers]


def test_names_are_unique_and_enough():
    assert len(BY_NAME) == len(PROGRAMS)
    assert len(FAULTY) >= 24 and len(HEALTHY) >= 24
    assert {program.family for program in PROGRAMS} == FAMILIES


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_each_family_has_faults_of_many_kinds(family):
    assert len({program.fault for program in FAULTY if program.family == family}) >= 9


def test_kinds_of_faults():
    assert len({program.fault for program in FAULTY}) >= 20


@pytest.mark.parametrize("program", FAULTY, ids=lambda program: program.name)
def test_twin_differs_by_one_argument(program):
    twin = BY_NAME[program.twin]
    ((name, value),) = program.planted.items()
    assert twin.fault is None and twin.family == program.family and twin.function is program.function
    assert not twin.planted and inspect.signature(program.function).parameters[name].default != value


def test_twins_are_distinct():
    assert len({program.twin for program in FAULTY}) == len(FAULTY)


def test_names_of_layers_are_unique_in_a_model(runs):
    for name, run in runs.items():
        assert len(set(layers(run))) == len(layers(run)), name


def test_every_layer_of_a_program_without_partner_is_named(runs):
    # Keras counts layers that got no name, so a second model would have other names. Twins are compared below.
    for program in ALONE:
        assert layers(program.build(0)) == layers(runs[program.name]), program.name


def test_layers_at_fault_exist(runs):
    for program in PROGRAMS:
        assert set(program.layers) <= set(layers(runs[program.name])), program.name
        assert program.layer == (program.layers[0] if program.layers else None)
        assert program.fault or not program.layers


def test_twins_have_the_same_layers(runs):
    for program in FAULTY:
        own, twins = set(layers(runs[program.name])), set(layers(runs[program.twin]))
        if program.fault == "missing normalization":
            assert own < twins and all("norm" in name for name in twins - own), program.name
        else:
            assert own == twins, program.name


def test_runs_are_compiled_and_have_validation_data(runs):
    for name, run in runs.items():
        assert run.model.compiled and run.model.built and len(run.validation) == 2, name
        assert run.epochs >= 1 and run.batch_size >= 2, name


@pytest.mark.parametrize("name", ["mlp_zeros", "cnn_subclassed", "rnn_labels_faulty", "tf_clipping"])
def test_a_seed_repeats_weights_and_order_and_another_does_not(name):
    first, same, other = (BY_NAME[name].build(seed) for seed in (5, 5, 6))
    assert all(map(np.array_equal, first.model.get_weights(), same.model.get_weights()))
    assert not all(map(np.array_equal, first.model.get_weights(), other.model.get_weights()))

    batches = [[x.numpy() for x, _ in run.train.take(2)] for run in (first, same, other)]
    assert all(map(np.array_equal, batches[0], batches[1]))
    assert not all(map(np.array_equal, batches[0], batches[2]))


def test_halves_are_balanced():
    assert set(BY_NAME) >= HELD_OUT and not any(BY_NAME[name].fault for name in HELD_OUT)
    held_out = [program for program in FAULTY if half(program) == "held out"]
    for property_ in ("family", "fault"):
        total, part = (Counter(getattr(program, property_) for program in some) for some in (FAULTY, held_out))
        assert all(abs(2 * part[key] - count) <= 1 for key, count in total.items()), property_
    assert abs(2 * len(held_out) - len(FAULTY)) <= 1
    assert abs(2 * sum(half(program) == "held out" for program in ALONE) - len(ALONE)) <= 1


def test_a_pair_is_in_one_half():
    assert all(half(program) == half(BY_NAME[program.twin]) for program in FAULTY)
