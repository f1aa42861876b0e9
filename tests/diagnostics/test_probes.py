"""What the probes read, against NumPy in float64 and TensorFlow's own tape on another copy of the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from nrm_keras import layers as ours
from nrm_keras.diagnostics import records, units
from nrm_keras.diagnostics.places import Places
from nrm_keras.diagnostics.probes import Forward, ProbedStep
from nrm_keras.diagnostics.readings import SAMPLE

RANDOM = np.random.default_rng(0)
START = RANDOM.bit_generator.state
BATCH = 6


@pytest.fixture(autouse=True)
def _same_numbers_whatever_ran_before():
    keras.utils.set_random_seed(0)
    RANDOM.bit_generator.state = START


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def read(model, *batch, wanted=None, steps=1):
    """What is read of the last of so many steps on the batch; a model that is not compiled gets SGD and MSE."""
    if not model.compiled:
        model.compile(keras.optimizers.SGD(0.1), "mse")
    model.make_train_function()
    step = ProbedStep(model, Places(model, wanted))
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    for _ in range(steps):
        step(iterator)
    return step.read()


def by_name(reading):
    return {activation.layer: activation for activation in reading.activations}


def check_values(activation, values, mask=None, axis=-1):
    """Mean and variance per channel, who is dead, and all values as the sample, if they are few."""
    rows = np.moveaxis(np.asarray(values, "float64"), axis, -1)
    rows = rows[np.ones(rows.shape[:-1], bool) if mask is None else np.asarray(mask, bool)]
    rows = rows.reshape(-1, rows.shape[-1])
    assert activation.values == len(rows)
    np.testing.assert_allclose(activation.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(activation.variance, rows.var(0), rtol=1e-4, atol=1e-6)
    assert activation.total_mean == pytest.approx(rows.mean(), rel=1e-4, abs=1e-6)
    assert activation.total_variance == pytest.approx(rows.var(), rel=1e-4, abs=1e-6)
    if records.dead_share(activation) is not None:
        assert records.dead_share(activation) == np.mean(rows.max(0) <= 0)
    assert np.size(values) <= SAMPLE
    np.testing.assert_allclose(np.sort(activation.sample), np.sort(rows.ravel()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        units.percentiles(activation.sample), np.percentile(rows, [15, 50, 85]), rtol=1e-4, atol=1e-5
    )


def check_gradient(activation, gradient):
    gradient = np.asarray(gradient, "float64")
    assert activation.gradient_norm == pytest.approx(np.sqrt((gradient**2).sum()), rel=1e-4)
    assert activation.gradient_rms == pytest.approx(np.sqrt((gradient**2).mean()), rel=1e-4)


# One step by hand ----------------------------------------------------------------------------------------------------


def dense_net(optimizer, **arguments):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(5, name="first", **arguments),
            layers.BatchNormalization(name="normalizer", momentum=0.5),
            layers.ReLU(name="relu"),
            layers.Dense(2, name="last"),
        ]
    )
    model.get_layer("normalizer").gamma.assign([1.0, -0.5, 2.0, 0.3, 1.5])
    model.get_layer("normalizer").beta.assign([0.1, -9.0, 0.0, 0.4, -0.2])  # the second channel is dead
    model.compile(optimizer, "mse")
    return model


def by_hand(weights, x, y):
    """Every activation and every gradient of `dense_net` in float64: Ioffe & Szegedy 2015, section 3."""
    w1, b1, gamma, beta, w2, b2 = (np.asarray(w, "float64") for w in weights)
    x, y = np.asarray(x, "float64"), np.asarray(y, "float64")
    u = x @ w1 + b1
    deviation = np.sqrt(u.var(0) + 1e-3)
    standard = (u - u.mean(0)) / deviation
    z = gamma * standard + beta
    a = np.maximum(z, 0)
    o = a @ w2 + b2
    do = 2 * (o - y) / y.size
    da = do @ w2.T
    dz = da * (z > 0)
    ds = dz * gamma
    du = (ds - ds.mean(0) - standard * (ds * standard).mean(0)) / deviation
    outputs = {"first": (u, du), "normalizer": (z, dz), "relu": (a, da), "last": (o, do)}
    weights = [x.T @ du, du.sum(0), (dz * standard).sum(0), dz.sum(0), a.T @ do, do.sum(0)]
    return np.mean((o - y) ** 2), outputs, weights, u


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum and decay": lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw, clipped": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, global_clipnorm=0.01),
    "ema": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_everything_in_a_step_by_hand(name):
    model = dense_net(OPTIMIZERS[name](), kernel_constraint=keras.constraints.MaxNorm(0.5))
    x, y = normal(BATCH, 3), normal(BATCH, 2)
    read(model, x, y, steps=2)  # momentum is there
    before = [w.numpy() for w in model.trainable_weights]
    reading = read(model, x, y)
    after = [w.numpy() for w in model.trainable_weights]
    loss, outputs, gradients, u = by_hand(before, x, y)

    assert reading.loss == pytest.approx(loss, rel=1e-5)
    assert [a.layer for a in reading.activations] == list(outputs)
    for activation in reading.activations:
        check_values(activation, outputs[activation.layer][0])
        check_gradient(activation, outputs[activation.layer][1])
    relu = by_name(reading)["relu"]
    assert records.dead_share(relu) == np.mean(outputs["relu"][0].max(0) <= 0) >= 0.2
    assert records.dead_share(by_name(reading)["first"]) is None
    assert [w.variable.path for w in reading.weights] == [w.path for w in model.trainable_weights]
    for weight, w0, w1, gradient in zip(reading.weights, before, after, gradients, strict=True):
        w0, w1 = w0.astype("float64"), w1.astype("float64")
        assert weight.norm == pytest.approx(np.linalg.norm(w0), rel=1e-5)
        assert weight.update_norm == pytest.approx(np.linalg.norm(w1 - w0), rel=1e-3, abs=1e-7)
        assert weight.update_norm > 0
        if not weight.variable.path.endswith(
            "first/bias"
        ):  # a bias before a normalizer has a gradient of rounding errors
            assert weight.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-3)
            assert weight.inner == pytest.approx((w0 * gradient).sum(), rel=1e-3, abs=1e-5)
        if w1.ndim == 1:
            np.testing.assert_allclose(weight.values, w1)
        else:
            assert weight.values is None
    check_inputs(reading.inputs[0], u, model.get_layer("normalizer"))


def check_inputs(inputs, values, layer):
    rows = np.asarray(values, "float64").reshape(-1, np.shape(values)[-1])
    moving_mean, moving_variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    np.testing.assert_allclose(inputs.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inputs.variance, rows.var(0), rtol=1e-4)
    np.testing.assert_array_equal(inputs.moving_mean, moving_mean)
    np.testing.assert_array_equal(inputs.moving_variance, moving_variance)
    record = records.of_running_statistics(inputs)
    gap = (moving_mean - rows.mean(0)) ** 2 / (moving_variance + 1e-3)
    assert record["mean_gap"] == pytest.approx(np.sqrt(gap.mean()), rel=1e-3)
    gap = np.log((rows.var(0) + 1e-3) / (moving_variance + 1e-3)) ** 2
    assert record["variance_gap"] == pytest.approx(np.sqrt(gap.mean()), rel=1e-3)


# Many nets, against the tape on a copy ---------------------------------------------------------------------------------


def shared():
    x = keras.Input((4,))
    layer = layers.Dense(4, "tanh", name="shared")
    return keras.Model(x, layers.Dense(2, name="last")(layer(layer(x)))), [normal(BATCH, 4)]


def two_inputs():
    a, b = keras.Input((3,)), keras.Input((2,))
    h = layers.Concatenate(name="both")([layers.Dense(3, name="a")(a), layers.Dense(2, name="b")(b)])
    h = layers.LayerNormalization(name="normalizer")(h)
    return keras.Model([a, b], layers.Dense(2, name="last")(layers.ELU(name="elu")(h))), [
        normal(BATCH, 3),
        normal(BATCH, 2),
    ]


def convolutions():
    x = keras.Input((5, 5, 2))
    h = layers.Conv2D(3, 3, name="convolution")(x)
    h = ours.BatchNormalization(name="normalizer")(h)
    h = layers.Activation("sigmoid", name="sigmoid")(h)
    return keras.Model(x, layers.Dense(2, name="last")(layers.GlobalAveragePooling2D()(h))), [normal(BATCH, 5, 5, 2)]


def attention():
    x = keras.Input((4, 3))
    h = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    h = layers.LayerNormalization(name="normalizer")(layers.Add(name="sum")([x, h]))
    return keras.Model(x, layers.Dense(2, name="last")(layers.Flatten()(h))), [normal(BATCH, 4, 3)]


def recurrent():
    x = keras.Input((4, 3))
    h = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both_ways")(x)
    h = layers.TimeDistributed(layers.Dense(3, "relu"), name="each_time")(h)
    h = layers.GRU(3, name="gru")(h)
    return keras.Model(x, layers.Dense(2, name="last")(h)), [normal(BATCH, 4, 3)]


def inner_models():
    def block(name):
        return keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense"), layers.ReLU(name="relu")], name=name)

    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2, name="last")(block("two")(block("one")(x)))), [normal(BATCH, 4)]


NETS = {f.__name__: f for f in (shared, two_inputs, convolutions, attention, recurrent, inner_models)}
SEEN = {
    "shared": ["shared", "shared#2", "last"],
    "two_inputs": ["a", "b", "both", "normalizer", "elu", "last"],
    "convolutions": ["convolution", "normalizer", "sigmoid", "last"],
    "attention": [
        *(f"attention/{n}" for n in ("query", "key", "value", "attention_output")),
        "sum",
        "normalizer",
        "last",
    ],
    "recurrent": ["both_ways/forward_lstm", "both_ways/backward_lstm", "each_time", "gru", "last"],
    "inner_models": ["one/dense", "one/relu", "two/dense", "two/relu", "last"],
}


def outputs_of_copy(model, inputs, y):
    """{layer's name: [(output, gradient) of each call]} of the layers of a functional model, by a tape on a copy of it."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    calls = [(layer.name, node.output_tensors[0]) for layer in copy.layers for node in layer._inbound_nodes]
    calls = [(name, tensor) for name, tensor in calls if "keras_tensor" in tensor.name]
    with tf.GradientTape() as tape:
        values = keras.Model(copy.inputs, [tensor for _, tensor in calls])(list(inputs), training=True)
        values = values if isinstance(values, list) else [values]
        loss = tf.reduce_mean(tf.square(values[[n for n, _ in calls].index("last")] - y))
    found = {}
    for (name, _), value, gradient in zip(calls, values, tape.gradient(loss, values), strict=True):
        found.setdefault(name, []).append((value, gradient))
    return found


@pytest.mark.parametrize("name", NETS)
def test_nets_of_all_kinds(name):
    model, inputs = NETS[name]()
    y = normal(BATCH, 2)
    truth = outputs_of_copy(model, inputs, y)
    reading = read(model, tuple(inputs) if len(inputs) > 1 else inputs[0], y)
    assert sorted(a.layer for a in reading.activations) == sorted(SEEN[name])
    compared = 0
    for activation in reading.activations:
        layer, _, number = activation.layer.partition("#")
        if layer in truth:
            value, gradient = truth[layer][int(number or 1) - 1]
            check_values(activation, value)
            check_gradient(activation, gradient)
            compared += 1
    assert compared >= 2 if name == "recurrent" else compared


def test_inside_of_inner_models():
    model, (x,) = inner_models()
    weights = [w.numpy().astype("float64") for w in model.weights]
    found = by_name(read(model, x, normal(BATCH, 2)))
    one = np.maximum(x @ weights[0] + weights[1], 0) if "one" in model.weights[0].path else None
    check_values(found["one/relu"], one)
    check_values(found["two/dense"], one @ weights[2] + weights[3])


def test_recurrent_outputs_are_those_of_the_directions():
    model, (x,) = recurrent()
    both = model.get_layer("both_ways")
    forward = both.forward_layer(x).numpy()
    found = by_name(read(model, x, normal(BATCH, 2)))
    check_values(found["both_ways/forward_lstm"], forward)
    assert found["each_time"].kind == "relu"
    assert found["gru"].kind == "tanh"


def test_saturated_share():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(8, "tanh", name="tanh"), layers.Dense(1)])
    model.layers[0].kernel.assign(5 * model.layers[0].kernel)
    x = normal(BATCH, 3)
    values = np.tanh(x.astype("float64") @ model.layers[0].kernel.numpy())
    found = by_name(read(model, x, normal(BATCH, 1)))["tanh"]
    assert 0 < records.saturated_share(found) < 1
    assert records.saturated_share(found) == pytest.approx(np.mean(np.abs(values) > 0.99))


