"""Drift, internal covariate shift and landscape against closed forms and gradients taken independently."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from nrm_keras.diagnostics.objective import Objective
from nrm_keras.diagnostics.shift import drift, internal_covariate_shift, landscape
from tests.diagnostics import nets
from tests.diagnostics.differences import float64, gradient_of, values_of


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def test_drift_against_integrals_over_the_densities():
    m0, s0, m, s = 0.5, 1.5, -1.0, 0.7
    moved = drift(([m0], [s0**2]), ([m], [s**2]))
    x = np.linspace(-20, 20, 400001)
    log_p, log_q = (-((x - a) ** 2) / (2 * b * b) - np.log(b * np.sqrt(2 * np.pi)) for a, b in ((m, s), (m0, s0)))
    assert moved.kl_divergence[0] == pytest.approx(np.trapezoid(np.exp(log_p) * (log_p - log_q), x), rel=1e-6)
    # In one dimension the optimal transport maps quantile to quantile.
    z = np.linspace(-9, 9, 100001)
    cost = np.trapezoid(np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (m + s * z - m0 - s0 * z) ** 2, z)
    assert moved.wasserstein[0] == pytest.approx(np.sqrt(cost), rel=1e-6)
    assert moved.mean_shift[0] == -1.0
    assert moved.log_variance_ratio[0] == pytest.approx(2 * np.log(0.7 / 1.5))


def test_drift_of_numbers_that_overflowed_says_nothing_on_the_terminal():
    """A diverging run printed NumPy's warning among its epochs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = drift(([np.inf, 0.0], [np.inf, 1.0]), ([np.inf, 2.0], [np.inf, 4.0]))
    assert moved.mean_shift[1] == 2 and moved.wasserstein[1] == np.sqrt(5)


def test_drift_of_constant_channels():
    inf = np.inf
    cases = [  # m0, v0, m, v -> shift, log ratio, divergence, distance
        ((1, 0, 1, 0), (0, 0, 0, 0)),
        ((1, 0, 3, 0), (inf, 0, inf, 2)),
        ((1, 0, -1, 4), (-inf, inf, inf, np.sqrt(8))),
        ((1, 0, 1, 4), (0, inf, inf, 2)),
        ((1, 4, 3, 0), (1, -inf, inf, np.sqrt(8))),
        ((1, 4, 1, 4), (0, 0, 0, 0)),
    ]
    m0, v0, m, v = np.array([case for case, _ in cases], "float32").T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = drift((m0, v0), (m, v))
    actual = np.transpose([moved.mean_shift, moved.log_variance_ratio, moved.kl_divergence, moved.wasserstein])
    np.testing.assert_allclose(actual, [expected for _, expected in cases])


def test_drift_errors():
    with pytest.raises(ValueError, match="must not be below 0. Received: -1"):
        drift(([0.0], [1.0]), ([0.0], [-1.0]))
    with pytest.raises(ValueError, match="one shape"):
        drift(([0.0], [1.0]), ([0.0, 1.0], [1.0, 1.0]))


def _objective(normalizer=layers.BatchNormalization):
    with float64():
        model, x, y = nets.dense_net(normalizer)
    model.compile(loss="mse")
    return model, Objective(model, x, y), gradient_of(model, lambda z: tf.reduce_mean(tf.square(z - y)), x)


def test_internal_covariate_shift_by_the_definition():
    model, objective, gradient = _objective()
    before = values_of(model)
    after = before - 0.1 * gradient(before)
    shifts = internal_covariate_shift(objective, before, after)
    assert len(shifts) == 4
    start = 0
    for shift, layer in zip(shifts, model.layers, strict=True):
        stop = start + sum(int(np.prod(v.shape)) for v in layer.trainable_variables)
        mixed = np.where(np.arange(before.size) < start, after, before)
        g, changed = gradient(before)[start:stop], gradient(mixed)[start:stop]
        assert shift.layer == layer.trainable_variables[0].path.rpartition("/")[0]
        assert shift.norm == pytest.approx(np.linalg.norm(g))
        assert shift.distance == pytest.approx(np.linalg.norm(g - changed), abs=1e-12)
        assert shift.cosine == pytest.approx(g @ changed / np.linalg.norm(g) / np.linalg.norm(changed))
        start = stop
    # No layer is in front of the first one.
    assert (shifts[0].distance, shifts[0].cosine) == (0, pytest.approx(1))
    assert shifts[-1].distance > 1e-4
    (last,) = internal_covariate_shift(objective, before, after, layers=[shifts[-1].layer])
    assert last == shifts[-1]


