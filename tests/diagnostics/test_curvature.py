"""Eigenvalues, traces and densities against numpy.linalg and closed forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from nrm_keras.diagnostics.curvature import (
    curvature,
    curvature_of,
    edge_of_stability,
    hutchinson,
    lanczos,
    power_iteration,
)
from nrm_keras.diagnostics.objective import Objective
from tests.diagnostics import nets
from tests.diagnostics.differences import dense_hessian, float64, gradient_of, relative, values_of


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def _symmetric(eigenvalues, seed=0):
    random = np.random.default_rng(seed)
    q, _ = np.linalg.qr(random.normal(size=(len(eigenvalues),) * 2))
    return q @ np.diag(eigenvalues) @ q.T


def _product(matrix):
    constant = tf.constant(matrix)
    return lambda vector: tf.linalg.matvec(constant, vector)


SPECTRUM = np.concatenate([np.linspace(-1, 1, 37), [3.0, 7.0, -4.0]])


@pytest.mark.parametrize("start", ["rademacher", "gaussian"])
def test_lanczos_of_full_order_is_eigh(start):
    matrix = _symmetric(SPECTRUM)
    run = lanczos(_product(matrix), 40, steps=40, start=start)
    np.testing.assert_allclose(run.values, np.linalg.eigvalsh(matrix), atol=1e-12)
    np.testing.assert_allclose(run.errors, 0, atol=1e-12)
    np.testing.assert_allclose(np.inner(run.basis, run.basis), np.eye(40), atol=1e-13)
    assert relative(matrix @ run.vector(-1).numpy(), 7 * run.vector(-1).numpy()) < 1e-12


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_quadrature_has_the_moments_of_the_start_vector(steps):
    """m nodes are exact to the power 2m - 1."""
    matrix = _symmetric(SPECTRUM)
    run = lanczos(_product(matrix), 40, steps)
    start = run.basis[0].numpy()
    assert np.abs(start) == pytest.approx(1 / np.sqrt(40))
    for power in range(2 * steps):
        expected = start @ np.linalg.matrix_power(matrix, power) @ start
        assert run.weights @ run.values**power == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_error_bounds_hold():
    matrix = _symmetric(SPECTRUM)
    run = lanczos(_product(matrix), 40, steps=6)
    distances = np.abs(run.values[:, None] - SPECTRUM).min(1)
    assert np.all(distances <= run.errors + 1e-13)
    assert run.errors[-1] > 1e-6


def test_lanczos_stops_early():
    matrix = _symmetric(SPECTRUM)
    run = lanczos(_product(matrix), 40, steps=40, tolerance=0.05)
    assert run.products < 15
    assert run.values[-1] == pytest.approx(7, rel=0.05)
    # One more step of the same vectors would have had no use of that: the one before was above the tolerance.
    shorter = lanczos(_product(matrix), 40, steps=run.products - 1)
    assert shorter.errors[-1] > 0.05 * shorter.values[-1]


@pytest.mark.parametrize(
    "matrix", [np.zeros((5, 5)), np.eye(5), np.diag([2.0, 0, 0, 0, 0]), np.diag([1.0, 1, 3, 3, 3])]
)
def test_lanczos_ends_where_the_space_is_exhausted(matrix):
    run = lanczos(_product(matrix), 5, steps=5)
    assert run.products <= 2
    np.testing.assert_allclose(run.values[-1], np.linalg.eigvalsh(matrix)[-1], atol=1e-14)
    np.testing.assert_allclose(run.errors, 0, atol=1e-14)


def test_float32_vectors_stay_orthogonal():
    matrix = _symmetric(SPECTRUM).astype("float32")
    run = lanczos(_product(matrix), 40, steps=40, dtype="float32")
    np.testing.assert_allclose(np.inner(run.basis, run.basis), np.eye(run.products), atol=1e-6)
    assert run.values[-1] == pytest.approx(7, rel=1e-5)
    assert run.diagonal.dtype == "float64"


@pytest.mark.parametrize("largest", [5.0, -5.0])
def test_power_iteration_keeps_the_sign(largest):
    estimate = power_iteration(_product(_symmetric([1.0, 2.0, -3.0, largest])), 4, steps=500, tolerance=1e-4)
    assert estimate.value == pytest.approx(largest, rel=1e-7)
    assert estimate.error < 1e-4 * 5
    assert 5 < estimate.products < 500


def test_hutchinson_within_its_error():
    matrix = _symmetric(SPECTRUM)
    estimate = hutchinson(_product(matrix), 40, probes=1000)
    variance = 2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2))
    assert estimate.error == pytest.approx(np.sqrt(variance / 1000), rel=0.1)
    assert abs(estimate.value - np.trace(matrix)) < 3 * estimate.error
    assert np.isnan(hutchinson(_product(matrix), 40, probes=1).error)


@pytest.mark.parametrize("name", nets.NORMALIZERS)
def test_eigenvalues_and_trace_of_a_net_in_training_mode(name):
    with float64():
        model, x, y = nets.dense_net(nets.NORMALIZERS[name])
    model.compile(loss="mse")
    hessian = dense_hessian(gradient_of(model, lambda z: tf.reduce_mean(tf.square(z - y)), x), values_of(model))
    expected = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    result = curvature(model, x, y, steps=30, tolerance=0)
    assert result.mode == "training"
    assert result.products == 30
    assert result.largest == pytest.approx(expected[-1], rel=1e-3)
    assert result.smallest == pytest.approx(expected[0], rel=1e-3)
    np.testing.assert_allclose(result.leading[:5], expected[:-6:-1], rtol=1e-3)
    assert result.first_to_fifth == pytest.approx(expected[-1] / expected[-5], rel=1e-3)
    start = np.random.default_rng(0).choice((-1.0, 1.0), len(expected))
    assert result.trace == pytest.approx(start @ hessian @ start, rel=1e-3)
    assert result.weights.sum() == pytest.approx(1)
    assert result.weights @ result.nodes == pytest.approx(result.trace / result.size)


def _regression(factors=(1.0, 2.0, 3.0, 10.0)):
    """Its Hessian is (2 / n) X'X, here diag(factors)."""
    n = len(factors)
    x = np.diag(np.sqrt(np.array(factors) * n / 2))
    with float64():
        model = keras.Sequential([keras.Input((n,), dtype="float64"), layers.Dense(1, use_bias=False)])
    model.compile(loss="mse")
    return model, x, np.ones((n, 1))


