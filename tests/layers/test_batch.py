import keras
import numpy as np
import pytest

from nrm_keras.layers import BatchNormalization
from tests import references
from tests.layers.backends import gradients, tolerance
from tests.layers.cases import randomize, to_numpy, weights


def batch(*values):
    return np.array(values, "float32").reshape(-1, 1)


def test_hand_worked_training_and_inference():
    layer = BatchNormalization(epsilon=1.0)
    # Mean 4, variance 8; with epsilon 1 the divisor is 3.
    x = np.array([[1.0], [1.0], [5.0], [9.0]], "float32") * np.sqrt(8 / 11, dtype="float32")
    mean = 4 * np.sqrt(8 / 11)
    y = to_numpy(layer(x, training=True))
    np.testing.assert_allclose(y, (x - mean) / 3, rtol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, [mean], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [8.0], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer(x)), y, rtol=1e-6)


def test_warm_up_by_hand():
    """Momentum 0, 1/10, 2/11: the initial 0 and 1 are gone after the first update."""
    layer = BatchNormalization()
    expected = [2.0, 0.1 * 2 + 0.9 * 12, 2 / 11 * 11.0 + 9 / 11 * 22]
    for center, mean in zip((2, 12, 22), expected, strict=True):
        layer(batch(center - 3, center + 3), training=True)
        np.testing.assert_allclose(layer.moving_mean, [mean], rtol=1e-6)
        np.testing.assert_allclose(layer.moving_variance, [9.0], rtol=1e-6)
    assert float(layer.update_count) == 3


def test_warm_up_ends_at_momentum():
    layer = BatchNormalization(momentum=0.5)
    layer.build((None, 1))
    layer.update_count.assign(100.0)
    layer.moving_mean.assign([4.0])
    layer(batch(7, 9), training=True)
    np.testing.assert_allclose(layer.moving_mean, [6.0])


def test_without_warm_up_it_is_keras_layer():
    """Outputs, running statistics and the very variables."""
    ours, theirs = BatchNormalization(warmup=False, momentum=0.7), keras.layers.BatchNormalization(momentum=0.7)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = rng.normal(2, 3, (5, 4, 3, 6)).astype("float32")
        np.testing.assert_allclose(
            to_numpy(ours(x, training=True)), to_numpy(theirs(x, training=True)), rtol=1e-5, atol=1e-5
        )
    np.testing.assert_allclose(to_numpy(ours(x)), to_numpy(theirs(x)), rtol=1e-5, atol=1e-5)
    assert [v.name for v in ours.variables] == [v.name for v in theirs.variables]
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_gradient_norm_in_closed_form():
    """Santurkar et al. 2018, theorem 4.1, at epsilon = 0."""
    rng = np.random.default_rng(0)
    x, g, gamma, m = rng.normal(3, 2, (7, 1)), rng.normal(size=(7, 1)), 1.7, 7
    layer = BatchNormalization(epsilon=0.0, dtype="float64")
    layer.build((None, 1))
    layer.gamma.assign([gamma])
    actual = np.sum(gradients(layer, x, g)[1] ** 2)
    normalized = (x - x.mean()) / x.std()
    inner = np.sum(g**2) - np.sum(g) ** 2 / m - np.sum(g * normalized) ** 2 / m
    np.testing.assert_allclose(actual, gamma**2 / x.var() * inner, rtol=tolerance(1e-12))


@pytest.mark.parametrize("file", ["model.weights.h5", "model.keras"])
def test_weights_of_keras_layer_load_as_converged(file, tmp_path):
    source = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(name="norm")])
    values = np.arange(12, dtype="float32").reshape(4, 3) + 1
    source.set_weights(list(values))
    path = tmp_path / file
    source.save_weights(path) if file.endswith("h5") else source.save(path)
    target = keras.Sequential([keras.Input((3,)), BatchNormalization(name="norm")])
    target.load_weights(path)
    layer = target.get_layer("norm")
    variables = layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance
    for variable, expected in zip(variables, values, strict=True):
        np.testing.assert_array_equal(variable, expected)
    layer(np.full((2, 3), 17.0, "float32"), training=True)
    np.testing.assert_allclose(layer.moving_mean, 0.99 * values[2] + 0.01 * 17, rtol=1e-6)


def test_own_weights_keep_the_counter(tmp_path):
    model = keras.Sequential([keras.Input((3,)), BatchNormalization(name="norm")])
    model(np.ones((2, 3), "float32"), training=True)
    model.save_weights(tmp_path / "a.weights.h5")
    other = keras.Sequential([keras.Input((3,)), BatchNormalization(name="norm")])
    other.load_weights(tmp_path / "a.weights.h5")
    assert float(other.get_layer("norm").update_count) == 1


