"""Mixtures of normalizers at inference: constants, and where the weights are all but 0 or 1, the normalizer itself."""

import keras
import numpy as np
import pytest
from keras import layers as k

import nrm_keras.layers as own
from nrm_keras.serving.specialize import specialize

SHAPES = {"image": (6, 6, 8), "series": (5, 8), "row": (8,), "volume": (3, 3, 3, 8)}
LARGE_MEAN = "left as it is: a running mean is more than 100 deviations from 0"
OPTIONS = {
    "layer": {},
    "group": {"alternative": "group", "groups": 4},
    "instance": {"alternative": "group", "groups": -1},
    "channel gate": {"gate": "channel"},
    "separate": {"positions": "separate"},
    "separate groups": {"positions": "separate", "alternative": "group", "groups": 2},
    "pooled": {"positions": "pooled"},
    "neither gamma nor beta": {"center": False, "scale": False},
    "large epsilon": {"epsilon": 0.3},
}


def trained(norm, shape, linear=None, spread=1.0):
    """A layer, behind a linear one on demand, with the running statistics of batches of 32 like `examples`."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(shape)
    if linear is not None:
        x = linear(x)
    model = keras.Model(inputs, norm(x))
    rng = np.random.default_rng(0)
    for variable in norm.trainable_variables:
        if variable.name in ("gamma", "beta"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    for number in range(5):
        model(examples(shape, 32, number, spread), training=True)
    return model


def examples(shape, count=8, seed=9, spread=1.0):
    """Channels that differ, and examples that differ by a level of that spread."""
    rng = np.random.default_rng(seed)
    level = rng.normal(scale=spread, size=(count, *(1 for _ in shape)))
    return (rng.normal(size=(count, *shape)) * np.linspace(0.5, 2, shape[-1]) + level + 0.5).astype("float32")


def set_gate(norm, value):
    """Moves the gate to `value` at inference, by the equation in the layer's documentation."""
    examples_seen = np.exp(np.float64(norm.moving_log_count))
    theta = np.log(examples_seen - 1) - np.log(value / (1 - value))
    norm.gate_delta.assign(np.full(norm.gate_delta.shape, (theta - np.log(norm.balance - 1)) / norm.gate_scale))
    np.testing.assert_allclose(norm.batch_weight(), np.full(norm.gate_delta.shape, value), atol=1e-5)


def kinds(model):
    return [type(layer).__name__ for layer in model.layers[1:]]


def assert_same(new, model, x, atol=5e-6):
    np.testing.assert_allclose(new(x, training=False), model(x, training=False), rtol=0, atol=atol)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_soft_gate_becomes_constants(shape, options):
    norm = own.AdaptiveNormalization(**OPTIONS[options])
    model = trained(norm, SHAPES[shape])
    if norm.gate == "channel":
        norm.gate_delta.assign(np.linspace(-0.2, 0.2, 8))
    x = examples(SHAPES[shape])
    new = specialize(model, x).model
    assert kinds(new) == ["FixedMixture"]
    # a row has no spread of its own in groups of one channel: all divide by the root of epsilon
    assert_same(new, model, x, atol=2e-5)
    np.testing.assert_allclose(new(x[3:4], training=False), new(x, training=False)[3:4], rtol=0, atol=1e-6)


def test_channels_first():
    model = trained(own.AdaptiveNormalization(axis=1, alternative="group", groups=3), (6, 4, 5))
    x = examples((6, 4, 5))
    new = specialize(model, x).model
    assert kinds(new) == ["FixedMixture"]
    assert_same(new, model, x)


@pytest.mark.parametrize("options", [{}, {"alternative": "group", "groups": 2}], ids=["layer", "group"])
def test_padding_stays_out_of_the_statistics(options):
    inputs = keras.Input((8, 4))
    norm = own.AdaptiveNormalization(positions="pooled", **options)
    model = keras.Model(inputs, norm(k.Masking(0.0)(inputs)))
    x = examples((8, 4))
    model(x, training=True)
    x[:, 5:] = 0
    new = specialize(model, x).model
    assert kinds(new) == ["Masking", "FixedMixture"]
    np.testing.assert_allclose(new(x)[:, :5], model(x, training=False)[:, :5], rtol=0, atol=5e-6)