def test_padding_does_not_count():
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(7, 3, mask_zero=True, name="embedding"),
            layers.BatchNormalization(name="normalizer"),
            layers.Dense(4, "relu", name="dense"),
            layers.LSTM(2, name="lstm"),
        ]
    )
    x = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 0, 0], [6, 6, 6, 6, 6], [1, 0, 0, 0, 0]], "int32")
    embedded = model.get_layer("embedding").embeddings.numpy().astype("float64")[x]
    rows = embedded[x != 0]
    normalized = (embedded - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-3)
    dense = np.maximum(normalized @ model.get_layer("dense").kernel.numpy(), 0)
    reading = read(model, x, normal(4, 2))
    found = by_name(reading)
    check_values(found["embedding"], embedded, x != 0)
    check_values(found["normalizer"], normalized, x != 0)
    check_values(found["dense"], dense, x != 0)
    assert found["lstm"].values == 4
    np.testing.assert_allclose(reading.inputs[0].variance, rows.var(0), rtol=1e-4)


def test_mask_of_a_layer_that_sets_it_itself_stays():
    """Regression: the listener took Keras' mask off the tensor."""

    class Half(layers.Layer):
        supports_masking = True

        def call(self, x):
            x = tf.identity(x)
            x._keras_mask = tf.range(4)[None] < 2
            return x

        def compute_mask(self, x, mask=None):
            return None

    model = keras.Sequential([keras.Input((4, 3)), layers.Dense(3), Half(), layers.Activation("tanh"), layers.GRU(2)])
    x = normal(BATCH, 4, 3)
    y = normal(BATCH, 2)
    expected = float(tf.reduce_mean(tf.square(model(x) - y)))
    assert read(model, x, y).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("last", ["softmax", "keras", "tensorflow"])
