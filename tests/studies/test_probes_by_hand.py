"""What probes compute, on models and numbers of which it is known: by hand, in closed form, or planted."""

from __future__ import annotations

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from nrm_keras import layers, models
from nrm_keras.studies.probes import (
    active_units,
    channel_groups,
    corruption,
    curvature,
    insulation,
    relu_shift,
    stable_learning_rate,
)
from nrm_keras.studies.probes.corruptions import CORRUPTIONS, corrupt


class Given:
    """A model and data of one's own, as a probe takes them."""

    def __init__(self, model, x, y=None, task="regression"):
        self._model = model
        self._batch = tuple(tf.convert_to_tensor(a) for a in (x, y) if a is not None)
        optimizer = SimpleNamespace(learning_rate=0.1)
        self.recipe = SimpleNamespace(task=task, train=SimpleNamespace(seed=0), optimizer=optimizer)

    def model_at(self, at):
        return self._model

    def fresh_model(self):
        return self._model

    def batch(self, count):
        return self._batch

    def batches(self, epoch):
        return [self._batch]


def test_relu_of_known_distributions():
    rng = np.random.default_rng(0)
    normal = 5 + 3 * rng.normal(size=(200_000, 4))
    assert relu_shift.relu_mean(normal) == pytest.approx(1 / math.sqrt(2 * math.pi), abs=2e-3)
    standard = np.maximum(rng.normal(size=(200_000, 4)), 0)
    assert relu_shift.mean_over_sd(standard) == pytest.approx(0.398942 / math.sqrt(0.340845), rel=5e-3)
    # E max(X - 1, 0) of an exponential X is 1/e: what is not Gaussian has another mean
    assert relu_shift.relu_mean(rng.exponential(size=(200_000, 4))) == pytest.approx(math.exp(-1), abs=2e-3)
    dead = np.c_[standard, np.zeros(len(standard))]
    assert relu_shift.mean_over_sd(dead) == relu_shift.mean_over_sd(standard)
    assert math.isnan(relu_shift.relu_mean(np.zeros((10, 2))))


def test_active_units_of_a_known_net():
    """Two ReLU layers, the second 3 times the first; a quarter of the units dead."""
    x = np.abs(np.random.default_rng(0).normal(size=(50, 4))).astype("float32")
    inputs = keras.Input((4,))
    h = keras.layers.Activation("relu")(keras.layers.Dense(4, name="a")(inputs))
    h = keras.layers.Activation("relu")(keras.layers.Dense(4, name="b")(h))
    model = keras.Model(inputs, keras.layers.Dense(1)(h))
    model.compile("sgd", "mse")
    model.get_layer("a").set_weights([np.eye(4), np.array([0, 0, 0, -1e3])])
    model.get_layer("b").set_weights([3 * np.eye(4), np.zeros(4)])
    found = active_units.measure(Given(model, x, np.ones((50, 1), "float32")), at="end", examples=50)
    assert found["active"] == found["active_first"] == found["active_last"] == 0.75
    assert found["dead"] == 0.25
    # of the dead unit no gradient comes through the second layer, but it has one at its own output
    kernel = model.layers[-1].kernel.numpy().ravel()
    assert found["gradient_ratio"] == pytest.approx(3 * np.linalg.norm(kernel[:3]) / np.linalg.norm(kernel), rel=1e-5)


def test_a_penalty_on_beta_is_no_error_signal():
    x = np.random.default_rng(0).normal(size=(30, 3)).astype("float32")

    def error(**options):
        inputs = keras.Input((3,))
        h = keras.layers.Dense(4)(inputs)
        h = keras.layers.BatchNormalization(beta_initializer="ones", **options)(h)
        model = keras.Model(inputs, keras.layers.Dense(1)(h))
        model.compile("sgd", "mse")
        one = Given(model, x, np.ones((30, 1), "float32"))
        return insulation.measure(one, "end", 30, 0.1)["beta_gradient_error"]

    assert error() < 1e-5
    assert error(beta_regularizer=keras.regularizers.L2(1.0)) > 0.1


def test_padding_does_not_count():
    rng = np.random.default_rng(0)
    tokens = np.where(np.arange(9) < rng.integers(1, 9, size=(20, 1)), rng.integers(1, 30, size=(20, 9)), 0)
    x = keras.Input((9,), dtype="int32")
    h = models.gru(x, lambda name: layers.BatchNormalization(name=name), vocabulary=30, length=9, width=8, depth=1)
    model = keras.Model(x, keras.layers.Dense(1)(h))
    model.compile("sgd", "mse")
    found = insulation.measure(Given(model, tokens.astype("int32"), np.zeros((20, 1))), "end", 20, 0.1)
    assert found["mean_minus_beta"] < 1e-5 and found["mean_minus_beta_disturbed"] < 1e-5


def linear_model(features):
    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].set_weights([np.zeros((features, 1))])
    model.compile("sgd", "mse")
    return model


def test_curvature_of_least_squares():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(40, 12)) * np.arange(1, 13)).astype("float32")
    y = rng.normal(size=(40, 1)).astype("float32")
    found = curvature.measure(Given(linear_model(12), x, y), "end", 40, products=12, learning_rate=1e-3)
    hessian = 2 / 40 * x.T.astype("float64") @ x
    values = np.linalg.eigvalsh(hessian)[::-1]
    gradient = -2 / 40 * x.T.astype("float64") @ y
    assert found["largest"] == pytest.approx(values[0], rel=1e-4)
    assert found["smallest"] == pytest.approx(values[-1], rel=1e-2)
    assert found["first_to_fifth"] == pytest.approx(values[0] / values[4], rel=1e-3)
    ratio = np.linalg.norm(hessian @ gradient) / np.linalg.norm(gradient)
    assert found["effective_beta"] == pytest.approx(ratio, rel=1e-2)
    assert found["loss"] == pytest.approx(np.mean(y.astype("float64") ** 2), rel=1e-5)