def test_one_layer_on_images_of_many_sizes():
    """Built for the first of them; 25 positions can't stand side by side as 36 can, and some are not known."""
    shapes = (6, 6, 4), (5, 5, 4), (None, 3, 4)
    norm, inputs = own.AdaptiveNormalization(), [keras.Input(shape) for shape in shapes]
    model = keras.Model(inputs, [norm(x) for x in inputs])
    x = [examples([size or 7 for size in shape]) for shape in shapes]
    model(x, training=True)
    new = specialize(model, x).model
    assert kinds(new)[-1] == "FixedMixture"
    for one, other in zip(new(x), model(x, training=False), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-6)


@pytest.mark.parametrize("offset, left", [(0, "FixedMixture"), (90, "FixedMixture"), (1e4, "AdaptiveNormalization")])
def test_digits_of_large_means(offset, left):
    """Against the equation in float64; of a mean of 1e4 deviations, a factor and an offset would keep three digits."""
    norm = own.AdaptiveNormalization()
    model = trained(norm, SHAPES["image"])
    shift = np.float32(offset * np.sqrt(np.min(norm.moving_variance)))
    norm.moving_mean.assign_add(np.full(8, shift))
    set_gate(norm, 0.6)
    x = examples(SHAPES["image"]) + shift
    new = specialize(model, x, tolerance=1e-4)
    assert kinds(new.model) == [left]
    assert (new.steps[0].what == LARGE_MEAN) == (offset == 1e4)
    exact = x.astype("float64")
    gamma, beta, mean, variance = (
        np.array(v, "float64") for v in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    own_mean, own_variance = (getattr(exact, name)((1, 2, 3), keepdims=True) for name in ("mean", "var"))
    batch = (exact - mean) / np.sqrt(variance + norm.epsilon)
    layer = (exact - own_mean) / np.sqrt(own_variance + norm.epsilon)
    expected = gamma * (0.6 * batch + 0.4 * layer) + beta
    np.testing.assert_allclose(
        new.model(x), expected, rtol=0, atol=5e-6 + (3e-7 * offset if left == "FixedMixture" else 0)
    )


@pytest.mark.parametrize("options", ["layer", "group", "channel gate", "neither gamma nor beta", "large epsilon"])
def test_a_gate_near_1_becomes_batch_normalization_and_folds(options):
    norm = own.AdaptiveNormalization(**OPTIONS[options])
    model = trained(norm, SHAPES["image"], k.Conv2D(8, 3, use_bias=False, name="conv"))
    set_gate(norm, 0.9995)
    x = examples(SHAPES["image"])
    specialized = specialize(model, x, tolerance=1e-2)
    assert kinds(specialized.model) == ["Conv2D"]
    assert [step.what[:12] for step in specialized.steps] == ["its gate is ", "folded into "]
    # of outputs of up to 4 the alternative has a share of 5e-4
    assert_same(specialized.model, model, x, atol=2e-3)


def test_what_is_left_of_the_alternative_is_made_up_for():
    """Nearer to the mixture than batch normalization with its gamma and beta."""
    norm = own.AdaptiveNormalization(alternative="group", groups=2)
    model = trained(norm, SHAPES["image"], k.Conv2D(8, 3), spread=0.2)
    set_gate(norm, 0.999)
    x = examples(SHAPES["image"], 64, spread=0.2)
    y = np.array(model(x, training=False))
    plain = own.BatchNormalization()
    other = keras.Model(model.input, plain(model.layers[1].output))
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        getattr(plain, name).assign(getattr(norm, name))
    made_up = specialize(model, x, gate_tolerance=2e-3, tolerance=1e-2).model
    assert kinds(made_up) == ["Conv2D"]
    errors = [np.abs(np.array(one(x, training=False)) - y).mean() for one in (made_up, other)]
    assert errors[0] < 0.75 * errors[1]


def test_a_gate_that_matters_is_kept():
    """Rounding it would cost more than half of the tolerance: it stays as it is, and the export goes on."""
    norm = own.AdaptiveNormalization()
    model = trained(norm, SHAPES["image"], k.Conv2D(8, 3))
    set_gate(norm, 0.9991)
    x = examples(SHAPES["image"])
    specialized = specialize(model, x, tolerance=1e-5)
    assert kinds(specialized.model) == ["Conv2D", "FixedMixture"]
    assert_same(specialized.model, model, x)


@pytest.mark.parametrize("tolerance, rounded", [(1e-2, True), (1e-6, False)])
def test_a_gate_near_0_becomes_the_alternative(tolerance, rounded):
    norm = own.AdaptiveNormalization(alternative="group", groups=2)
    model = trained(norm, SHAPES["image"])
    set_gate(norm, 1e-4)
    x = examples(SHAPES["image"])
    group = own.GroupNormalization(2)
    other = keras.Model(model.input, group(model.input))
    for name in ("gamma", "beta"):
        getattr(group, name).assign(getattr(norm, name))
    specialized = specialize(model, x, tolerance=tolerance)
    became = ["its gate is 0.00010: became group normalization", "constants worked out"]
    assert [step.what for step in specialized.steps] == (
        became if rounded else ["its gate is 0.00010: constants worked out"]
    )
    assert_same(specialized.model, other, x, atol=1e-3)
    assert_same(specialized.model, model, x, atol=1e-3 if rounded else 5e-6)


def test_what_is_left_of_batch_normalization_is_made_up_for():
    """Nearer to the mixture than group normalization with its gamma and beta."""
    norm = own.AdaptiveNormalization(alternative="group", groups=2)
    model = trained(norm, SHAPES["image"], spread=0.1)
    set_gate(norm, 0.001)
    x = examples(SHAPES["image"], 64, spread=0.1)
    y = np.array(model(x, training=False))
    plain = own.GroupNormalization(2)
    other = keras.Model(model.input, plain(model.input))
    for name in ("gamma", "beta"):
        getattr(plain, name).assign(getattr(norm, name))
    made_up = specialize(model, x, gate_tolerance=2e-3, tolerance=1e-2)
    assert "became group" in made_up.steps[0].what
    errors = [np.abs(np.array(one(x, training=False)) - y).mean() for one in (made_up.model, other)]
    assert errors[0] < 0.75 * errors[1]


@pytest.mark.parametrize(
    "weights, left", [("batch", []), ("layer", ["FixedMixture"]), ("instance", ["InstanceNormalization"])]
)
def test_a_switch_with_all_weight_on_one(weights, left):
    norm = own.SwitchableNormalization()
    model = trained(norm, SHAPES["image"], k.Conv2D(8, 3))
    logits = {"instance": [12.0, 0.0, 0.0], "layer": [0.0, 12.0, 0.0], "batch": [0.0, 0.0, 12.0]}[weights]
    norm.mean_logits.assign(logits)
    norm.variance_logits.assign(logits)
    x = examples(SHAPES["image"])
    new = specialize(model, x, tolerance=1e-3).model
    assert kinds(new) == ["Conv2D", *left]
    assert_same(new, model, x, atol=1e-3)


@pytest.mark.parametrize(
    "mean, variance, tolerance",
    [([0, 9, 0], [0, 0, 9], 1e-2), ([1, 0, 0], [1, 0, 0], 1e-2), ([0, 0, 7], [0, 0, 7], 1e-6)],
)
def test_a_switch_between_normalizers_is_left(mean, variance, tolerance):
    """Weights on two of them, weights that are not settled, and some that cannot be neglected."""
    norm = own.SwitchableNormalization()
    model = trained(norm, SHAPES["image"], k.Conv2D(8, 3))
    norm.mean_logits.assign(mean)
    norm.variance_logits.assign(variance)
    x = examples(SHAPES["image"])
    new = specialize(model, x, gate_tolerance=1e-2, tolerance=tolerance).model
    assert kinds(new) == ["Conv2D", "SwitchableNormalization"]
    assert_same(new, model, x)