def test_loss_from_the_logits_behind_probabilities_stays(last):
    """Regression: the listener hid from Keras' losses that the outputs come from a softmax of logits."""

    class Softmax(layers.Layer):
        def call(self, x):
            return tf.nn.softmax(x)

    end = {"softmax": layers.Softmax, "keras": lambda: layers.Activation("softmax"), "tensorflow": Softmax}[last]()
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), end])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.layers[0].kernel.assign(100 * model.layers[0].kernel)
    x, y = normal(BATCH, 3), RANDOM.integers(0, 4, BATCH)
    logits = x.astype("float64") @ model.layers[0].kernel.numpy()
    losses = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1) - logits[range(BATCH), y]
    assert losses.max() > 20  # beyond where probabilities are cut off
    reading = read(model, x, y, wanted=[end])
    assert reading.loss == pytest.approx(losses.mean(), rel=1e-5)
    # the loss does not depend on the probabilities, as Keras computes it
    assert reading.activations[-1].gradient_norm is None


def test_channels_on_another_axis():
    """Regression: inputs of a normalizer over axis 1 were summarized over the last."""
    x = keras.Input((4, 5))
    h = layers.Dense(3, name="dense")(x)
    h = layers.BatchNormalization(axis=1, name="normalizer", momentum=0.5)(h)
    model = keras.Model(x, layers.Dense(1)(layers.Flatten()(layers.ReLU(name="relu")(h))))
    model.get_layer("normalizer").beta.assign([-9.0, 0.0, 0.0, 0.0])
    x = normal(BATCH, 4, 5)
    u = x.astype("float64") @ model.get_layer("dense").kernel.numpy()
    v = np.moveaxis(u, 1, -1)
    z = np.moveaxis((v - v.mean((0, 1))) / np.sqrt(v.var((0, 1)) + 1e-3), -1, 1) + [[[-9.0], [0.0], [0.0], [0.0]]]
    reading = read(model, x, normal(BATCH, 1))
    found = by_name(reading)
    check_values(found["dense"], u)
    check_values(found["normalizer"], z, axis=1)
    check_values(found["relu"], np.maximum(z, 0), axis=1)
    assert records.dead_share(found["relu"]) == 0.25
    check_inputs(reading.inputs[0], v, model.get_layer("normalizer"))


