"""A model with other normalizers: the same answers where they mean the same, and nothing else changed."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import nrm_keras
from nrm_keras import layers
from tests.trained import randomized


def values(model):
    return {variable.path: keras.ops.convert_to_numpy(variable).copy() for variable in model.variables}


def images(count=4, size=64, seed=1):
    return np.random.default_rng(seed).normal(size=(count, size, size, 3)).astype("float32")


def relative_error(actual, expected):
    return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))


def swap(model, to="batch", **kwargs):
    return nrm_keras.swap_normalization(model, to, verbose=False, **kwargs)


@pytest.fixture(scope="module")
def resnet():
    keras.utils.set_random_seed(0)
    return randomized(keras.applications.ResNet50V2(weights=None, input_shape=(64, 64, 3), classes=10))


def test_resnet_answers_the_same(resnet):
    before, x = values(resnet), images()
    expected = resnet.predict(x, verbose=0)
    new = swap(resnet)
    error = relative_error(new.predict(x, verbose=0), expected)
    print(f"largest relative error {error:.1e}")
    assert error < 1e-5
    assert {type(layer) for layer in new.layers if "Normalization" in type(layer).__name__} == {
        layers.BatchNormalization
    }
    assert [layer.name for layer in new.layers] == [layer.name for layer in resnet.layers]
    assert set(values(new)) - set(before) == {path for path in values(new) if path.endswith("update_count")}
    for path, value in values(resnet).items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)
    np.testing.assert_array_equal(resnet.predict(x, verbose=0), expected)


RESNET = {"weights": None, "input_shape": (64, 64, 3), "classes": 10, "classifier_activation": None}
MOBILENET = {"weights": None, "input_shape": (32, 32, 3), "classes": 10, "classifier_activation": None, "alpha": 0.35}


@pytest.mark.parametrize(
    "make, config",
    [(keras.applications.ResNet50V2, RESNET), (keras.applications.MobileNetV2, MOBILENET)],
    ids=["resnet", "mobilenet"],
)
def test_one_training_step_is_the_same(make, config):
    """Loss, running statistics and each weight's change, in float64: fifty layers amplify a float32 rounding."""
    with policy("float64"):
        keras.utils.set_random_seed(0)
        old = randomized(make(**config))
        new = swap(old, warmup=False)
        start = values(old)
        x, y = images(4, config["input_shape"][0]).astype("float64"), np.arange(4)
        np.testing.assert_allclose(step(old, x, y), step(new, x, y), rtol=1e-4)
    before, after = values(old), values(new)
    assert before.keys() == after.keys()
    for path, value in before.items():
        change = value - start[path]
        # A bias in front of a normalizer has no gradient but rounding.
        assert np.max(np.abs(after[path] - value)) <= 1e-4 * np.max(np.abs(change)) + 1e-12, path
    assert sum(np.any(value != start[path]) for path, value in before.items()) > 0.9 * len(before)


@contextlib.contextmanager
def policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def step(model, x, y):
    """The loss of one step of SGD, which is taken."""
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=x.dtype.name)
    optimizer = keras.optimizers.SGD(0.1)
    with tf.GradientTape() as tape:
        loss = loss_function(y, model(x, training=True))
    variables = model.trainable_variables
    optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
    return float(loss)


def transformer():
    keras.utils.set_random_seed(0)
    tokens = keras.Input((None,), name="tokens")
    x = keras.layers.Embedding(20, 8, mask_zero=True)(tokens)
    x = keras.layers.LayerNormalization(epsilon=1e-6, name="first")(x + keras.layers.MultiHeadAttention(2, 4)(x, x))
    y = keras.layers.Dense(8)(keras.ops.relu(keras.layers.Dense(16)(x)))
    x = keras.layers.LayerNormalization(name="second")(x + y)
    return randomized(keras.Model(tokens, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x[:, 1:]))))


TOKENS = np.array([[3, 4, 5, 0, 0], [1, 2, 3, 4, 5]])


