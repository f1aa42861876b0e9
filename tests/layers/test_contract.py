"""What every layer promises, held against plain NumPy float64."""

import keras
import numpy as np
import pytest

from nrm_keras.layers import (
    AdaptiveNormalization,
    BatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    SwitchableNormalization,
)
from tests import references
from tests.layers.backends import HAS_FLOAT64, gradients, tensorflow_only, tolerance
from tests.layers.cases import CASES, EPSILON, SecondDomain, randomize, to_numpy, weights

SHAPES = {
    (2, -1): (5, 4),
    (2, 1): (5, 4),
    (3, -1): (5, 3, 4),
    (3, 1): (5, 4, 3),
    (4, -1): (4, 3, 2, 4),
    (4, 1): (4, 4, 3, 2),
    (4, 2): (4, 3, 4, 2),
    (5, -1): (3, 2, 1, 3, 4),
    (5, 1): (3, 4, 2, 1, 3),
}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_running_case = pytest.mark.parametrize("case", [c for c in CASES if c.running], ids=lambda case: case.name)
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])


def inputs(shape, seed=1, dtype="float32"):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(dtype)


def random_mask(shape, axis, seed=2):
    """A mask without the channel axis: about half is padding, and one example is nothing else."""
    mask = np.random.default_rng(seed).random(np.delete(shape, axis)) < 0.6
    mask[0] = True
    mask[1:2] = False
    return mask


def spread(mask, shape, axis):
    return np.broadcast_to(np.expand_dims(mask, axis), shape)


@every_case
@both_modes
@pytest.mark.parametrize("rank, axis", SHAPES, ids=lambda value: str(value))
def test_against_reference(case, training, rank, axis):
    shape = SHAPES[rank, axis]
    layer = randomize(case.make(axis=axis), shape)
    x, before = inputs(shape), weights(layer)
    y = to_numpy(layer(x, training=training))
    np.testing.assert_allclose(y, case.reference(x, before, axis, None, training), rtol=2e-5, atol=2e-5)


@every_case
@both_modes
@pytest.mark.parametrize("rank, axis", SHAPES, ids=lambda value: str(value))
def test_masks_against_reference(case, training, rank, axis):
    shape = SHAPES[rank, axis]
    mask = random_mask(shape, axis)
    layer = randomize(case.make(axis=axis), shape)
    x, before = inputs(shape), weights(layer)
    y = to_numpy(layer(x, training=training, mask=mask))
    valid = spread(mask, shape, axis)
    expected = case.reference(x, before, axis, mask, training)
    np.testing.assert_allclose(y[valid], expected[valid], rtol=2e-5, atol=2e-5)
    assert np.all(np.isfinite(y))