def test_sequences_of_any_length():
    """Regression: attention scores have as many channels as the batch's longest sequence."""
    x = keras.Input((None, 3))
    model = keras.Model(x, layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(1, 2, dropout=0.1)(x, x)))
    model.compile("sgd", "mse")
    model.make_train_function()
    step = ProbedStep(model, Places(model))
    for length in (4, 7, 4, 5):
        x = normal(2, length, 3)
        step(iter(tf.data.Dataset.from_tensors((x, normal(2, 3)))))
        scores = next(a for a in step.read().activations if a.type == "Softmax")
        # dropout is behind it
        assert scores.total_mean == pytest.approx(1 / length)
        assert scores.values * len(scores.mean) == 2 * length**2


# Other train steps, precision, and the rest ----------------------------------------------------------------------------


class TwoOptimizers(keras.Model):
    """Has a train_step of its own, with an optimizer for each half."""

    def __init__(self):
        super().__init__()
        self.first, self.last = layers.Dense(4, "relu", name="first"), layers.Dense(2, name="last")
        self.one, self.other = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.01)

    def call(self, x):
        return self.last(self.first(x))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = 3 * tf.reduce_mean(tf.square(self(x) - y))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.one.apply_gradients(zip(gradients[:2], self.first.trainable_variables, strict=True))
        self.other.apply(gradients[2:], self.last.trainable_variables)
        return {"loss": loss}


