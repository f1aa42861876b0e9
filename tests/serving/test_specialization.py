"""A model for inference: the same outputs, with batch normalization folded where that is right, and nowhere else."""

import keras
import numpy as np
import pytest
from keras import layers as k

import nrm_keras.layers as own
from nrm_keras.errors import UserError
from nrm_keras.serving.specialization.layers import Affine
from nrm_keras.serving.specialize import specialize
from tests.trained import randomized

LARGE_MEAN = "left as it is: a running mean is more than 100 deviations from 0"


def examples(model, count=5):
    rng = np.random.default_rng(1)
    return keras.tree.map_structure(
        lambda tensor: rng.normal(size=(count, *(size or 6 for size in tensor.shape[1:]))).astype("float32"),
        model.inputs[0] if isinstance(model, keras.Sequential) else model.input,
    )


def network(shape, *parts):
    x = inputs = keras.Input(shape)
    for part in parts:
        x = part(x)
    return randomized(keras.Model(inputs, x))


def normalizers(model):
    """Those that are left, in the order of the layers."""
    kinds = (k.BatchNormalization, own.Normalizer, Affine)
    return [type(layer).__name__ for layer in model._flatten_layers() if isinstance(layer, kinds)]


def check(model, left, tolerance=2e-6):
    """Specializes it; compares the outputs, and the names of the normalizers that are left."""
    x, before = examples(model), [np.array(variable) for variable in model.variables]
    expected = keras.tree.flatten(model(x, training=False))
    specialized = specialize(model, x)
    for actual, other in zip(keras.tree.flatten(specialized.model(x, training=False)), expected, strict=True):
        np.testing.assert_allclose(actual, other, rtol=0, atol=tolerance * np.abs(other).max())
        assert actual.dtype == other.dtype
    assert normalizers(specialized.model) == left
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    return specialized


IMAGE, SERIES, VOLUME = (8, 8, 3), (9, 3), (5, 5, 5, 2)
LINEAR = {
    "conv": (IMAGE, lambda **o: k.Conv2D(4, 3, padding="same", **o)),
    "valid, strided": (IMAGE, lambda **o: k.Conv2D(4, 3, strides=2, **o)),
    "dilated": (IMAGE, lambda **o: k.Conv2D(4, 3, dilation_rate=2, **o)),
    "conv 1D": (SERIES, lambda **o: k.Conv1D(4, 3, padding="causal", **o)),
    "conv 3D": (VOLUME, lambda **o: k.Conv3D(3, 2, **o)),
    "transposed": (IMAGE, lambda **o: k.Conv2DTranspose(5, 3, strides=2, **o)),
    "transposed 1D": (SERIES, lambda **o: k.Conv1DTranspose(5, 3, **o)),
    "transposed 3D": (VOLUME, lambda **o: k.Conv3DTranspose(3, 2, **o)),
    "depthwise": (IMAGE, lambda **o: k.DepthwiseConv2D(3, padding="same", **o)),
    "depthwise, two each": (IMAGE, lambda **o: k.DepthwiseConv2D(3, depth_multiplier=2, **o)),
    "depthwise 1D": (SERIES, lambda **o: k.DepthwiseConv1D(3, depth_multiplier=2, **o)),
    "separable": (IMAGE, lambda **o: k.SeparableConv2D(5, 3, depth_multiplier=2, **o)),
    "separable 1D": (SERIES, lambda **o: k.SeparableConv1D(5, 3, **o)),
    "grouped": ((8, 8, 4), lambda **o: k.Conv2D(6, 3, groups=2, **o)),
    "dense": ((7,), lambda **o: k.Dense(4, **o)),
    "dense of positions": (SERIES, lambda **o: k.Dense(4, **o)),
}


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("kind", LINEAR)
def test_folds_into_the_linear_layer_in_front(kind, bias):
    shape, make = LINEAR[kind]
    norm = own.BatchNormalization if bias else k.BatchNormalization
    model = network(shape, make(use_bias=bias, name="linear"), norm(name="norm"), k.ReLU(name="relu"))
    specialized = check(model, [])
    assert [layer.name for layer in specialized.model.layers[1:]] == ["linear", "relu"]
    assert specialized.model.get_layer("linear").use_bias
    assert [(step.layer, step.what) for step in specialized.steps] == [("norm", "folded into 'linear'")]