@every_case
@pytest.mark.parametrize("padding", [0.0, -7e5, 1e30, np.inf, np.nan])
def test_padding_never_changes_valid_positions(case, padding):
    shape, axis = (4, 3, 2, 4), -1
    valid = spread(random_mask(shape, axis), shape, axis)
    x = inputs(shape)
    upstream = np.where(valid, inputs(shape, seed=3), 0)
    results = []
    for filled in (x, np.where(valid, x, np.float32(padding))):
        layer = randomize(case.make(), shape)
        y, dx, *rest = gradients(layer, filled, upstream, mask=random_mask(shape, axis))
        results.append([y[valid], dx[valid], *rest, *weights(layer).values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@every_case
def test_example_mask_means_every_position_of_it(case):
    shape = (4, 3, 2, 4)
    x, examples = inputs(shape), np.array([True, False, True, True])
    positions = np.broadcast_to(examples[:, None, None], shape[:-1])
    short, full = (
        to_numpy(randomize(case.make(), shape)(x, training=True, mask=mask)) for mask in (examples, positions)
    )
    np.testing.assert_array_equal(short, full)


@every_case
@both_modes
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize(
    "shape, axis",
    [((3, 4), -1), ((3, 2, 4), -1), ((3, 2, 2, 4), -1), ((3, 4, 1, 2, 1), 1), ((1, 1, 1, 4), -1)],
    ids=str,
)
def test_gradients_against_finite_differences(case, training, masked, shape, axis):
    """With a channel whose gamma is 0, and one that is constant."""
    x, upstream = inputs(shape, dtype="float64"), inputs(shape, seed=3, dtype="float64")
    np.moveaxis(x, axis, 0)[2] = 7.0
    mask = random_mask(shape, axis) if masked else None
    if masked:
        upstream = np.where(spread(mask, shape, axis), upstream, 0)
    layer = randomize(case.make(axis=axis, dtype="float64"), shape)
    layer.gamma.assign([0.7, 0.0, 1.3, -0.4])
    before = weights(layer)
    _, *actual = gradients(layer, x, upstream, training, mask)

    def loss(x, **changed):
        return np.sum(case.reference(x, {**before, **changed}, axis, mask, training) * upstream)

    expected = [references.gradient(loss, x)]
    for variable in layer.trainable_variables:
        expected.append(references.gradient(lambda v, n=variable.name: loss(x, **{n: v}), before[variable.name]))
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance(1e-6), atol=tolerance(1e-7))


@tensorflow_only
@every_case
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("shape", [(3, 2, 2, 4), (3, 2, 4), (6, 4)], ids=str)
def test_second_derivatives_are_those_of_the_first(case, shape, masked):
    """A stop_gradient within Keras' variance makes every Hessian through its normalizers wrong on TensorFlow."""
    import tensorflow as tf

    x, upstream, direction = (inputs(shape, seed, "float64") for seed in (1, 3, 4))
    mask = random_mask(shape, -1) if masked else None
    if masked:
        upstream = np.where(spread(mask, shape, -1), upstream, 0)
    layer = randomize(case.make(dtype="float64"), shape)

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(layer(x, training=True, mask=mask)) * upstream)
        return tape.gradient(loss, x)

    point = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(point)
        along = tf.reduce_sum(slope(point) * direction)
    step = 1e-6
    expected = (slope(point + step * direction) - slope(point - step * direction)) / (2 * step)
    np.testing.assert_allclose(tape.gradient(along, point), expected, rtol=1e-5, atol=1e-6)


@tensorflow_only
@every_case
@pytest.mark.parametrize("shape", [(3, 2, 2, 4), (3, 2, 4), (6, 4)], ids=str)
@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-5), ("float32", 2e-3)])
def test_forward_over_reverse_is_double_backward(case, shape, dtype, rtol):
    """Hessian-vector products both ways, against differences of float64 gradients; float32 has kernels of its own."""
    import tensorflow as tf

    x, upstream, direction = (inputs(shape, seed, "float64") for seed in (1, 3, 4))

    def slope(layer, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(layer(x, training=True)) * tf.cast(upstream, x.dtype))
        return tape.gradient(loss, x)

    exact, step = randomize(case.make(dtype="float64"), shape), 1e-6
    above, below = (slope(exact, tf.constant(x + sign * step * direction)) for sign in (1, -1))
    expected = (above - below) / (2 * step)
    layer, point = randomize(case.make(dtype=dtype), shape), tf.constant(x, dtype)
    along = tf.constant(direction, dtype)
    with tf.autodiff.ForwardAccumulator(point, along) as accumulator:
        forward = accumulator.jvp(slope(layer, point))
    with tf.GradientTape() as tape:
        tape.watch(point)
        product = tf.reduce_sum(slope(layer, point) * along)
    backward = tape.gradient(product, point)
    scale = max(np.max(np.abs(expected)), 1)
    for result in (forward, backward):
        np.testing.assert_allclose(result, expected, rtol=0, atol=rtol * scale)


@every_case
@both_modes
@pytest.mark.parametrize(
    "shape", [(1, 4), (1, 1, 1, 4), (3, 1, 1, 4), (1, 3, 4), (0, 4), (0, 3, 4), (0, 3, 2, 4)], ids=str
)
def test_small_and_empty_batches_are_finite(case, training, shape):
    layer = randomize(case.make(), shape)
    before = weights(layer)
    results = gradients(layer, inputs(shape), np.ones(shape), training)
    assert results[0].shape == results[1].shape == shape
    assert all(np.all(np.isfinite(result)) for result in results)
    if shape[0] > 0:
        expected = case.reference(inputs(shape), before, -1, None, training)
        np.testing.assert_allclose(results[0], expected, rtol=2e-5, atol=2e-5)