@pytest.mark.parametrize("eagerly", [False, True])
def test_custom_train_step(eagerly):
    model = TwoOptimizers()
    x, y = normal(BATCH, 3), normal(BATCH, 2)
    model(x)
    model.compile(run_eagerly=eagerly)
    before = [w.numpy() for w in model.weights]
    with tf.GradientTape() as tape:
        hidden = tf.nn.relu(tf.matmul(x, model.first.kernel.value) + model.first.bias.value)
        outputs = tf.matmul(hidden, model.last.kernel.value) + model.last.bias.value
        loss = 3 * tf.reduce_mean(tf.square(outputs - y))
    *gradients, d_hidden, d_outputs = tape.gradient(loss, [*(w.value for w in model.weights), hidden, outputs])
    reading = read(model, x, y)
    found = by_name(reading)
    check_values(found["first"], hidden)
    check_gradient(found["first"], d_hidden)
    check_values(found["last"], outputs)
    check_gradient(found["last"], d_outputs)
    for weight, w0, w1, gradient in zip(reading.weights, before, model.weights, gradients, strict=True):
        assert weight.gradient_norm == pytest.approx(float(tf.norm(gradient)), rel=1e-5)
        assert weight.update_norm == pytest.approx(np.linalg.norm(w1.numpy() - w0), rel=1e-5)