@pytest.mark.parametrize("start", [0.05, 0.4, 6.4])
def test_the_stable_rate_of_least_squares_is_below_two_over_lambda(start):
    x = np.array([[1.0], [-1.0], [math.sqrt(3)], [-math.sqrt(3)]], "float32")  # lambda = 2 mean(x^2) = 4
    found = stable_learning_rate.measure(
        Given(linear_model(1), x, 3 * x), 40, start, 2.0, lowest=1e-3, highest=1e3, optimizer="sgd"
    )
    assert found["rate"] == pytest.approx(0.4)  # of 0.4 and 0.8 only the first is below 2 / 4
    assert found["log2_rate"] == pytest.approx(math.log2(0.4))
    assert found["at_limit"] == 0


def test_a_net_that_answers_the_same_to_everything_has_not_learned():
    """Its loss falls from a bad start and stays finite, at any rate."""
    x = np.zeros((8, 1), "float32")
    y = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.layers[-1].set_weights([np.zeros((1, 2)), np.array([-5.0, 5.0])])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    one = Given(model, x, y, task="classification")
    training = stable_learning_rate.Training(one, 40, "sgd")
    assert training._constant == pytest.approx(scipy.stats.entropy([6, 2]), rel=1e-5)
    losses = training.losses(0.5)
    assert np.isfinite(losses).all() and losses[-1] < losses[0] / 2
    assert not training.is_stable(0.5)


def test_the_search_ends_at_its_limits():
    search = stable_learning_rate.search
    assert search(lambda rate: True, 0.1, 2.0, 1e-3, 1.0) == (0.8, True)
    rate, at_limit = search(lambda rate: False, 0.1, 2.0, 1e-3, 1.0)
    assert math.isnan(rate) and not at_limit
    assert search(lambda rate: rate < 0.02, 0.1, 10.0, 1e-3, 1.0) == (0.01, False)


def test_planted_groups_are_seen_and_random_ones_are_not():
    rng = np.random.default_rng(0)
    planted = [np.repeat(rng.normal(size=4), 4) + 0.3 * rng.normal(size=16) for _ in range(3)]
    excess, z, p = channel_groups.between_groups(planted, 4, 500, rng)
    assert z > 4 and p == pytest.approx(1 / 501)
    # between random groups lies (groups - 1) / (channels - 1) of the variance
    share = np.mean([v.reshape(4, 4).mean(1).var() / v.var() for v in planted])
    assert excess == pytest.approx(share - 3 / 15, abs=0.02)
    p_values = [channel_groups.between_groups([rng.normal(size=16)], 4, 100, rng)[2] for _ in range(200)]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3
    assert all(map(math.isnan, channel_groups.between_groups([np.ones(8)], 4, 50, rng)))


def test_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.3, 0.7], [0.62, 0.38]])
    labels = np.array([0, 1, 1, 1])
    # bins: {0.95, 0.95} right 1 of 2, {0.7} right, {0.62} wrong; 0.62 and 0.7 are in neighbouring fifteenths
    expected = (2 * abs(0.5 - 0.95) + abs(1 - 0.7) + abs(0 - 0.62)) / 4
    assert corruption.calibration_error(np.log(probabilities), labels) == pytest.approx(expected)


def test_calibration_error_of_honest_probabilities_is_small():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=100_000)
    labels = (rng.uniform(size=p.size) < p).astype(int)
    logits = np.log(np.c_[1 - p, p])
    assert corruption.calibration_error(logits, labels) < 0.01
    assert corruption.calibration_error(3 * logits, labels) > 0.05


def test_corruptions_do_what_they_say():
    rng = np.random.default_rng(0)
    images = rng.integers(60, 190, size=(50, 8, 8, 1)).astype("uint8")
    plain = images.astype("float64")
    assert np.array_equal(corrupt(images, {}, rng), plain)
    found = {name: corrupt(images, {name: 0.25}, np.random.default_rng(1)) for name in CORRUPTIONS}
    assert (found["noise"] - plain).std() == pytest.approx(0.25 * 255, rel=0.1)
    assert found["contrast"].std((1, 2, 3)) == pytest.approx(0.75 * plain.std((1, 2, 3)), rel=0.02)
    assert found["contrast"].mean((1, 2, 3)) == pytest.approx(plain.mean((1, 2, 3)), abs=0.5)
    np.testing.assert_allclose(found["darker"], 0.75 * plain, atol=0.5)
    inverted = (found["inverted"] == 255 - plain).all((1, 2, 3))
    assert (found["inverted"][~inverted] == plain[~inverted]).all() and 3 <= inverted.sum() <= 25
    blurred = corrupt(images, {"blur": 2.0}, rng)
    assert blurred.std((1, 2, 3)).max() < 0.5 * plain.std((1, 2, 3)).min()
    assert blurred.mean() == pytest.approx(plain.mean(), rel=0.05)
    assert np.array_equal(
        corrupt(images, {"noise": 0.1}, np.random.default_rng(3)),
        corrupt(images, {"noise": 0.1}, np.random.default_rng(3)),
    )