@pytest.mark.parametrize("to", ["layer", "batch", "sample", "group", "instance", "rms", "adaptive"])
def test_transformer(to):
    old = transformer()
    new = swap(old, to, **({"groups": 4} if to == "group" else {}))
    assert [operation.name for operation in new.operations] == [operation.name for operation in old.operations]
    assert new.get_layer("first").epsilon == 1e-6 and new.get_layer("second").epsilon == 1e-3
    role = "scale" if to == "rms" else "gamma"
    np.testing.assert_array_equal(getattr(new.get_layer("first"), role), old.get_layer("first").gamma)
    y, expected = new.predict(TOKENS, verbose=0), old.predict(TOKENS, verbose=0)
    if to == "layer":
        np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert np.all(np.isfinite(y))
    assert new.swap_report.recalibrate == (to in ("batch", "adaptive"))
    assert ("nrm_keras.recalibrate" in str(new.swap_report)) == new.swap_report.recalibrate


def test_masks_still_reach_the_new_layers():
    tokens = keras.Input((None,))
    x = keras.layers.Embedding(20, 8, mask_zero=True)(tokens)
    old = keras.Model(tokens, keras.layers.BatchNormalization()(x))
    new = swap(old, "sample")
    long, short = (new.predict(TOKENS[:1, :length], verbose=0) for length in (5, 3))
    np.testing.assert_allclose(long[:, :3], short, rtol=1e-5, atol=1e-6)
    embedding, norm = (layer for layer in new.layers if layer.weights)
    unmasked = np.array(norm(np.array(embedding(TOKENS[:1]))))
    assert np.max(np.abs(unmasked[:, :3] - short)) > 0.01