@pytest.mark.parametrize("equation, bias_axes", [("...x,xy->...y", None), ("abc,cd->abd", "d"), ("abc,cde->abde", "e")])
def test_folds_into_an_einsum(equation, bias_axes):
    outputs = {"...x,xy->...y": 4, "abc,cd->abd": (None, 4), "abc,cde->abde": (None, 2, 4)}[equation]
    check(network(SERIES, k.EinsumDense(equation, outputs, bias_axes=bias_axes), k.BatchNormalization()), [])


def test_an_einsum_whose_bias_has_more_axes_is_left():
    check(
        network(SERIES, k.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de"), k.BatchNormalization()),
        ["Affine"],
    )


@pytest.mark.parametrize("norm", [k.BatchNormalization, own.BatchNormalization], ids=["keras", "own"])
@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}, {"center": False, "scale": False}], ids=str)
def test_gamma_and_beta_are_optional(norm, options):
    check(network(IMAGE, k.Conv2D(4, 3, use_bias=False), norm(**options)), [])


def test_folded_kernel_in_closed_form():
    """Worked by hand: gamma / deviation is 3 and 1/2, so y = 3 (x - 1) + 10 and (x + 2) / 2 + 20."""
    model = network((1,), k.Dense(2, use_bias=False, name="dense"), own.BatchNormalization(epsilon=0.5, name="norm"))
    norm = model.get_layer("norm")
    model.get_layer("dense").kernel.assign([[1.0, 1.0]])
    for name, value in {
        "gamma": [6.0, 1.0],
        "beta": [10.0, 20.0],
        "moving_mean": [1.0, -2.0],
        "moving_variance": [3.5, 3.5],
    }.items():
        getattr(norm, name).assign(value)
    dense = check(model, []).model.get_layer("dense")
    np.testing.assert_array_equal(dense.kernel, [[3.0, 0.5]])
    np.testing.assert_array_equal(dense.bias, [7.0, 21.0])


def conv(name=None, **options):
    return k.Conv2D(3, **{"kernel_size": 3, "padding": "same", "use_bias": False, "name": name} | options)


