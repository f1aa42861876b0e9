"""Units against loops over plain arrays, and against what Keras' layers really do."""

import functools

import keras
import numpy as np
import pytest

from nrm_keras.diagnostics import units

L = keras.layers
KINDS = [
    (lambda: L.ReLU(), "relu"),
    (lambda: L.ReLU(max_value=6), "relu"),
    (lambda: L.ReLU(negative_slope=0.1), "leaky_relu"),
    (lambda: L.LeakyReLU(), "leaky_relu"),
    (lambda: L.PReLU(), "leaky_relu"),
    (lambda: L.ELU(), "elu"),
    (lambda: L.Softmax(), "softmax"),
    (lambda: L.Activation("relu6"), "relu6"),
    (lambda: L.Activation("swish"), "silu"),
    (lambda: L.Activation("linear"), None),
    (lambda: L.Activation(L.LeakyReLU()), "leaky_relu"),
    (lambda: L.Dense(2, activation="sigmoid"), "sigmoid"),
    (lambda: L.Dense(2, activation=keras.ops.relu), "relu"),
    (lambda: L.Dense(2, activation=functools.partial(keras.activations.relu, negative_slope=0.1)), None),
    (lambda: L.Dense(2, activation=lambda x: x * x), None),
    (lambda: L.Dense(2), None),
    (lambda: L.Conv2D(2, 3, activation="gelu"), "gelu"),
    (lambda: L.LSTM(2), "tanh"),
    (lambda: L.GRU(2, activation="relu"), "relu"),
    (lambda: L.SimpleRNN(2), "tanh"),
    (lambda: L.RNN(L.GRUCell(2)), "tanh"),
    (lambda: L.Bidirectional(L.LSTM(2)), "tanh"),
    (lambda: L.TimeDistributed(L.Dense(2, activation="relu")), "relu"),
    (lambda: L.BatchNormalization(), None),
    (lambda: L.Dropout(0.5), None),
]


@pytest.mark.parametrize("make, kind", KINDS)
def test_the_kind_of_activation(make, kind):
    assert units.activation_kind(make()) == kind


@pytest.mark.parametrize("name", sorted(units.CAN_DIE))
def test_what_can_die_is_zero_with_gradient_zero_far_on_the_left(name):
    assert np.all(keras.ops.convert_to_numpy(keras.activations.get(name)(np.array([-9.0, -50.0]))) == 0)


@pytest.mark.parametrize("name", ["leaky_relu", "elu", "selu", "celu", "gelu", "silu", "softplus", "mish"])
def test_what_keeps_a_gradient_cannot_die(name):
    assert not units.dead(np.array([-1.0]), name).any()
    x = keras.ops.convert_to_tensor(np.array([-3.0, -3.001]))
    low, high = keras.ops.convert_to_numpy(keras.activations.get(name)(x))
    assert low != high


@pytest.mark.parametrize("name", sorted(units.BOUNDS))
def test_the_bounds_are_those_of_the_activation(name):
    ends = keras.ops.convert_to_numpy(keras.activations.get(name)(np.array([-1e4, 1e4], "float32")))
    np.testing.assert_allclose(ends, units.BOUNDS[name], atol=2e-4)


def test_dead_is_not_the_share_of_zeros():
    x = np.random.default_rng(0).normal(size=(64, 5, 5, 8))
    x[..., 3] -= 100.0
    y = np.maximum(x, 0.0)
    assert np.mean(y == 0) > 0.5
    assert units.dead(y.max((0, 1, 2)), "relu").tolist() == [c == 3 for c in range(8)]


def test_more_examples_never_make_more_units_dead():
    x = np.maximum(np.random.default_rng(0).normal(size=(60, 20)) - np.linspace(0.0, 4.0, 20), 0.0)
    maximum, before = np.full(20, -np.inf), np.ones(20, bool)
    for n, batch in enumerate(np.split(x, 12), 1):
        maximum = np.maximum(maximum, batch.max(0))
        now = units.dead(maximum, "relu")
        assert now.tolist() == [all(value <= 0 for value in x[: 5 * n, c]) for c in range(20)]
        assert not np.any(now & ~before)
        before = now
    assert 0 < before.sum() < 20


def test_nothing_is_said_without_examples_or_with_nan():
    assert not units.dead(np.full(3, -np.inf), "relu").any()
    assert units.dead(np.array([0.0, np.nan, 0.0]), "relu").tolist() == [True, False, True]


def test_saturation_of_known_values():
    y = np.array([[0.991, 0.5, -0.991, 0.99], [0.989, -0.995, np.nan, -0.99]])
    assert units.saturated(y, "tanh").tolist() == [0.5, 0.5, 1.0, 0.0]
    y = np.array([[0.009, 0.5, 0.991, np.inf], [0.011, 0.5, 0.989, np.nan]])
    assert units.saturated(y, "sigmoid").tolist() == [0.5, 0.0, 0.5, 0.0]
    assert units.saturated(y, "relu").tolist() == [0.0] * 4
    assert units.saturated(y.T, "sigmoid", axis=0).tolist() == [0.5, 0.0, 0.5, 0.0]


def test_saturation_of_a_wide_gaussian():
    """P(|tanh x| > 0.99) for x ~ N(0, 9) is P(|z| > artanh(0.99) / 3) = 0.3777."""
    y = np.tanh(3 * np.random.default_rng(0).normal(size=(100_000, 1)))
    assert abs(units.saturated(y, "tanh")[0] - 0.3777) < 4 * np.sqrt(0.3777 * 0.6223 / 100_000)


def test_percentiles_of_a_gaussian_and_of_nothing():
    x = np.random.default_rng(0).normal(size=(1000, 100))
    x[0, :3] = np.nan, np.inf, -np.inf
    np.testing.assert_allclose(units.percentiles(x), [-1.036433, 0.0, 1.036433], atol=0.02)
    assert np.isnan(units.percentiles([np.nan])).all()
