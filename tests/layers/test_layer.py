import keras
import numpy as np
import pytest
import tensorflow as tf

from nrm_keras.layers import LayerNormalization
from tests import references
from tests.layers.cases import randomize, to_numpy, weights

SHAPE = (3, 4, 5, 2)
AXES = [-1, 2, 1, [3], [1, -1], [-1, 1], [-1, -2], (1, 2), [3, 1, 2], (-3, -2, -1)]

every_axis = pytest.mark.parametrize("axis", AXES, ids=str)


def as_list(axis):
    return [axis] if isinstance(axis, int) else axis


def inputs(seed=1, shape=SHAPE):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape)


def leading_mask(rank):
    mask = np.random.default_rng(2).random(SHAPE[:rank]) < 0.6
    mask[0] = True
    return mask


def reference(x, w, axis, mask=None):
    broadcast = [size if a in {b % x.ndim for b in as_list(axis)} else 1 for a, size in enumerate(x.shape)]
    standardized = references.layer_normalization(x, 1.0, 0.0, 1e-3, as_list(axis), mask)
    return standardized * w["gamma"].reshape(broadcast) + w["beta"].reshape(broadcast)


def test_hand_worked_axes_in_any_order():
    # Over axes 1 and 3: (0, 2, 4, 6) has mean 3 and variance 5; the other place of axis 2 is constant.
    x = np.array([[[[0.0, 2.0], [7.0, 7.0]], [[4.0, 6.0], [7.0, 7.0]]]], "float32")
    expected = np.array([[[[-3, -1], [0, 0]], [[1, 3], [0, 0]]]]) / 3
    for axis in ([1, 3], [3, 1], [1, -1], (-1, -3)):
        np.testing.assert_allclose(LayerNormalization(axis, epsilon=4.0)(x), expected, rtol=1e-6, atol=1e-6)


