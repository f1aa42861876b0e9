"""Gradient noise against populations whose gradient and covariance are known."""

import keras
import numpy as np
import pytest

from nrm_keras.diagnostics.noise import GradientNoise, measure
from nrm_keras.diagnostics.objective import Objective


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def linear(features, initializer="zeros"):
    x = keras.Input((features,))
    model = keras.Model(x, keras.layers.Dense(1, use_bias=False, kernel_initializer=initializer)(x))
    model.compile(loss="mse")
    return model


def prediction(y, y_pred):
    """A loss whose gradient for one example is its input."""
    return y_pred


def test_both_estimates_are_unbiased_for_known_gradients():
    """g ~ N(G, Sigma) for each example, |G|^2 = 5 and tr Sigma = 30."""
    rng, small, big, count = np.random.default_rng(0), 4, 32, 4000
    mean, deviation = np.array([1.0, 2.0, 0.0]), np.sqrt([5.0, 10.0, 15.0])
    traces, squares = [], []
    for _ in range(count):
        gradients = mean + deviation * rng.normal(size=(big, 3))
        noise = GradientNoise(decay=0.0)
        noise.add(np.sum(gradients[:small].mean(0) ** 2), np.sum(gradients.mean(0) ** 2), small, big)
        traces.append(noise.trace)
        squares.append(noise.squared_norm)
    for values, truth in ((traces, 30.0), (squares, 5.0)):
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / np.sqrt(count)
        assert np.std(values) / np.sqrt(count) < 0.03 * truth


def test_the_averages_are_divided_not_the_quotients_averaged():
    noise = GradientNoise(decay=0.9)
    noise.add(3.0, 1.5, 8, 32)
    noise.add(5.0, 2.75, 8, 32)
    # Steps: S = 16 and 24, |G|^2 = 1 and 2; weights 0.09 and 0.1 of 0.19.
    assert noise.trace == pytest.approx((0.9 * 16 + 24) / 1.9)
    assert noise.squared_norm == pytest.approx((0.9 * 1 + 2) / 1.9)
    assert noise.simple == pytest.approx((0.9 * 16 + 24) / 2.9)


def test_the_scale_without_signal_or_steps():
    noise = GradientNoise()
    assert np.isnan(noise.simple)
    noise.add(np.nan, 1.0, 8, 32)
    assert np.isnan(noise.simple)
    noise.add(4.0, 1.0, 8, 32)
    assert noise.squared_norm == 0 and noise.simple == np.inf


def test_linear_regression_in_closed_form():
    """x ~ N(0, I_p), y = w*'x + s e, at w: G = 2 (w - w*), tr Sigma = 4 ((p + 1) |d|^2 + p s^2) with d = w - w*."""
    rng, p, s = np.random.default_rng(1), 5, 0.5
    target = np.array([1.0, -0.5, 0.25, 0.0, 2.0])
    x = rng.normal(size=(8000, p)).astype("float32")
    y = (x @ target + s * rng.normal(size=8000))[:, None].astype("float32")
    result = measure(linear(p), x, y, micro_batch=8)
    d2 = np.sum(target**2)
    truth = {"squared_norm": 4 * d2, "trace": 4 * ((p + 1) * d2 + p * s**2)}
    truth["simple"] = truth["trace"] / truth["squared_norm"]
    for name, value in truth.items():
        error = getattr(result, f"{name}_error")
        assert abs(getattr(result, name) - value) < 4 * error
        assert error < 0.1 * value
    assert (result.statistics_batch, result.examples) == (8, 8000)


def test_the_standard_errors_are_those_of_repeated_measurements():
    """The input is the gradient: |G|^2 = 1 and tr Sigma = 12."""
    rng, repeats = np.random.default_rng(2), 100
    objective = Objective(linear(3), np.zeros((16, 3), "float32"), np.zeros((16, 1)), loss=prediction)
    results = []
    for _ in range(repeats):
        x = np.array([1.0, 0.0, 0.0]) + 2.0 * rng.normal(size=(16 * 24, 3))
        results.append(measure(objective, x.astype("float32"), np.zeros((16 * 24, 1)), micro_batch=16))
    for name, truth in (("squared_norm", 1.0), ("trace", 12.0)):
        values = np.array([getattr(r, name) for r in results])
        stated = np.sqrt(np.mean([getattr(r, f"{name}_error") ** 2 for r in results]))
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(repeats)
        # The deviation of 100 values is itself known to 7%.
        assert 0.75 < stated / values.std() < 1.33


