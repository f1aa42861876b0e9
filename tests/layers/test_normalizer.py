import keras
import numpy as np
import pytest

from nrm_keras.layers import Normalizer
from tests import references
from tests.layers.backends import gradients, tolerance
from tests.layers.cases import to_numpy


@keras.saving.register_keras_serializable(package="nrm_keras_tests")
class BatchInstanceNormalization(Normalizer):
    """Nam & Kim 2018, on statistics: a learned share of batch statistics in each channel, the rest the example's."""

    def build(self, input_shape):
        super().build(input_shape)
        self.share = self.add_precise_weight(name="share", shape=(input_shape[self.axis],), initializer="ones")

    def pool(self, moments, training):
        share = keras.ops.reshape(keras.ops.cast(self.share, moments.shift.dtype), (1, 1, -1, 1))
        batch_mean, batch_variance = moments.over_batch()
        mean, variance = moments.per_channel()
        return share * batch_mean + (1 - share) * mean, share * batch_variance + (1 - share) * variance


@keras.saving.register_keras_serializable(package="nrm_keras_tests")
class Known(Normalizer):
    """Normalizes with statistics known beforehand."""

    def pool(self, moments, training):
        channels = moments.shift.shape[2]
        return moments.relative(keras.ops.full((channels,), 3.0)), keras.ops.full((1, 1, channels, 1), 4.0)


def expected(x, share):
    """Channels last, rank 3."""
    mean, variance = references.batch_statistics(x)
    mean = share * mean + (1 - share) * x.mean(1, keepdims=True)
    variance = share * variance + (1 - share) * x.var(1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-3)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(2.0, 3.0, (4, 5, 3))


def layer_with_shares(share, **kwargs):
    layer = BatchInstanceNormalization(**kwargs)
    layer.build((None, 5, 3))
    layer.share.assign(share)
    return layer


def test_own_normalizer_against_reference(x):
    share = np.array([0.2, 0.5, 1.0])
    layer = layer_with_shares(share)
    np.testing.assert_allclose(
        to_numpy(layer(x.astype("float32"), training=True)), expected(x, share), rtol=1e-5, atol=1e-5
    )


def test_own_normalizer_has_right_gradients(x):
    share, upstream = np.array([0.2, 0.5, 1.0]), np.random.default_rng(1).normal(size=x.shape)
    layer = layer_with_shares(share, dtype="float64", center=False, scale=False)
    _, dx, dshare = gradients(layer, x, upstream)
    np.testing.assert_allclose(
        dx,
        references.gradient(lambda v: np.sum(expected(v, share) * upstream), x),
        rtol=tolerance(1e-6),
        atol=tolerance(1e-7),
    )
    np.testing.assert_allclose(
        dshare,
        references.gradient(lambda v: np.sum(expected(x, v) * upstream), share),
        rtol=tolerance(1e-6),
        atol=tolerance(1e-7),
    )


def test_own_normalizer_saves_and_loads(x, tmp_path):
    model = keras.Sequential([keras.Input((5, 3)), layer_with_shares([0.1, 0.6, 0.9], axis=-1, epsilon=0.1)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(model(x)), to_numpy(loaded(x)))
    assert loaded.layers[0].epsilon == 0.1


def test_own_normalizer_is_precise_and_masked():
    x = np.array([[[1e5], [3e5], [np.nan]]], "float32")
    y = BatchInstanceNormalization(dtype="mixed_float16")(x, mask=np.array([[True, True, False]]))
    np.testing.assert_allclose(to_numpy(y)[0, :2, 0], [-1, 1], rtol=1e-3)


def test_example_of_padding_alone_passes_unamplified(x):
    mask = np.ones((4, 5), bool)
    mask[2] = False
    y = to_numpy(layer_with_shares(np.zeros(3), epsilon=0.0)(x.astype("float32"), mask=mask))
    np.testing.assert_allclose(y[2], x[2], rtol=1e-6)


def test_known_mean_is_measured_from_the_shift():
    x = np.array([[1.0, 3.0], [5.0, 7.0]], "float32")
    np.testing.assert_allclose(to_numpy(Known(epsilon=0.0)(x)), [[-1, 0], [1, 2]], rtol=1e-6)


def test_infinite_value_touches_nothing_that_is_not_pooled_with_it():
    x = np.array([[[np.inf], [3.0], [7.0]]], "float32")
    np.testing.assert_allclose(to_numpy(Known(epsilon=0.0)(x))[0, 1:, 0], [0, 2], rtol=1e-6)


def test_normalizer_without_pool_says_what_to_do():
    with pytest.raises(NotImplementedError, match="Override `pool"):
        Normalizer()(np.ones((2, 3), "float32"))


@pytest.mark.parametrize("axis", [4, -5])
def test_output_shape_checks_the_axis(axis):
    assert Normalizer().compute_output_shape((None, 2, 3)) == (None, 2, 3)
    with pytest.raises(ValueError, match="out of bounds"):
        Normalizer(axis=axis).compute_output_shape((None, 2, 3))
