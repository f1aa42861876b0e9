import math

import keras
import numpy as np
import pytest

from nrm_keras.layers import AdaptiveNormalization, BatchNormalization, GroupNormalization
from tests import references
from tests.layers.backends import gradients
from tests.layers.cases import to_numpy, weights

SHAPES = {"rank2": (5, 4), "rank3": (5, 3, 4), "rank4": (5, 3, 2, 4)}
EXTREME = 1e3


def inputs(shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(dtype)


def built(delta=0.0, **kwargs):
    layer = AdaptiveNormalization(**kwargs)
    layer.build((None, 4))
    layer.gate_delta.assign(np.full(layer.gate_delta.shape, delta))
    return layer


def step(layer, x, upstream, mask):
    """[y, dx, dgamma, dbeta]; at padding the output has no meaning."""
    valid = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask[..., None], x.shape)
    y, *slopes = gradients(layer, x, np.where(valid, upstream, 0), mask=mask)[:4]
    return [np.where(valid, y, 0), *slopes]


def random_mask(shape):
    """Padding in every example, and one that is nothing else."""
    mask = np.random.default_rng(2).random(shape[:-1]) < 0.6
    mask[0], mask[1:2] = True, False
    return mask


masked_or_not = pytest.mark.parametrize("mask_of", [lambda shape: None, random_mask], ids=["all", "masked"])


@pytest.mark.parametrize("m, expected", [(0, 0), (1, 0), (2, 1 / 8), (4, 3 / 10), (8, 1 / 2), (64, 63 / 70)])
def test_gate_starts_as_the_shrinkage_weight(m, expected):
    """(m - 1) / (m - 1 + m0) with m0 = balance - 1."""
    weight = float(built().batch_weight(m))
    assert weight == pytest.approx(expected, rel=1e-6)
    assert m > 1 or weight == 0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("gate", ["layer", "channel"])
def test_gate_is_monotone_in_the_batch_size(seed, gate):
    rng = np.random.default_rng(seed)
    layer = built(gate=gate, balance=rng.uniform(1.01, 100))
    layer.gate_delta.assign(rng.normal(scale=2, size=layer.gate_delta.shape))
    layer.gate_phi.assign(rng.normal(scale=5, size=layer.gate_phi.shape))
    sizes = np.arange(0, 300)
    values = np.stack([to_numpy(layer.batch_weight(float(m))) for m in sizes])
    assert np.all(np.diff(values, axis=0) >= 0)
    assert np.all((values >= 0) & (values <= 1))
    assert np.all(values[:2] == 0)


