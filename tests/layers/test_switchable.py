import numpy as np
import pytest
import tensorflow as tf

from nrm_keras.layers import BatchNormalization, GroupNormalization, InstanceNormalization, SwitchableNormalization
from tests import references
from tests.layers.cases import to_numpy, weights

FAR = 1e3


def inputs(shape=(5, 3, 2, 4), seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype("float32")


def leaning_on(which, shape):
    layer = SwitchableNormalization()
    layer.build(shape)
    for logits in (layer.mean_logits, layer.variance_logits):
        logits.assign(FAR * np.eye(3)[which])
    return layer


def step(layer, x, upstream):
    point = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(point)
        y = layer(point, training=True)
        loss = tf.reduce_sum(y * upstream)
    return [to_numpy(r) for r in (y, *tape.gradient(loss, [point, layer.gamma.value, layer.beta.value]))]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["instance", "layer", "batch"])
def test_with_all_weight_on_one_it_is_that_one(which):
    x, upstream = inputs(), inputs(seed=1)
    layer = leaning_on(which, x.shape)
    other = [InstanceNormalization(), GroupNormalization(1), BatchNormalization()][which]
    for one, expected in zip(step(layer, x, upstream), step(other, x, upstream), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(layer(x), other(x), rtol=1e-5, atol=2e-5)


def test_running_statistics_are_those_of_batch_normalization():
    layer, batch = SwitchableNormalization(), BatchNormalization()
    for seed in range(3):
        layer(inputs(seed=seed), training=True), batch(inputs(seed=seed), training=True)
    for name in ("moving_mean", "moving_variance", "update_count"):
        np.testing.assert_allclose(weights(layer)[name], weights(batch)[name], rtol=1e-5)


def test_starts_with_equal_shares():
    """One channel, so instance and layer agree: means 1 and 5, variances 1 and 9; batch: 3 and 9."""
    x = np.array([[[0.0], [2.0]], [[2.0], [8.0]]], "float32")
    y = to_numpy(SwitchableNormalization(epsilon=0.0)(x, training=True))
    first = (x[0] - (1 + 1 + 3) / 3) / np.sqrt((1 + 1 + 9) / 3)
    second = (x[1] - (5 + 5 + 3) / 3) / np.sqrt((9 + 9 + 9) / 3)
    np.testing.assert_allclose(y, [first, second], rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (4, 1, 1, 4), (1, 4), (1, 3, 3, 4)], ids=str)
def test_learns_on_single_values_and_single_examples(shape):
    """Where instance, or all, variances are 0; the published ones gave NaN."""
    layer, x = SwitchableNormalization(), tf.constant(inputs(shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.square(layer(x, training=True) - 1.0))
    slopes = tape.gradient(loss, [x, *[v.value for v in layer.trainable_variables]])
    assert len(slopes) == 5
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    assert np.all(np.isfinite(layer(x)))


@pytest.mark.parametrize("which", [0, 1], ids=["instance", "layer"])
def test_large_offset_at_inference_far_from_the_running_mean(which):
    """As exact as the statistics allow before any training: half an ulp of 1e4."""
    x = np.random.default_rng(1).normal(1e4, 1.0, (8, 8, 8, 16)).astype("float32")
    expected = references.group_normalization(x, np.ones(16), np.zeros(16), 1e-3, -1 if which == 0 else 1)
    assert np.max(np.abs(to_numpy(leaning_on(which, x.shape)(x)) - expected)) <= 2.0**-11


def test_short_runs_serve_what_they_trained():
    """Five steps: with the constant momentum 0.99 the running variance would still be nearly 1."""
    x = 100.0 * inputs((64, 4, 4, 3))
    warm, cold = leaning_on(2, x.shape), leaning_on(2, x.shape)
    cold.warmup = False
    for _ in range(5):
        y = to_numpy(warm(x, training=True))
        cold(x, training=True)
    np.testing.assert_allclose(warm(x), y, rtol=1e-3, atol=1e-3)
    assert np.max(np.abs(to_numpy(cold(x)) - y)) > 1