def test_internal_covariate_shift_of_a_product_in_closed_form():
    """L = (a b c - 1)^2: each derivative is 2 (a b c - 1) times the other two."""
    one = {"use_bias": False, "dtype": "float64"}
    model = keras.Sequential([keras.Input((1,)), *(layers.Dense(1, name=name, **one) for name in "abc")])
    model.compile(loss="mse")
    objective = Objective(model, np.ones((1, 1)), np.ones((1, 1)))
    before, after = np.array([2.0, 3.0, 5.0]), np.array([1.0, 7.0, -1.0])
    a, b, c = internal_covariate_shift(objective, before, after)
    assert a.distance == 0
    assert b.distance == pytest.approx(abs(2 * 29 * 2 * 5 - 2 * (1 * 3 * 5 - 1) * 1 * 5))
    assert c.distance == pytest.approx(abs(2 * 29 * 2 * 3 - 2 * (1 * 7 * 5 - 1) * 1 * 7))
    assert [shift.cosine for shift in (a, b, c)] == [1, 1, 1]
    assert internal_covariate_shift(objective, before, after, layers=["c", "a"]) == [a, c]
    with pytest.raises(ValueError, match="Received: 'd'. Known: .*a, .*b, .*c"):
        internal_covariate_shift(objective, before, after, layers=["d"])


def test_without_an_update_there_is_no_shift():
    model, objective, _ = _objective()
    before = values_of(model)
    for shift in internal_covariate_shift(objective, before, before.copy()):
        assert shift.distance == 0
        assert shift.cosine == pytest.approx(1)


def test_landscape_of_a_quadratic():
    random = np.random.default_rng(0)
    x, y, w = random.normal(size=(7, 3)), random.normal(size=(7, 1)), random.normal(size=3)
    model = keras.Sequential([keras.Input((3,), dtype="float64"), layers.Dense(1, use_bias=False, dtype="float64")])
    model.compile(loss="mse")
    hessian = 2 / 7 * x.T @ x
    g = 2 / 7 * x.T @ (x @ w - y[:, 0])
    loss = np.mean((x @ w - y[:, 0]) ** 2)
    steps = np.array([0.01, 0.1, 0.4])
    along = landscape(Objective(model, x, y), steps, w)
    losses = loss - steps * (g @ g) + steps**2 * (g @ hessian @ g) / 2
    changes = steps * np.linalg.norm(hessian @ g)
    assert along.loss == pytest.approx(loss)
    assert along.gradient_norm == pytest.approx(np.linalg.norm(g))
    np.testing.assert_allclose(along.losses, losses, rtol=1e-12)
    np.testing.assert_allclose(along.gradient_changes, changes, rtol=1e-12)
    assert along.loss_range == pytest.approx((losses.min(), losses.max()))
    assert along.predictiveness == pytest.approx((changes[0], changes[-1]))
    assert along.effective_beta == pytest.approx(np.linalg.norm(hessian @ g) / np.linalg.norm(g))


def test_landscape_of_a_net_at_its_present_values():
    model, objective, gradient = _objective()
    at = values_of(model)
    along = landscape(objective, (0.05, 0.3))
    g = gradient(at)
    np.testing.assert_allclose(
        along.gradient_changes, [np.linalg.norm(g - gradient(at - step * g)) for step in (0.05, 0.3)], rtol=1e-10
    )
    assert along.effective_beta == pytest.approx(max(along.gradient_changes / (along.steps * np.linalg.norm(g))))
    np.testing.assert_array_equal(values_of(model), at)


@pytest.mark.parametrize("steps", [(), (0.0, 1.0), (-1.0,)])
def test_landscape_errors(steps):
    with pytest.raises(ValueError, match="`steps` must be numbers above 0"):
        landscape(_objective()[1], steps)