@every_case
def test_constant_input_gives_beta(case):
    shape = (4, 3, 2, 4)
    layer = randomize(case.make(), shape)
    y, *slopes = gradients(layer, np.full(shape, 7.0, "float32"), inputs(shape))
    np.testing.assert_allclose(y, np.broadcast_to(weights(layer)["beta"], shape), atol=1e-5)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)


@every_case
def test_fully_masked_batch_passes_unamplified(case):
    shape = (3, 2, 2, 4)
    layer = case.make()
    x = inputs(shape)
    results = gradients(layer, x, np.ones(shape), mask=np.zeros(shape[:-1], bool))
    assert all(np.all(np.isfinite(result)) for result in results)
    assert np.max(np.abs(results[0])) <= np.max(np.abs(x))


@every_running_case
@pytest.mark.parametrize("batch", ["nan", "infinite", "overflow", "empty", "masked"])
def test_useless_batch_leaves_running_statistics_alone(case, batch):
    shape = (0 if batch == "empty" else 3, 2, 2, 4)
    layer = randomize(case.make(), shape)
    layer(inputs((3, 2, 2, 4)), training=True)
    before, x, mask = weights(layer), inputs(shape), None
    if batch in ("nan", "infinite", "overflow"):
        x[1, 0, 1, 2] = {"nan": np.nan, "infinite": np.inf, "overflow": 1e30}[batch]
    if batch == "masked":
        mask = np.zeros(shape[:-1], bool)
    layer(x, training=True, mask=mask)
    assert before["update_count"] == 1
    for name, value in weights(layer).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@every_case
@both_modes
@pytest.mark.parametrize("dtype, bits", [("float16", 10), ("bfloat16", 7)])
def test_half_precision_up_to_60000(case, training, dtype, bits):
    """Within 2 units in the last place of the output, plus 1e-3, of float64 on the already rounded input."""
    shape = (6, 5, 3, 4)
    rounded = keras.ops.cast(np.random.default_rng(1).uniform(-6e4, 6e4, shape), dtype)
    x = to_numpy(rounded).astype("float64")
    layer = randomize(case.make(dtype=f"mixed_{dtype}"), shape)
    layer.gamma.assign(np.full(4, 0.5))
    if case.running:
        layer.moving_mean.assign(np.full(4, 1e3))
        layer.moving_variance.assign(np.full(4, 1e9))
    expected = case.reference(x, weights(layer), -1, None, training)
    y = layer(rounded, training=training)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    ulp = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(expected), 2.0**-14))) - bits)
    assert np.all(np.abs(to_numpy(y) - expected) <= 2 * ulp + 1e-3)
    assert all(np.all(np.isfinite(value)) for value in weights(layer).values())