CHAINS = {
    "relu between": ([conv(), k.ReLU(), k.BatchNormalization()], ["Affine"]),
    "activation inside": ([conv(activation="relu"), k.BatchNormalization()], ["Affine"]),
    "at the input": ([k.BatchNormalization()], ["Affine"]),
    "before a padded convolution": ([own.BatchNormalization(), conv()], ["Affine"]),
    "behind padding": ([conv(), k.ZeroPadding2D(), k.BatchNormalization()], ["Affine"]),
    "behind max pooling": ([conv(), k.MaxPooling2D(), k.BatchNormalization()], ["Affine"]),
    "two in a row": ([conv(), k.BatchNormalization(), own.BatchNormalization()], []),
    "two at the input": ([k.BatchNormalization(), own.BatchNormalization()], ["Affine"]),
    "dropout between": ([conv(), k.SpatialDropout2D(0.5), k.Activation("linear"), k.BatchNormalization()], []),
    "separable by hand": ([k.DepthwiseConv2D(3), k.BatchNormalization(), k.ReLU(), conv(), k.BatchNormalization()], []),
    "depthwise, then pointwise": ([k.DepthwiseConv2D(3), conv(kernel_size=1), k.BatchNormalization()], []),
    "another axis": ([conv(), k.BatchNormalization(axis=1)], ["Affine"]),
    "axis from the front": ([conv(), k.BatchNormalization(axis=3)], []),
    "synchronized": ([conv(), own.BatchNormalization(synchronized=True)], []),
    "virtual batches": ([conv(), own.BatchNormalization(virtual_batch_size=2)], []),
    "frozen": ([conv(trainable=False), k.BatchNormalization(trainable=False)], []),
    "group normalization": (
        [conv(), own.GroupNormalization(3), conv(), k.BatchNormalization()],
        ["FixedMixture"],
    ),
    "each with its own channels": ([k.Dense(4), k.Permute((3, 1, 2)), k.BatchNormalization(axis=1)], ["Affine"]),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_chains(chain):
    parts, left = CHAINS[chain]
    check(network(IMAGE, *(type(part).from_config(part.get_config()) for part in parts)), left)


@pytest.mark.parametrize("axis, left", [(1, []), (-1, ["Affine"])])
def test_channels_first(axis, left):
    """Only the weights are looked at: TensorFlow has no such convolution on a CPU."""
    from nrm_keras.serving.specialization import folding

    layer = k.Conv2D(4, 3, data_format="channels_first")
    assert folding.takes_over(layer, axis % 4, 4) == (not left)


def residual(shared=False):
    inputs = keras.Input(IMAGE)
    x = conv("conv")(inputs)
    y = k.BatchNormalization(name="norm")(x)
    return randomized(keras.Model(inputs, k.Add()([y, x if shared else inputs])))


def test_an_output_with_two_takers_is_not_changed():
    check(residual(shared=True), ["Affine"])
    check(residual(), [])


def test_an_output_of_the_model_is_not_changed():
    inputs = keras.Input(IMAGE)
    x = conv()(inputs)
    check(randomized(keras.Model(inputs, {"raw": x, "normalized": k.BatchNormalization()(x)})), ["Affine"])


def siamese(norms):
    """One convolution on two inputs, behind it one normalizer for both, one each, or one for the first only."""
    one, two = keras.Input(IMAGE), keras.Input(IMAGE)
    shared = conv()
    x, y = shared(one), shared(two)
    norm = k.BatchNormalization()
    x = norm(x)
    y = {"one": norm, "each": k.BatchNormalization(), "first": k.ReLU()}[norms](y)
    return randomized(keras.Model([one, two], k.Subtract()([x, y])))


@pytest.mark.parametrize("norms, left", [("one", []), ("each", ["Affine", "Affine"]), ("first", ["Affine"])])
def test_shared_convolutions(norms, left):
    """Folding changes a shared convolution everywhere: right where each of its outputs goes to the same normalizer."""
    check(siamese(norms), left)


def test_a_shared_normalizer_behind_two_convolutions_is_not_folded():
    inputs, norm = keras.Input(IMAGE), k.BatchNormalization()
    check(randomized(keras.Model(inputs, k.Add()([norm(conv()(inputs)), norm(conv()(inputs))]))), ["Affine"])


def test_models_inside_models():
    """A model that is called twice is changed once; a sequential one, and one in a wrapper, as well."""
    inner = network(IMAGE, conv(), k.BatchNormalization(), k.Dropout(0.1), k.ReLU())
    chain = keras.Sequential([keras.Input(IMAGE), conv(), own.BatchNormalization()])
    video = keras.Input((2, *IMAGE))
    first, second = (k.Lambda(lambda x, i=i: x[:, i], output_shape=IMAGE)(video) for i in (0, 1))
    x = k.Add()([inner(first), inner(second), chain(first)])
    wrapped = k.TimeDistributed(network(IMAGE, conv(), k.BatchNormalization(), k.GlobalAveragePooling2D()), name="td")
    model = randomized(keras.Model(video, [x, wrapped(video)]))
    steps = {step.layer: step.what for step in check(model, []).steps}
    assert f"{inner.name}/{inner.layers[2].name}" in steps
    assert "folded into" in steps["td"]


def test_layers_with_code_of_their_own_are_left_and_named():
    class Block(k.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.norm = k.BatchNormalization()

        def call(self, x):
            return self.norm(x)

        def get_config(self):
            return {}

        @classmethod
        def from_config(cls, config):
            return cls()

    steps = check(network((4,), k.Dense(4), Block()), ["BatchNormalization"]).steps
    assert [step.layer for step in steps] == ["block"]
    assert "1 normalizers are inside of Block" in steps[0].what


def test_a_subclassed_model_is_left():
    class Net(keras.Model):
        def call(self, x):
            return x

    model = Net()
    specialized = specialize(model, np.ones((2, 3), "float32"))
    assert specialized.model is model
    assert "left as it is" in specialized.steps[0].what


def test_a_sequential_model_becomes_a_functional_one():
    model = keras.Sequential([keras.Input((5,)), k.Dense(4), k.BatchNormalization(), k.Dropout(0.5)], name="mlp")
    specialized = check(randomized(model), []).model
    assert isinstance(specialized, keras.src.models.Functional)
    assert specialized.name == "mlp"
    assert len(specialized.layers) == 2


def test_large_means_keep_the_normalizer():
    """x * factor + offset would lose the digits that (x - mean) keeps."""
    norm = own.BatchNormalization()
    model = network((3,), norm)
    norm.moving_mean.assign([1e5, -1e5, 0.0])
    specialized = specialize(model, examples(model))
    assert normalizers(specialized.model) == ["BatchNormalization"]
    assert [step.what for step in specialized.steps] == [LARGE_MEAN]


def test_group_normalization_of_large_means_is_left():
    model = network(IMAGE, own.GroupNormalization(1, epsilon=1e-6))
    x = examples(model)
    assert normalizers(specialize(model, x).model) == ["FixedMixture"]
    far = specialize(model, x + 1e4)
    assert normalizers(far.model) == ["GroupNormalization"]
    assert far.steps[0].what.startswith("left as it is")
    np.testing.assert_allclose(far.model(x + 1e4), model(x + 1e4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_keeps_its_policies(policy):
    inputs = keras.Input(IMAGE)
    x = conv("conv", dtype=policy)(inputs)
    x = k.ReLU(dtype=policy)(own.BatchNormalization(dtype=policy)(x))
    x = k.Dropout(0.5, dtype=policy)(own.AdaptiveNormalization(dtype=policy)(x))
    model = randomized(keras.Model(inputs, k.Dense(2, dtype="float32", name="logits")(x)))
    unit = {"mixed_float16": 2.0**-11, "mixed_bfloat16": 2.0**-8}[policy]
    new = check(model, ["FixedMixture"], tolerance=8 * unit).model
    assert new.get_layer("conv").dtype_policy.name == policy
    assert new.get_layer("conv").kernel.dtype == "float32"


def test_a_difference_above_the_tolerance_is_an_error():
    model = network(IMAGE, conv(), k.BatchNormalization(name="norm"), conv(), k.BatchNormalization())
    with pytest.raises(UserError, match="'norm'.*Raise `tolerance`, or export without"):
        specialize(model, examples(model), tolerance=0.0)


def test_saved_and_exported(tmp_path):
    import tensorflow as tf

    inputs = keras.Input(IMAGE, name="image")
    x = conv()(inputs)
    x = k.BatchNormalization()(k.ReLU()(own.AdaptiveNormalization()(x)))
    model = randomized(keras.Model(inputs, {"features": x, "scores": k.Dense(3)(k.Flatten()(x))}))
    x = examples(model)
    new = specialize(model, x).model
    assert normalizers(new) == ["FixedMixture", "Affine"]
    new.save(tmp_path / "model.keras")
    new.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    for outputs in (keras.saving.load_model(tmp_path / "model.keras")(x), exported.serve(x)):
        for name, expected in model(x, training=False).items():
            np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=1e-5)