@pytest.mark.parametrize(("policy", "rel"), [("mixed_float16", 0.03), ("mixed_bfloat16", 0.1)])
def test_gradients_in_mixed_precision_have_no_loss_scale(policy, rel):
    def net(policy):
        model = keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(6, dtype=policy),
                layers.BatchNormalization(dtype=policy),
                layers.ReLU(dtype=policy),
                layers.Dense(2),
            ]
        )
        optimizer = keras.optimizers.SGD(0.1)
        if policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024.0)
        model.compile(optimizer, "mse")
        return model

    model, mixed = net("float32"), net(policy)
    x, y = normal(64, 3), normal(64, 2)
    for steps in (1, 2):  # the scale is a number at first, a variable later
        mixed.set_weights(model.get_weights())
        plain, other = read(model, x, y, steps=steps), read(mixed, x, y, steps=steps)
        assert other.loss == pytest.approx(plain.loss, rel=0.02)
        for a, b in zip(plain.activations, other.activations, strict=True):
            assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=rel)
            np.testing.assert_allclose(b.mean, a.mean, atol=rel)
        for a, b in zip(plain.weights, other.weights, strict=True):
            if "bias" not in a.variable.path:
                assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=rel)
                assert b.update_norm == pytest.approx(a.update_norm, rel=rel)


def test_sample_is_the_same_places_each_time_from_every_channel():
    model = keras.Sequential([keras.Input((64,)), layers.Activation("linear", name="same"), layers.Dense(1)])
    x = np.arange(256 * 64, dtype="float32").reshape(256, 64)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    first, second = (by_name(read(model, x, normal(256, 1)))["same"].sample for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(set(first)) == SAMPLE == len(first)
    assert set(first % 64) == set(range(64))
    np.testing.assert_allclose(units.percentiles(first), np.percentile(x, [15, 50, 85]), rtol=0.05)


def test_moments_of_a_large_offset():
    model = keras.Sequential([keras.Input((3,)), layers.Activation("linear", name="same"), layers.Dense(1)])
    x = (1000 + normal(256, 3)).astype("float32")
    found = by_name(read(model, x, normal(256, 1)))["same"]
    np.testing.assert_allclose(found.mean, x.astype("float64").mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.variance, x.astype("float64").var(0), rtol=1e-3)


def test_gate():
    layer = ours.AdaptiveNormalization(name="adaptive")
    model = keras.Sequential([keras.Input((3,)), layer, layers.Dense(1)])
    reading = read(model, normal(BATCH, 3), normal(BATCH, 1))
    found = [r for r in records.of_reading(reading, Places(model), True) if r["kind"] == "gate"]
    share = keras.ops.convert_to_numpy(layer.batch_weight()).astype("float64")
    assert [r["layer"] for r in found] == ["adaptive"]
    assert found[0]["batch_weight"] == pytest.approx(share.mean())
    assert 0 < found[0]["value_minimum"] <= found[0]["batch_weight"] <= found[0]["value_maximum"] < 1


def test_frozen_layers_have_activations_and_no_update():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="first"), layers.Dense(1, name="last")])
    model.get_layer("first").trainable = False
    reading = read(model, normal(BATCH, 3), normal(BATCH, 1))
    assert [a.layer for a in reading.activations] == ["first", "last"]
    assert [w.variable.path for w in reading.weights] == [w.path for w in model.get_layer("last").weights]


def test_forward_changes_nothing_and_has_no_dropout():
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            layers.Dropout(0.5),
            layers.BatchNormalization(name="normalizer"),
            layers.LSTM(3, dropout=0.5, recurrent_dropout=0.3, name="lstm"),
            layers.GaussianNoise(1.0),
            layers.Dense(2, name="last"),
        ]
    )
    x = normal(BATCH, 4, 3)
    before = [v.numpy() for v in model.variables]
    forward = Forward(model, Places(model))
    found = {activation.layer: activation for activation in forward(x)}
    np.testing.assert_array_equal(
        np.hstack([v.numpy().ravel() for v in model.variables]), np.hstack([v.ravel() for v in before])
    )
    rows = x.astype("float64")
    rows = (rows - rows.mean((0, 1))) / np.sqrt(rows.var((0, 1)) + 1e-3)
    check_values(found["normalizer"], rows)
    lstm = model.get_layer("lstm")(rows.astype("float32"), training=False)
    check_values(found["lstm"], lstm)
    model.get_layer("lstm").cell.seed_generator.next()
    again = {activation.layer: activation for activation in forward(x)}
    np.testing.assert_array_equal(again["last"].mean, found["last"].mean)