@every_case
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float32", "float64"])
def test_dtype_policies(case, policy):
    """float32 inputs above float16's largest number survive, weights stay precise: Keras' layer gives NaN here."""
    if policy == "float64" and not HAS_FLOAT64:
        pytest.skip("on this backend Keras computes float64 in float32")
    layer = case.make(dtype=policy)
    x = np.array([[7e4, -7e4, 9e4, 1e5], [8e4, -6e4, -9e4, 1e5]], "float32")
    y = layer(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    assert np.all(np.isfinite(to_numpy(y)))
    assert {v.dtype for v in layer.variables} == {"float64" if policy == "float64" else "float32"}
    assert all(np.all(np.isfinite(value)) for value in weights(layer).values())


@every_case
@pytest.mark.parametrize("scale, shift", [(3.0, 0.0), (1.0, -50.0), (0.2, 7.0), (1e3, 1e4)])
def test_invariant_to_scale_and_shift(case, scale, shift):
    shape = (4, 3, 2, 4)
    x = inputs(shape, dtype="float64")
    one, other = (
        to_numpy(randomize(case.make(epsilon=1e-20, dtype="float64"), shape)(values, training=True))
        for values in (x, scale * x + shift)
    )
    np.testing.assert_allclose(one, other, rtol=tolerance(1e-8), atol=tolerance(1e-8))


SYMMETRIES = {
    "examples": lambda x: x[::-1],
    "height": lambda x: x[:, ::-1],
    "transposed": lambda x: x.transpose(0, 2, 1, 3),
    "channels": lambda x: x[..., ::-1],
}


@every_case
@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_equivariant_to_reordering(case, symmetry):
    # Reversal keeps channels in their groups, and examples in their virtual batches.
    shape, reorder = (6, 3, 3, 4), SYMMETRIES[symmetry]
    x = inputs(shape, dtype="float64")
    one, other = (to_numpy(case.make(dtype="float64")(values, training=True)) for values in (x, reorder(x)))
    np.testing.assert_allclose(reorder(one), other, rtol=tolerance(1e-12), atol=tolerance(1e-12))


@every_case
def test_inference_does_not_depend_on_the_request(case):
    shape = (6, 3, 2, 4)
    layer = randomize(case.make(), shape)
    x = inputs(shape)
    x[0] *= 1e6
    together = to_numpy(layer(x))
    alone = np.concatenate([to_numpy(layer(x[n : n + 1])) for n in range(6)])
    np.testing.assert_allclose(alone, together, rtol=1e-6, atol=1e-6)


@tensorflow_only
@every_case
@both_modes
@pytest.mark.parametrize("masked, axis", [(False, -1), (True, 1)], ids=["all", "masked"])
def test_graphs_and_xla_give_the_same(case, training, masked, axis):
    """Outputs, gradients and running statistics, in a graph with no size known but that of the channels."""
    import tensorflow as tf

    shape = (4, 4, 3, 4)
    layer = randomize(case.make(axis=axis), shape)
    before, x = weights(layer), inputs(shape)
    mask = random_mask(shape, axis) if masked else np.ones(np.delete(shape, axis), bool)
    upstream = np.where(spread(mask, shape, axis), inputs(shape, seed=3), 0).astype("float32")

    def run(x, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training, mask=mask if masked else None)
        return tf.where(upstream == 0, 0.0, y), *tape.gradient(y, [x, *layer.trainable_weights], upstream)

    def results(function):
        for variable in layer.variables:
            variable.assign(before[variable.name])
        return [*map(to_numpy, function(tf.constant(x), tf.constant(mask))), *weights(layer).values()]

    unknown = [None] * len(shape)
    unknown[axis] = shape[axis]
    signature = [tf.TensorSpec(unknown), tf.TensorSpec([None] * 3, "bool")]
    expected = results(run)
    for options in ({"input_signature": signature}, {"jit_compile": True}):
        actual = results(tf.function(run, autograph=False, **options))
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=3e-5)