def test_a_quadratic_in_closed_form():
    model, x, y = _regression()
    result = curvature(model, x, y, steps=4, tolerance=0)
    np.testing.assert_allclose(result.nodes, [1, 2, 3, 10], rtol=1e-10)
    np.testing.assert_allclose(result.weights, 0.25, rtol=1e-10)
    assert result.trace == pytest.approx(16)
    assert result.trace_error == pytest.approx(np.sqrt(2 * (1 + 4 + 9 + 100)))
    assert result.largest_magnitude == pytest.approx(10)
    assert result.condition_number(floor=1.5) == pytest.approx(5)
    assert np.isnan(result.condition_number(floor=20))
    assert np.isnan(result.first_to_fifth)
    error = x @ values_of(model) - y[:, 0]
    assert result.loss == pytest.approx(np.mean(error**2))
    assert result.gradient_norm == pytest.approx(np.linalg.norm(2 / 4 * x.T @ error))


def test_density_integrates_to_one_and_sits_at_the_eigenvalues():
    result = curvature(*_regression(), steps=4, tolerance=0)
    grid = np.linspace(-5, 15, 20001)
    density = result.density(grid, sigma=0.1)
    assert np.trapezoid(density, grid) == pytest.approx(1, rel=1e-6)
    assert np.trapezoid(density * grid, grid) == pytest.approx(4, rel=1e-6)
    assert density[np.argmin(np.abs(grid - 10))] == pytest.approx(0.25 / np.sqrt(2 * np.pi) / 0.1, rel=1e-6)
    with pytest.raises(ValueError, match="sigma=0"):
        result.density(grid, sigma=0)


def test_of_a_negative_largest_magnitude_the_sign_is_kept():
    model, x, y = _regression((1.0, 2.0))
    result = curvature(model, x, y, loss=lambda y, z: -tf.square(y - z), tolerance=0)
    assert result.largest == pytest.approx(-1)
    assert result.largest_magnitude == pytest.approx(-2)


def test_several_probes():
    with float64():
        model, x, y = nets.dense_net(layers.BatchNormalization)
    model.compile(loss="mse")
    objective = Objective(model, x, y)
    hessian = np.array([objective.hessian_vector_product(e) for e in np.eye(objective.size)])
    result = curvature_of(objective, steps=2, probes=150, tolerance=0)
    assert result.products == 300
    assert abs(result.trace - np.trace(hessian)) < 3 * result.trace_error
    variance = 2 * (np.sum(hessian**2) - np.sum(np.diag(hessian) ** 2))
    assert result.trace_error == pytest.approx(np.sqrt(variance / 150), rel=0.2)
    assert result.weights.sum() == pytest.approx(1)


def test_the_same_seed_gives_the_same_numbers():
    model, x, y = nets.conv_net(layers.BatchNormalization)
    model.compile(loss="mse")
    objective = Objective(model, x, y)
    first, again, other = (curvature_of(objective, steps=5, seed=seed) for seed in (3, 3, 4))
    assert first.trace == again.trace
    assert first.nodes.tolist() == again.nodes.tolist()
    assert first.trace != other.trace
    assert objective._functions["product"].experimental_get_tracing_count() == 1


def test_modes_differ_and_are_named():
    model, x, y = nets.dense_net(layers.BatchNormalization)
    model.compile(loss="mse")
    training, inference = (curvature(model, x, y, training=training) for training in (True, False))
    assert (training.mode, inference.mode) == ("training", "inference")
    assert training.largest != pytest.approx(inference.largest, rel=1e-3)
    assert "in training mode" in str(training)


def test_low_precision_is_said():
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(2, dtype="mixed_float16")(x))
    model.compile(loss="mse")
    result = curvature(model, np.ones((2, 3)), np.ones((2, 2)))
    assert "layers compute in float16" in str(result)
    assert result.largest == pytest.approx(4, rel=0.01)


def test_edge_of_stability_is_where_gradient_descent_diverges():
    for momentum in (0.0, 0.9):
        for factor, diverges in ((0.99, False), (1.01, True)):
            curvature_, w, velocity = factor * edge_of_stability(0.1, momentum), 1.0, 0.0
            for _ in range(4000):
                velocity = momentum * velocity - 0.1 * curvature_ * w
                w += velocity
            assert (abs(w) > 1) == diverges
    with pytest.raises(ValueError, match="learning_rate=0"):
        edge_of_stability(0)


def test_errors_say_what_to_do():
    model, x, y = _regression()
    with pytest.raises(ValueError, match="The loss must be finite. Received: nan"):
        curvature(model, x * np.nan, y)
    with pytest.raises(ValueError, match="`steps` must be 1 at least"):
        curvature(model, x, y, steps=0)
    with pytest.raises(ValueError, match="`probes` must be 1 at least"):
        curvature(model, x, y, probes=0)
    with pytest.raises(ValueError, match="start='ones'"):
        curvature(model, x, y, start="ones")
    with pytest.raises(ValueError, match="A product of the matrix with a vector must be finite"):
        lanczos(lambda v: v * np.inf, 3, 3)