@every_axis
def test_against_reference(axis):
    layer, x = randomize(LayerNormalization(axis), SHAPE), inputs()
    expected = reference(x, weights(layer), axis)
    assert layer.gamma.shape == layer.beta.shape == tuple(SHAPE[a] for a in sorted(a % 4 for a in as_list(axis)))
    np.testing.assert_allclose(layer(x.astype("float32")), expected, rtol=2e-5, atol=2e-5)
    dynamic = tf.function(layer, input_signature=[tf.TensorSpec((None, 4, 5, 2))])
    np.testing.assert_allclose(dynamic(x.astype("float32")), expected, rtol=2e-5, atol=2e-5)
    compiled = tf.function(layer, jit_compile=True)
    np.testing.assert_allclose(compiled(x.astype("float32")), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("axis", [a for a in AXES if a not in ([1, -1], [-1, 1])], ids=str)
def test_equals_keras_layer_and_loads_its_weights(axis, tmp_path):
    """Of mixed signs, Keras sorts the axes wrongly."""
    theirs, ours = (
        keras.Sequential([keras.Input(SHAPE[1:]), make(axis, name="norm")])
        for make in (keras.layers.LayerNormalization, LayerNormalization)
    )
    for variable in theirs.variables:
        variable.assign(np.random.default_rng(3).normal(size=variable.shape))
    theirs.save_weights(tmp_path / "a.weights.h5")
    ours.load_weights(tmp_path / "a.weights.h5")
    x = inputs().astype("float32")
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@every_axis
@pytest.mark.parametrize("rank", [None, 1, 2, 3])
def test_gradients_against_finite_differences(axis, rank):
    if rank == 3 and as_list(axis) in ([1], [2]):
        pytest.skip("a mask without the channel axis: the contract's")
    x, upstream = inputs(), inputs(3)
    mask = None if rank is None else leading_mask(rank)
    if rank is not None:
        upstream *= mask.reshape(mask.shape + (1,) * (4 - rank))
    layer, point = randomize(LayerNormalization(axis, dtype="float64"), SHAPE), tf.constant(x)
    before = weights(layer)
    with tf.GradientTape() as tape:
        tape.watch(point)
        loss = tf.reduce_sum(layer(point, mask=mask) * upstream)
    actual = tape.gradient(loss, [point, layer.gamma.value, layer.beta.value])

    def reference_loss(x=x, **changed):
        return np.sum(reference(x, {**before, **changed}, axis, mask) * upstream)

    assert float(loss) == pytest.approx(reference_loss(), rel=1e-9)
    expected = [
        references.gradient(reference_loss, x),
        references.gradient(lambda v: reference_loss(gamma=v), before["gamma"]),
        references.gradient(lambda v: reference_loss(beta=v), before["beta"]),
    ]
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@every_axis
@pytest.mark.parametrize("padding", [0.0, 1e30, np.inf, np.nan])
def test_padding_within_an_example_never_changes_valid_positions(axis, padding):
    mask = leading_mask(2)
    valid = np.broadcast_to(mask[:, :, None, None], SHAPE)
    x, upstream = inputs().astype("float32"), tf.constant(np.where(valid, inputs(3), 0), "float32")
    results = []
    for filled in (x, np.where(valid, x, np.float32(padding))):
        layer, point = randomize(LayerNormalization(axis), SHAPE), tf.constant(filled)
        with tf.GradientTape() as tape:
            tape.watch(point)
            y = layer(point, mask=mask)
            loss = tf.reduce_sum(tf.where(valid, y * upstream, 0))
        assert np.all(np.isfinite(y))
        dx, *rest = tape.gradient(loss, [point, layer.gamma.value, layer.beta.value])
        results.append([to_numpy(y)[valid], to_numpy(dx)[valid], *map(to_numpy, rest)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_second_derivatives_with_padding_within():
    x, direction, mask = inputs(), inputs(4), leading_mask(2)
    layer = randomize(LayerNormalization([1, -1], dtype="float64"), SHAPE)
    valid = mask[:, :, None, None]

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.where(valid, tf.square(layer(x, mask=mask)), 0) * inputs(3))
        return tape.gradient(loss, x)

    point = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(point)
        along = tf.reduce_sum(slope(point) * direction)
    expected = (slope(point + 1e-6 * direction) - slope(point - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(tape.gradient(along, point), expected, rtol=1e-5, atol=1e-6)


def test_mask_passes_through():
    model = keras.Sequential([keras.Input((3, 2)), keras.layers.Masking(), LayerNormalization()])
    x = np.array([[[1.0, 3.0], [0.0, 0.0], [2.0, 8.0]]], "float32")
    np.testing.assert_array_equal(keras.src.backend.get_keras_mask(model(x)), [[True, False, True]])


@pytest.mark.parametrize("axis", [-1, 1, [1, -1], [-1, 1], (1, 2)], ids=str)
def test_axis_is_never_rewritten(axis):
    layer = LayerNormalization(axis, epsilon=0.1)
    config = layer.get_config()
    assert config["axis"] == (axis if isinstance(axis, int) else list(axis))
    layer.build((None, 4, 5))
    assert layer.get_config() == config
    assert LayerNormalization.from_config(config).get_config() == config


def test_config_of_keras_layer_builds_ours():
    theirs = keras.layers.LayerNormalization(axis=[1, 2], epsilon=1e-5, scale=False)
    assert LayerNormalization.from_config(theirs.get_config()).get_config() == theirs.get_config()


@pytest.mark.parametrize("axis", [[1, -1], 2], ids=str)
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_saves_and_loads(axis, policy, tmp_path):
    model = keras.Sequential([keras.Input((4, 5)), randomize(LayerNormalization(axis, dtype=policy), (None, 4, 5))])
    model.save(tmp_path / "model.keras")
    x = inputs(shape=(3, 4, 5)).astype("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`")
def test_rms_scaling_is_that_of_keras():
    x = inputs().astype("float32")
    with pytest.warns(UserWarning, match="`rms_scaling=True` is deprecated.*Use keras.layers.RMSNormalization"):
        ours, theirs = (c(rms_scaling=True) for c in (LayerNormalization, keras.layers.LayerNormalization))
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert [v.name for v in ours.variables] == ["gamma"]


@pytest.mark.parametrize("axis", [1.5, "1", {"axis": -1}, [1, 2.0], None], ids=str)
def test_axis_that_is_no_integer(axis):
    with pytest.raises(TypeError, match=r"Expected an int or a list/tuple of ints for the argument 'axis'. Received:"):
        LayerNormalization(axis)


@pytest.mark.parametrize("axis", [0, [0, 1], -4, [1, -3], [1, 4], [1, 1], []], ids=str)
def test_axes_that_the_inputs_lack(axis):
    with pytest.raises(ValueError, match=r"`axis` must be .* Received: axis=.*Pass axis=-1"):
        LayerNormalization(axis).build((2, 3, 4, 5))


def test_unknown_size_and_wrong_size():
    with pytest.raises(ValueError, match="defined dimension"):
        LayerNormalization([1, 2]).build((None, None, 3))
    layer = LayerNormalization()
    layer.build((None, 3))
    with pytest.raises(ValueError, match="incompatible"):
        layer(np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match="Axis 3 is out of bounds"):
        LayerNormalization([1, 3]).compute_output_shape((2, 3, 4))