@tensorflow_only
@every_case
@pytest.mark.parametrize("dtype, bits", [("float16", 10), ("bfloat16", 7)])
def test_half_precision_gradients(case, dtype, bits):
    """Against float64 on the already rounded input, eagerly and compiled: sums are never those of rounded numbers."""
    import tensorflow as tf

    shape = (4, 3, 2, 4)
    x, upstream = (tf.cast(inputs(shape, seed), dtype) for seed in (1, 3))
    layer, exact = (randomize(case.make(dtype=d), shape) for d in (f"mixed_{dtype}", "float64"))

    def run(layer, x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, *tape.gradient(y, [x, *layer.trainable_weights], upstream)

    expected = run(exact, tf.cast(x, "float64"), tf.cast(upstream, "float64"))
    for function in (run, tf.function(run, autograph=False, jit_compile=True)):
        for one, other in zip(function(layer, x, upstream), expected, strict=True):
            scale = max(1, np.max(np.abs(other)))
            np.testing.assert_allclose(to_numpy(one), other, rtol=0, atol=2.0**-bits * scale)


@every_case
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_fit_save_and_load(case, policy, tmp_path):
    norm, head = case.make(dtype=policy, name="norm"), keras.layers.Dense(3, dtype=policy)
    model = keras.Sequential([keras.Input((6, 4)), keras.layers.Masking(0.0), norm, head])
    model.compile("sgd", "mse")
    x, y = inputs((8, 6, 4)), inputs((8, 6, 3))
    x[:, 4:] = 0
    history = model.fit(x, y, batch_size=4, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(x, verbose=0), loaded.predict(x, verbose=0))
    assert loaded.get_layer("norm").get_config() == model.get_layer("norm").get_config()


@every_case
def test_config_round_trips_before_and_after_build(case):
    layer = case.make(axis=1, gamma_regularizer="l2", beta_constraint="non_neg", center=True, name="a")
    before = layer.get_config()
    layer.build((None, 4, 3))
    assert layer.get_config() == before
    copy = type(layer).from_config(before)
    assert copy.get_config() == before
    copy.build((None, 4, 3))
    assert [v.shape for v in copy.variables] == [v.shape for v in layer.variables]
    assert float(copy.losses[0]) == pytest.approx(0.01 * 4)
    assert type(copy.beta.constraint) is keras.constraints.NonNeg


@every_case
def test_without_center_and_scale(case):
    shape = (4, 3, 2, 4)
    layer = case.make(center=False, scale=False)
    x = inputs(shape)
    y = to_numpy(layer(x, training=True))
    assert not {"gamma", "beta"} & {v.name for v in layer.variables}
    unit = {"gamma": np.ones(4), "beta": np.zeros(4), **weights(layer)}
    np.testing.assert_allclose(y, case.reference(x, unit, -1, None, True), rtol=2e-5, atol=2e-5)


@every_running_case
def test_not_trainable_is_inference(case):
    shape = (4, 3, 2, 4)
    layer = randomize(case.make(), shape)
    layer.trainable = False
    before, x = weights(layer), inputs(shape)
    y = to_numpy(layer(x, training=True))
    np.testing.assert_allclose(y, case.reference(x, before, -1, None, False), rtol=2e-5, atol=2e-5)
    assert layer.trainable_variables == []
    for name, value in weights(layer).items():
        np.testing.assert_array_equal(value, before[name])


@every_case
@pytest.mark.parametrize("mask_shape", [(4, 2), (3, 3), (4, 3, 4), ()], ids=str)
def test_mask_that_does_not_fit(case, mask_shape):
    with pytest.raises(ValueError, match=r"A mask must have the leading dimensions.*Received: mask.shape"):
        case.make()(inputs((4, 3, 4)), mask=np.ones(mask_shape, bool))


@every_case
@pytest.mark.parametrize("axis, shape", [(0, (4, 4)), (2, (4, 4)), (-1, (4,)), (-3, (4, 4))])
def test_axis_that_is_no_channel_axis(case, axis, shape):
    with pytest.raises(ValueError, match="`axis` must be the channel axis"):
        case.make(axis=axis).build(shape)


def two_passes(x, axes):
    """Mean and variance in float32: the best mean that float32 can hold, and the mean square of what is left."""
    import tensorflow as tf

    mean = tf.cast(tf.reduce_mean(tf.cast(x, "float64"), axes, keepdims=True), x.dtype)
    return mean, tf.reduce_mean(tf.square(x - mean), axes, keepdims=True)


def standard(x, mean, variance):
    return (x - mean) * (variance + EPSILON) ** -0.5


def plain(*axes):
    return lambda x: standard(x, *two_passes(x, axes))


def half(one, other):
    return lambda x: 0.5 * one(x) + 0.5 * other(x)


def thirds(x):
    means, variances = zip(*(two_passes(x, axes) for axes in [(1, 2), (1, 2, 3), (0, 1, 2)]), strict=True)
    return standard(x, sum(means) / 3, sum(variances) / 3)


def halves(x):
    import tensorflow as tf

    return tf.concat([plain(0, 1, 2)(part) for part in tf.split(x, 2)], 0)


def plain_gradients(function, x, upstream):
    """[y, dx, dgamma, dbeta] of plain formulas, as TensorFlow differentiates them."""
    import tensorflow as tf

    x, gamma, beta = tf.constant(x), tf.ones(x.shape[-1:]), tf.zeros(x.shape[-1:])
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        y = function(x) * gamma + beta
    return [y, *tape.gradient(y, [x, gamma, beta], upstream)]


def largest_errors(make, x, upstream, axis=-1):
    """Of [y, dx, dgamma, dbeta] in float32 against the same layer in float64, which holds 1e4 with room to spare."""
    x, upstream = (np.ascontiguousarray(np.moveaxis(values, -1, axis)) for values in (x, upstream))
    exact = gradients(make(axis=axis, dtype="float64"), x.astype("float64"), upstream)[:4]
    actual = gradients(make(axis=axis), x, upstream)[:4]
    return [np.max(np.abs(one - other)) for one, other in zip(actual, exact, strict=True)], exact


# Layers of 8 examples, whose shares are equal before training, and plain formulas of them.
PLAIN = {
    "batch": (BatchNormalization, plain(0, 1, 2)),
    "virtual": (lambda **k: BatchNormalization(virtual_batch_size=4, **k), halves),
    "instance": (InstanceNormalization, plain(1, 2)),
    "layer": (LayerNormalization, plain(3)),
    "sample": (lambda **k: GroupNormalization(groups=1, **k), plain(1, 2, 3)),
    "separate": (lambda **k: GroupNormalization(groups=1, positions="separate", **k), plain(3)),
    "adaptive": (AdaptiveNormalization, half(plain(0, 1, 2), plain(1, 2, 3))),
    "adaptive-separate": (lambda **k: AdaptiveNormalization(positions="separate", **k), half(plain(0, 1, 2), plain(3))),
    "switchable": (SwitchableNormalization, thirds),
    "domain": (lambda **k: SecondDomain(domains=3, **k), plain(0, 1, 2)),
}


def no_worse_than(factor, name, x, axis=-1):
    make, formula = PLAIN[name]
    upstream = np.random.default_rng(2).normal(size=x.shape).astype("float32")
    errors, exact = largest_errors(make, x, upstream, axis)
    exact[:2] = (np.moveaxis(values, axis, -1) for values in exact[:2])
    two = plain_gradients(formula, x, upstream)
    for what, error, one, other in zip(("y", "dx", "dgamma", "dbeta"), errors, two, exact, strict=True):
        allowed = np.max(np.abs(one - other))
        print(f"{name}, {what}: error {error:.2e}, two passes {allowed:.2e}")
        assert error <= factor * allowed, what


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("name", PLAIN)
def test_large_offset_is_no_worse_than_twice_two_passes(name, axis):
    """Unit spread at an offset of 1e4 in float32. Without a shift, y and dx lose three digits."""
    no_worse_than(2, name, np.random.default_rng(1).normal(1e4, 1.0, (8, 8, 8, 16)).astype("float32"), axis)


def test_first_example_unlike_the_others():
    """The fused kernel's shift was its mean: 45 standard deviations off, dx and dgamma had 8 times the error."""
    x = np.random.default_rng(1).normal(1e4, 1.0, (2048, 1, 1, 8)).astype("float32")
    x[0] = 0
    # Not 2: each adds its 2048 numbers in an order of its own.
    no_worse_than(3, "batch", x)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("name", ["batch", "instance", "sample", "adaptive"])
def test_first_positions_unlike_the_others(name, axis):
    """The shift is theirs, 2.6 standard deviations off, which is as far as an eighth of the positions can be."""
    x = np.random.default_rng(1).normal(1e4, 1.0, (8, 16, 16, 8)).astype("float32")
    x[:, :2] -= 30
    no_worse_than(2, name, x, axis)


def test_large_offset_at_inference_far_from_the_running_mean():
    """The mixer's alternative has two passes' precision (bound: half an ulp of 1e4) before any training, too."""
    x = np.random.default_rng(1).normal(1e4, 1.0, (8, 8, 8, 16)).astype("float32")
    layer = AdaptiveNormalization()
    layer.build(x.shape)
    layer.gate_delta.assign(1e3)
    expected = references.group_normalization(x, np.ones(16), np.zeros(16), EPSILON, 1)
    assert np.max(np.abs(to_numpy(layer(x)) - expected)) <= 2.0**-11


@every_case
@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("example", [0, 2], ids=["first", "middle"])
def test_what_is_not_finite_touches_no_other_example(case, example, value):
    """Outputs and gradients; where examples share statistics in training, at inference."""
    shape, training = (4, 2, 2, 4), not case.running
    x, upstream = inputs(shape), inputs(shape, seed=3)
    expected = gradients(randomize(case.make(), shape), x, upstream, training)[:2]
    x[example, 0, 1, 2] = value
    actual = gradients(randomize(case.make(), shape), x, upstream, training)[:2]
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(np.delete(one, example, 0), np.delete(other, example, 0))


@pytest.mark.parametrize("where", [(0, 0, 0), (1, 1, 1)], ids=["first", "middle"])
def test_infinite_value_at_inference_touches_nothing_else(where):
    layer = randomize(BatchNormalization(), (3, 2, 2, 4))
    x = inputs((3, 2, 2, 4))
    expected = to_numpy(layer(x))
    x[where] = np.inf
    others = np.isfinite(x)
    np.testing.assert_array_equal(to_numpy(layer(x))[others], expected[others])