def nested():
    """A shared normalizer, a shared model in a model and in a wrapper, ops, a Lambda, two inputs and outputs."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [keras.Input((4, 6)), keras.layers.BatchNormalization(name="b"), keras.layers.ReLU()], name="inner"
    )
    x = keras.Input((4, 6))
    middle = keras.Model(x, [keras.layers.BatchNormalization(name="c")(inner(x)), x], name="middle")
    films, image = keras.Input((3, 4, 6), name="films"), keras.Input((4, 6), name="image")
    shared = keras.layers.BatchNormalization(name="shared")
    p, q = middle(image)
    mean = keras.ops.mean(keras.layers.TimeDistributed(inner, name="each")(films), axis=1)
    sums = shared(p, training=False) + shared(mean) + inner(q)
    outputs = {"sum": keras.layers.Dropout(0.5)(sums), "twice": keras.layers.Lambda(lambda t: 2 * t, name="twice")(q)}
    return randomized(keras.Model({"films": films, "image": image}, outputs, name="nested"))


def nested_inputs(count=3):
    rng = np.random.default_rng(3)
    return {"films": rng.normal(size=(count, 3, 4, 6)), "image": rng.normal(size=(count, 4, 6))}


def test_nested_shared_and_wrapped():
    old = nested()
    old.get_layer("middle").trainable = False
    old.get_layer("inner").layers[0].trainable = True
    new = swap(old)
    kinds = [type(layer) for layer in new._flatten_layers() if "Batch" in type(layer).__name__]
    assert kinds == [layers.BatchNormalization] * 3
    inner = new.get_layer("inner")
    assert new.get_layer("each").layer is inner and inner in new.get_layer("middle").layers
    assert [v.path for v in new.trainable_variables] == [v.path for v in old.trainable_variables]
    assert {path for path in values(old) if "seed" not in path} <= set(values(new))
    x = nested_inputs()
    y, expected = (model.predict(x, verbose=0) for model in (new, old))
    for name in ("sum", "twice"):
        np.testing.assert_allclose(y[name], expected[name], rtol=1e-5, atol=1e-6)
    before = values(new)
    y, expected = (model(x, training=True) for model in (new, old))
    np.testing.assert_allclose(y["sum"], expected["sum"], rtol=1e-4, atol=1e-5, err_msg="dropout's seed is copied")
    assert np.any(values(new)["shared/moving_mean"] != before["shared/moving_mean"])


def test_copy_saves_and_loads(tmp_path):
    new = swap(transformer(), "adaptive")
    new.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(TOKENS, verbose=0), new.predict(TOKENS, verbose=0))


def test_original_keeps_its_optimizer_and_compilation():
    old = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)])

    def loss(y, p):
        return keras.ops.mean(keras.ops.square(y - p))

    old.compile(keras.optimizers.Adam(), loss, metrics=["mae"])
    x = np.random.default_rng(0).normal(size=(8, 3))
    old.fit(x, x[:, :1], verbose=0)
    before = [np.array(v) for v in old.optimizer.variables]
    new = swap(old)
    assert not new.compiled and old.compiled
    for variable, value in zip(old.optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    new.compile("sgd", "mse")
    new.fit(x, x[:, :1], verbose=0)
    for variable, value in zip(old.optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def one_layer(layer, shape=(6,)):
    return randomized(keras.Sequential([keras.Input(shape), layer]))


def test_arguments_carry_over_unless_given():
    options = {"axis": 1, "momentum": 0.7, "epsilon": 0.02, "scale": False, "dtype": "mixed_float16"}
    old = one_layer(
        keras.layers.BatchNormalization(**options, beta_regularizer="l2", moving_mean_initializer="ones"), (6, 4)
    )
    old.layers[0].trainable = False
    (new,) = swap(old, "adaptive", epsilon=0.5).layers
    config = new.get_config()
    assert (config["axis"], config["momentum"], config["epsilon"], config["scale"]) == (1, 0.7, 0.5, False)
    assert new.dtype_policy.name == "mixed_float16" and not new.trainable
    assert isinstance(new.beta_regularizer, keras.regularizers.L2)
    assert isinstance(new.moving_mean_initializer, keras.initializers.Ones)


def test_same_kind_keeps_its_own_arguments():
    old = one_layer(layers.AdaptiveNormalization(alternative="group", groups=3, balance=5.0))
    old.layers[0].gate_delta.assign(0.25)
    (new,) = swap(old, "adaptive", gate_scale=2.0).layers
    assert (new.alternative, new.groups, new.balance, new.gate_scale) == ("group", 3, 5.0, 2.0)
    assert float(new.gate_delta) == 0.25
    (group,) = swap(one_layer(keras.layers.GroupNormalization(groups=2)), "group").layers
    assert group.groups == 2


def test_running_statistics_start_as_converged_only_if_they_are_known():
    trained = swap(one_layer(keras.layers.BatchNormalization()))
    fresh = swap(keras.Sequential([keras.Input((6,)), keras.layers.BatchNormalization()]))
    x = np.full((4, 6), 100.0, "float32")
    for model, share in ((trained, 0.01), (fresh, 1.0)):
        before = np.array(model.layers[0].moving_mean)
        model(x, training=True)
        np.testing.assert_allclose(model.layers[0].moving_mean, before + share * (100 - before), rtol=1e-4)


def test_report_says_what_was_dropped(capsys):
    new = nrm_keras.swap_normalization(one_layer(keras.layers.BatchNormalization()), "rms")
    (replaced,) = new.swap_report.replaced
    assert replaced.carried == ("gamma",) and replaced.dropped == ("beta", "moving_mean", "moving_variance")
    assert capsys.readouterr().out.strip() == str(new.swap_report)
    assert "1 of 1 normalizers replaced" in str(new.swap_report)


class Centered(keras.layers.BatchNormalization):
    """A subclass, which may mean anything."""


class Block(keras.layers.Layer):
    """A layer that hides a normalizer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization(name="within")

    def call(self, inputs, training=None):
        return self.norm(inputs, training=training)


def test_left_with_the_reason():
    stack = [keras.layers.BatchNormalization(name="plain"), Centered(name="own"), Block(name="block")]
    old = randomized(keras.Sequential([keras.Input((6,)), *stack]))
    new = swap(old, "layer")
    left = {one.path: one.reason for one in new.swap_report.left}
    assert left.keys() == {"own", "block/within"}
    assert "subclass" in left["own"] and "code of its own" in left["block/within"]
    assert type(new.get_layer("own")) is Centered and type(new.get_layer("block")) is Block
    np.testing.assert_array_equal(new.get_layer("block").norm.moving_mean, old.get_layer("block").norm.moving_mean)
    chosen = swap(old, "layer", where=lambda layer: isinstance(layer, Centered))
    assert type(chosen.get_layer("own")) is layers.LayerNormalization
    assert {one.path for one in chosen.swap_report.left} == {"plain", "block/within"}