@masked_or_not
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_weight_one_is_batch_normalization(shape, mask_of):
    x, upstream, mask = inputs(shape), inputs(shape, 1), mask_of(shape)
    mixer, batch = AdaptiveNormalization(), BatchNormalization()
    mixer.build(shape)
    mixer.gate_delta.assign(-EXTREME)
    for one, other in zip(step(mixer, x, upstream, mask), step(batch, x, upstream, mask), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for name in ("moving_mean", "moving_variance", "update_count"):
        np.testing.assert_allclose(weights(mixer)[name], weights(batch)[name], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(mixer(x)), to_numpy(batch(x)), rtol=1e-5, atol=1e-6)


ALTERNATIVES = {
    "layer": ({}, {"groups": 1}),
    "group": ({"alternative": "group", "groups": 2}, {"groups": 2}),
    "instance": ({"alternative": "group", "groups": -1}, {"groups": -1}),
}


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reason", ["gate", "one example"])
@masked_or_not
def test_weight_zero_is_the_alternative(shape, alternative, reason, mask_of):
    ours, theirs = ALTERNATIVES[alternative]
    if reason == "one example":
        shape = (1, *shape[1:])
    x, upstream, mask = inputs(shape), inputs(shape, 1), mask_of(shape)
    mixer = AdaptiveNormalization(**ours)
    mixer.build(shape)
    mixer.gate_delta.assign(EXTREME if reason == "gate" else 0.0)
    group = GroupNormalization(**theirs, positions="separate" if len(shape) == 3 else "pooled")
    batch = BatchNormalization()
    batch(x, training=True, mask=mask)
    for one, other in zip(step(mixer, x, upstream, mask), step(group, x, upstream, mask), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for name in ("moving_mean", "moving_variance", "update_count"):
        np.testing.assert_allclose(weights(mixer)[name], weights(batch)[name], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(mixer(x)), to_numpy(group(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learn_slope", [False, True])
def test_one_example_gives_the_gate_no_gradient(learn_slope):
    layer = built(learn_slope=learn_slope)
    _, _, _, _, *slopes = gradients(layer, inputs((1, 4)), inputs((1, 4), seed=1))
    gate = [v for v in layer.trainable_variables if v.name.startswith("gate")]
    assert [v.name for v in gate] == ["gate_delta", "gate_phi"][: 1 + learn_slope]
    assert slopes == [0.0] * len(gate)


def test_masked_examples_do_not_count():
    layer = built()
    x, mask = inputs((5, 3, 4)), np.zeros((5, 3), bool)
    mask[0] = mask[1, :1] = True
    layer = AdaptiveNormalization()
    layer(x, training=True, mask=mask)
    assert float(layer.moving_log_count) == pytest.approx(math.log(2), rel=1e-6)


def test_inference_is_at_the_running_mean_of_log_m():
    layer = AdaptiveNormalization()
    layer.build((None, 4))
    assert float(layer.batch_weight()) == pytest.approx(0.5, rel=1e-5)
    for m in (2, 8):
        layer(inputs((m, 4)), training=True)
    # Momentum 0, then 1/10.
    count = 2**0.1 * 8**0.9
    assert float(layer.moving_log_count) == pytest.approx(math.log(count), rel=1e-6)
    assert float(layer.batch_weight()) == pytest.approx((count - 1) / (count + 6), rel=1e-5)
    x = inputs((3, 4))
    batch, sample = BatchNormalization(), GroupNormalization(1)
    batch.build(x.shape)
    batch.moving_mean.assign(layer.moving_mean)
    batch.moving_variance.assign(layer.moving_variance)
    lam = (count - 1) / (count + 6)
    np.testing.assert_allclose(
        to_numpy(layer(x)), to_numpy(lam * batch(x) + (1 - lam) * sample(x)), rtol=1e-5, atol=1e-6
    )


def test_trained_on_single_examples_it_serves_the_alternative():
    layer, x = AdaptiveNormalization(), inputs((6, 3, 2, 4))
    for n in range(4):
        layer(x[n : n + 1], training=True)
    assert float(layer.batch_weight()) == 0
    np.testing.assert_allclose(to_numpy(layer(x)), to_numpy(GroupNormalization(1)(x)), rtol=1e-6, atol=1e-6)


def test_gate_scale_is_the_gate_s_speed():
    slow, fast = built(gate_scale=1.0, delta=0.3), built(gate_scale=10.0, delta=0.03)
    assert float(slow.batch_weight(5)) == pytest.approx(float(fast.batch_weight(5)), rel=1e-6)
    assert float(slow.batch_weight(5)) != pytest.approx(float(built().batch_weight(5)), rel=1e-2)


def test_gate_learns_under_mixed_precision():
    layer = AdaptiveNormalization(dtype="mixed_float16", learn_slope=True)
    layer.build((None, 4))
    *_, delta_slope, phi_slope = gradients(layer, inputs((6, 4)) * 1e4, inputs((6, 4), seed=1))
    for slope in (delta_slope, phi_slope):
        assert np.isfinite(slope) and slope != 0


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"alternative": "batch"}, "`alternative` must be one of"),
        ({"gate": "unit"}, "`gate` must be one of"),
        ({"positions": "both"}, "`positions` must be one of"),
        ({"balance": 1.0}, "`balance` must be a finite number above 1. Received: balance=1.0"),
        ({"gate_scale": 0.0}, "`gate_scale` must be a finite number above 0"),
        ({"groups": 4}, "`groups` goes with alternative='group' only"),
        ({"alternative": "group", "groups": 0}, "argument `groups`"),
    ],
)
def test_errors_say_what_to_do(kwargs, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveNormalization(**kwargs)


def test_default_number_of_groups_must_fit():
    with pytest.raises(ValueError, match=r"groups \(32\) cannot be more than the number of channels \(16\)"):
        AdaptiveNormalization(alternative="group").build((None, 16))


@pytest.mark.parametrize("positions", ["pooled", "separate"])
@pytest.mark.parametrize("training", [True, False])
def test_subclass_with_a_gate_of_its_own(positions, training):
    """Closed forms must take its lam, not the layer's."""

    class Closed(AdaptiveNormalization):
        def batch_weight(self, examples=None):
            return keras.ops.zeros((1, 1, 1, 1))

    x = np.random.default_rng(0).normal(2.0, 3.0, (4, 3, 2, 6)).astype("float32")
    y = to_numpy(Closed(positions=positions)(x, training=training))
    expected = references.group_normalization(x, np.ones(6), np.zeros(6), 1e-3, 1, positions=positions)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", ["pooled", "separate"])
def test_subclass_with_coefficients_of_its_own(positions):
    """Closed forms must not pass over it."""

    class Flat(AdaptiveNormalization):
        def coefficients(self, moments, training):
            return tuple(0 * one for one in super().coefficients(moments, training))

    x = np.random.default_rng(0).normal(2.0, 3.0, (4, 3, 2, 6)).astype("float32")
    for training in (True, False):
        y = to_numpy(Flat(positions=positions, beta_initializer="ones")(x, training=training))
        np.testing.assert_array_equal(y, np.ones(x.shape))