def test_one_step_of_the_accumulator_is_the_measurement():
    x = np.random.default_rng(3).normal(1.0, 1.0, (60, 4)).astype("float32")
    result = measure(linear(4), x, np.zeros((60, 1)), micro_batch=7, loss=prediction)
    noise = GradientNoise()
    noise.add(result.small_squared_norm, result.big_squared_norm, result.statistics_batch, result.examples)
    assert result.examples == 56
    assert noise.simple == pytest.approx(result.simple) and noise.trace == pytest.approx(result.trace)


def numpy_gradient(weights, x, y):
    """Central differences of the loss of Dense, BatchNormalization, Dense in float64."""

    def loss(flat):
        w, v = flat[:12].reshape(4, 3), flat[12:].reshape(3, 1)
        h = x @ w
        h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-3)
        return np.mean((np.tanh(h) @ v - y) ** 2)

    steps = 1e-5 * np.eye(len(weights))
    return np.array([(loss(weights + step) - loss(weights - step)) / 2e-5 for step in steps])


def test_each_micro_batch_has_its_own_batch_statistics():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(24, 4)).astype("float32"), rng.normal(size=(24, 1)).astype("float32")
    inputs = keras.Input((4,))
    h = keras.layers.Dense(3, use_bias=False)(inputs)
    h = keras.layers.BatchNormalization(center=False, scale=False)(h)
    outputs = keras.layers.Dense(1, use_bias=False)(keras.layers.Activation("tanh")(h))
    model = keras.Model(inputs, outputs)
    model.compile(loss="mse")
    before = [v.numpy() for v in model.variables]
    result = measure(model, x, y, micro_batch=4)

    weights = np.concatenate([v.numpy().ravel() for v in model.trainable_variables]).astype("float64")
    parts = [numpy_gradient(weights, x[i : i + 4], y[i : i + 4]) for i in range(0, 24, 4)]
    mean = np.mean(parts, axis=0)
    # The trace of the sample covariance, and the mean product of two different gradients.
    trace = 4 * np.sum(np.var(parts, axis=0, ddof=1))
    pairs = [parts[i] @ parts[j] for i in range(6) for j in range(6) if i != j]
    assert result.trace == pytest.approx(trace, rel=1e-4)
    assert result.squared_norm == pytest.approx(np.mean(pairs), rel=1e-3, abs=1e-4 * trace)
    assert result.big_squared_norm == pytest.approx(mean @ mean, rel=1e-4)
    # With the whole batch's statistics the gradient is another.
    whole = numpy_gradient(weights, x, y)
    assert abs(whole @ whole - mean @ mean) > 0.05 * (mean @ mean)
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())


def test_equal_micro_batches_have_no_noise():
    x = np.tile(np.array([[1.0, 2.0], [3.0, 4.0]], "float32"), (4, 1))
    result = measure(linear(2), x, np.zeros((8, 1)), micro_batch=2, loss=prediction)
    assert result.simple == pytest.approx(0.0, abs=1e-6) and result.squared_norm == pytest.approx(4 + 9)


def test_no_gradient_at_all():
    result = measure(linear(2), np.zeros((8, 2)), np.zeros((8, 1)), micro_batch=2)
    assert result.squared_norm == result.trace == 0 and result.simple == np.inf


def test_structures_of_arrays_and_weights():
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(1)(keras.layers.Concatenate()([a, b])))
    model.compile(loss="mse")
    rng = np.random.default_rng(5)
    x, y = {"a": rng.normal(size=(12, 2)), "b": rng.normal(size=(12, 3))}, rng.normal(size=(12, 1))
    plain = measure(model, x, y, micro_batch=3)
    twice = measure(model, x, y, micro_batch=3, sample_weight=np.full(12, 2.0))
    assert plain.examples == 12 and twice.trace == pytest.approx(4 * plain.trace, rel=1e-4)


def test_errors_name_the_rule():
    with pytest.raises(ValueError, match="at least two micro-batches"):
        measure(linear(2), np.zeros((7, 2)), np.zeros((7, 1)), micro_batch=4)
    with pytest.raises(ValueError, match="must be larger"):
        GradientNoise().add(1.0, 1.0, 8, 8)
    with pytest.raises(ValueError, match="decay"):
        GradientNoise(1.0)
    assert np.isnan(measure(linear(2), np.ones((8, 2)), np.zeros((8, 1)), micro_batch=4).trace_error)