def test_a_class_and_a_function():
    class Mine(layers.BatchNormalization):
        def __init__(self, strength=1.0, **kwargs):
            super().__init__(**kwargs)
            self.strength = strength

    old = one_layer(keras.layers.BatchNormalization(epsilon=0.5, name="n"))
    (new,) = swap(old, Mine, strength=3.0).layers
    assert (new.strength, new.epsilon, new.name) == (3.0, 0.5, "n")

    def build(name, epsilon, groups):
        return layers.GroupNormalization(groups, epsilon=epsilon, name=name)

    (new,) = swap(old, build, groups=3).layers
    assert (new.groups, new.epsilon, new.name) == (3, 0.5, "n")
    (new,) = swap(old, keras.layers.Identity).layers
    assert (type(new), new.name) == (keras.layers.Identity, "n")


def test_adapted_layers_keep_what_they_know():
    text = keras.layers.TextVectorization(output_sequence_length=4)
    text.adapt(["a b c", "d e"])
    standardize = keras.layers.Normalization()
    standardize.adapt(np.random.default_rng(0).normal(2, 3, (50, 4)))
    inputs = keras.Input((1,), dtype="string")
    x = standardize(keras.ops.cast(text(inputs), "float32"))
    old = randomized(keras.Model(inputs, keras.layers.BatchNormalization()(x)))
    words = tf.constant([["a b"], ["e c d"]])
    np.testing.assert_allclose(swap(old)(words), old(words), rtol=1e-6)


def test_class_of_the_model_is_kept_where_it_can_be():
    class Trainer(keras.Model):
        def train_step(self, data):
            return {"own": keras.ops.ones(())}

    class Ready(keras.Model):
        def __init__(self, units):
            x = keras.Input((6,))
            super().__init__(x, keras.layers.BatchNormalization()(keras.layers.Dense(units)(x)))

    x = keras.Input((6,))
    assert type(swap(Trainer(x, keras.layers.BatchNormalization()(x)))) is Trainer
    plain = swap(Ready(3))
    assert type(plain) is not Ready and "Ready" in plain.swap_report.notes[0]


def _unbuilt():
    return keras.Sequential([keras.layers.BatchNormalization()])


def _subclassed():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    return Own()


def _over_two_axes():
    return one_layer(keras.layers.LayerNormalization(axis=[1, 2]), (3, 6))


def _batch():
    return one_layer(keras.layers.BatchNormalization(name="norm"))


@pytest.mark.parametrize(
    "make, to, error, message",
    [
        (_unbuilt, "batch", ValueError, "must be built"),
        (_subclassed, "batch", ValueError, "functional or sequential.*Received: Own"),
        (lambda: keras.layers.Dense(1), "batch", TypeError, "Received: Dense"),
        (_batch, "btch", ValueError, "Received: 'btch'. Did you mean 'batch'"),
        (_batch, "none", ValueError, "Identity"),
        (_batch, 3, TypeError, "Received: 3"),
        (lambda: one_layer(keras.layers.Dense(2)), "batch", ValueError, "a normalizer to replace"),
        (lambda: one_layer(Block(name="hides")), "batch", ValueError, "left hides/within"),
        (_over_two_axes, "batch", ValueError, r"axis=\[1, 2\]"),
        (_batch, lambda name: 3, ValueError, "norm .*A layer was expected"),
        (_batch, lambda name: keras.layers.Attention(), ValueError, "norm "),
    ],
)
def test_errors_say_what_to_do(make, to, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        swap(make(), to)


def test_groups_that_do_not_divide_are_all_listed():
    x = keras.Input((6,))
    y = keras.layers.BatchNormalization(name="six")(x)
    y = keras.layers.BatchNormalization(name="eight")(keras.layers.Dense(8)(y))
    y = keras.layers.BatchNormalization(name="ten")(keras.layers.Dense(10)(y))
    with pytest.raises(ValueError, match=r"(?s)2 of 3 .*six.*6.*ten.*10.*`where`") as caught:
        swap(keras.Model(x, y), "group", groups=4)
    assert "eight" not in str(caught.value)


def test_layer_that_cannot_be_rebuilt():
    class Stubborn(keras.layers.Layer):
        def __init__(self, size):
            super().__init__(name="stubborn")

        def call(self, inputs):
            return inputs

    model = keras.Sequential([keras.Input((6,)), keras.layers.BatchNormalization(), Stubborn(3)])
    with pytest.raises(ValueError, match="(?s)'stubborn' of Stubborn.*get_config"):
        swap(model)