def test_wrong_number_of_weights_is_an_error(tmp_path):
    source = keras.Sequential([keras.Input((3,)), BatchNormalization(name="norm", warmup=False, center=False)])
    source.save_weights(tmp_path / "a.weights.h5")
    target = keras.Sequential([keras.Input((3,)), BatchNormalization(name="norm")])
    with pytest.raises(ValueError, match="expected 5 variables"):
        target.load_weights(tmp_path / "a.weights.h5")


def test_config_of_keras_layer_builds_ours():
    theirs = keras.layers.BatchNormalization(axis=1, momentum=0.9, epsilon=1e-5, scale=False)
    ours = BatchNormalization.from_config(theirs.get_config())
    config = ours.get_config()
    assert config.pop("warmup") is True
    assert config.pop("virtual_batch_size") is None
    assert config == theirs.get_config()


def test_masked_running_statistics():
    x = np.array([[[1.0], [3.0], [99.0]], [[8.0], [99.0], [99.0]]], "float32")
    mask = np.array([[1, 1, 0], [1, 0, 0]], bool)
    layer = BatchNormalization()
    layer(x, training=True, mask=mask)
    np.testing.assert_allclose(layer.moving_mean, [4.0], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [26 / 3], rtol=1e-6)


def test_mask_in_the_way_of_keras_follows_the_leading_dimensions():
    """Masking on channels-first data masks channels; one that keeps a value here still has its statistics."""
    x = np.random.default_rng(0).normal(5, 2, (4, 3, 2)).astype("float32")
    mask = np.ones((4, 3), bool)
    mask[:2, 1] = False
    layer = randomize(BatchNormalization(axis=1), (4, 3, 2))
    before = weights(layer)
    y = to_numpy(layer(x, training=True, mask=mask))
    expected = references.batch_normalization(x, before["gamma"], before["beta"], 1e-3, 1, np.ones((4, 2), bool))
    np.testing.assert_allclose(y[:, [0, 2]], expected[:, [0, 2]], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean[1], x[2:, 1].astype("float64").mean(), rtol=1e-6)


def test_renorm_names_keras_layer():
    with pytest.raises(ValueError, match=r"Received: renorm=True. Use keras.layers.BatchNormalization"):
        BatchNormalization(renorm=True)


def test_float64_without_warmup():
    """The momentum was a plain number, of which `where` made floatx: TensorFlow does not multiply two dtypes."""
    layer = BatchNormalization(warmup=False, momentum=0.75, dtype="float64")
    layer(np.full((2, 3), 4.0), training=True)
    np.testing.assert_allclose(layer.moving_mean, [1.0, 1.0, 1.0], rtol=1e-15)


def test_virtual_batches_move_running_statistics_by_their_average():
    """Examples 0 and 1 have mean 2 and variance 4, examples 2 and 3 mean 10 and variance 0, the last one 13 and 0."""
    layer = BatchNormalization(virtual_batch_size=2)
    layer(np.array([[0.0], [4.0], [10.0], [10.0], [13.0]], "float32"), training=True)
    np.testing.assert_allclose(layer.moving_mean, [(2 * 2 + 2 * 10 + 13) / 5], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [2 * 4 / 5], rtol=1e-6)
    assert float(layer.update_count) == 1


def test_virtual_batches_of_padding_alone_do_not_count():
    x, mask = np.array([[1.0], [3.0], [np.nan], [7.0], [5.0]], "float32"), np.array([True, True, False, False, True])
    layer = BatchNormalization(virtual_batch_size=2)
    layer(x, training=True, mask=mask)
    np.testing.assert_allclose(layer.moving_mean, [(2 * 2 + 5) / 3], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [2 / 3], rtol=1e-6)


@pytest.mark.parametrize("size", [0, -2, 1.5, True])
def test_virtual_batch_size_is_a_positive_integer(size):
    with pytest.raises(ValueError, match="`virtual_batch_size` must be a positive integer"):
        BatchNormalization(virtual_batch_size=size)


def test_virtual_batches_are_not_synchronized():
    with pytest.raises(ValueError, match="Leave one of them out"):
        BatchNormalization(virtual_batch_size=2, synchronized=True)


@pytest.mark.parametrize("virtual_batch_size", [None, 2])
def test_subclass_with_a_pool_of_its_own(virtual_batch_size):
    """Closed forms must not pass over it."""

    class Doubled(BatchNormalization):
        def pool(self, moments, training):
            mean, variance = super().pool(moments, training)
            return mean, 4 * variance

    x = np.random.default_rng(0).normal(2.0, 3.0, (5, 4, 3)).astype("float32")
    arguments = {"epsilon": 1e-7, "virtual_batch_size": virtual_batch_size}
    plain, doubled = BatchNormalization(**arguments), Doubled(**arguments)
    for training in (True, False):
        y, twice = (to_numpy(layer(x, training=training)) for layer in (plain, doubled))
        np.testing.assert_allclose(2 * twice, y, rtol=1e-5, atol=1e-5)
    for one, other in zip(plain.variables, doubled.variables, strict=True):
        np.testing.assert_allclose(to_numpy(one), to_numpy(other), rtol=1e-5)
