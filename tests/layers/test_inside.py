"""The layers within other layers, models and ways to train, held against NumPy or against plain training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import references
from tests.layers.backends import gradients
from tests.layers.cases import CASES, randomize, to_numpy, weights

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_running_case = pytest.mark.parametrize("case", [c for c in CASES if c.running], ids=lambda case: case.name)

UNITS = 4


def inputs(shape, seed=1, dtype="float32"):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(dtype)


@keras.saving.register_keras_serializable(package="nrm_keras_tests")
class Cell(keras.layers.Layer):
    """h = tanh(norm([x, h] kernel))."""

    def __init__(self, norm, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm
        self.state_size = self.output_size = UNITS

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1] + UNITS, UNITS), name="kernel")
        if not self.norm.built:
            self.norm.build((input_shape[0], UNITS))

    def call(self, x, states, training=None):
        z = keras.ops.matmul(keras.ops.concatenate([x, states[0]], -1), self.kernel)
        h = keras.ops.tanh(self.norm(z, training=training))
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "norm": keras.saving.serialize_keras_object(self.norm)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "norm": keras.saving.deserialize_keras_object(config["norm"])})


def steps(case, x, kernel, values, training=True):
    """NumPy's [(z, h)...] of the cell over the time steps of x."""
    h, done = np.zeros((len(x), UNITS)), []
    for t in range(x.shape[1]):
        z = np.concatenate([x[:, t], h], -1) @ kernel
        h = np.tanh(case.reference(z, values, -1, None, training))
        done.append((z, h))
    return done


def cell_of(case, dtype="float64"):
    cell = Cell(randomize(case.make(dtype=dtype), (None, UNITS)), dtype=dtype)
    cell.build((None, 3))
    cell.kernel.assign(inputs(cell.kernel.shape, seed=5) / 6)
    return cell


def warmed_up(batches):
    """The running average of the batches' values with momentum t / (t + 9)."""
    average = 0.0
    for t, value in enumerate(batches):
        average = (t * average + 9 * value) / (t + 9)
    return average


@every_case
@pytest.mark.parametrize("unroll", [False, True], ids=["loop", "unrolled"])
def test_recurrent_cell(case, unroll):
    """Outputs, gradients and running statistics, within TensorFlow's symbolic loop too."""
    x, upstream = inputs((6, 5, 3), dtype="float64"), inputs((6, UNITS), seed=3)
    cell = cell_of(case)
    layer = keras.layers.RNN(cell, unroll=unroll, dtype="float64")
    kernel, before = to_numpy(cell.kernel), weights(cell.norm)

    @tf.function
    def slopes(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            h = layer(x, training=True)
            loss = tf.reduce_sum(h * upstream)
        return h, *tape.gradient(loss, [x, cell.kernel.value, cell.norm.gamma.value])

    h, *actual = slopes(tf.constant(x))
    np.testing.assert_allclose(h, steps(case, x, kernel, before)[-1][1], rtol=1e-9, atol=1e-9)

    def loss(x, kernel, gamma):
        return np.sum(steps(case, x, kernel, {**before, "gamma": gamma})[-1][1] * upstream)

    point = x, kernel, before["gamma"]
    for i, slope in enumerate(actual):
        expected = references.gradient(lambda v, i=i: loss(*point[:i], v, *point[i + 1 :]), point[i])
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)
    if case.running:
        seen = [z for z, _ in steps(case, x, kernel, before)]
        # Keras' loop runs the first step once more, to learn the output's shape; Keras' own layer counts it twice, too
        seen = seen if unroll else [seen[0], *seen]
        means, variances = zip(*(case.batch_statistics(z) for z in seen), strict=True)
        after = weights(cell.norm)
        assert after["update_count"] == len(seen)
        np.testing.assert_allclose(after["moving_mean"], warmed_up(means), rtol=1e-9)
        if case.name != "domain":  # whose variance of all domains counts the spread between batches, too
            np.testing.assert_allclose(after["moving_variance"], warmed_up(variances), rtol=1e-9)


@every_case
def test_bidirectional(case):
    x = inputs((6, 5, 3))
    layer = keras.layers.Bidirectional(keras.layers.RNN(cell_of(case, "float32"), return_sequences=True))
    layer.build(x.shape)
    parts = []
    for rnn, time in ((layer.forward_layer, slice(None)), (layer.backward_layer, slice(None, None, -1))):
        assert type(rnn.cell.norm) is type(case.make())
        done = steps(case, x[:, time].astype("float64"), to_numpy(rnn.cell.kernel), weights(rnn.cell.norm))
        parts.append(np.stack([h for _, h in done], 1)[:, time])
    y = to_numpy(layer(x, training=True))
    np.testing.assert_allclose(y, np.concatenate(parts, -1), rtol=1e-4, atol=1e-4)


@every_case
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_time_distributed_normalizes_each_step_on_its_own(case, masked, training):
    x = inputs((6, 5, 4))
    mask = np.random.default_rng(2).random((6, 5)) < 0.7 if masked else np.ones((6, 5), bool)
    norm = randomize(case.make(), (None, 4))
    layer, before, after = keras.layers.TimeDistributed(norm), weights(norm), None
    y = to_numpy(layer(x, training=training, mask=mask if masked else None))
    after = weights(norm)
    for t in range(5):
        expected = case.reference(x[:, t], before, -1, mask[:, t], training)
        np.testing.assert_allclose(y[:, t][mask[:, t]], expected[mask[:, t]], rtol=2e-5, atol=2e-5)
    if case.running and training:
        means = [case.batch_statistics(x[:, t], mask[:, t])[0] for t in range(5)]
        np.testing.assert_allclose(after["moving_mean"], warmed_up(means), rtol=1e-5)


class Subclassed(keras.Model):
    """With a training step of its own, and the normalizer within a layer within the model."""

    def __init__(self, norm):
        super().__init__()
        self.block = keras.Sequential([keras.layers.Dense(4), norm, keras.layers.Dense(2)])

    def call(self, x, training=None):
        return self.block(x, training=training)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True)
        )
        return {"loss": loss}


def trained(model, **options):
    """Variables after three batches; each way to train sees the same ones."""
    keras.utils.set_random_seed(0)
    x, y = inputs((24, 3)), inputs((24, 2), seed=3) / 10
    model(x[:8])
    rng = np.random.default_rng(7)
    for variable in model.trainable_variables:
        if len(variable.shape) == 2:
            variable.assign(rng.normal(size=variable.shape) / 2)
    model.compile(keras.optimizers.SGD(0.01), "mse", **options)
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(8), shuffle=False, verbose=0)
    return [to_numpy(variable) for variable in model.variables if "seed" not in variable.name]


@every_case
def test_ways_to_train_agree(case):
    def plain():
        return keras.Sequential([keras.layers.Dense(4), case.make(), keras.layers.Dense(2)])

    expected = trained(plain(), jit_compile=False)
    ways = {
        "xla": trained(plain(), jit_compile=True),
        "eager": trained(plain(), run_eagerly=True),
        "three steps in one execution": trained(plain(), steps_per_execution=3, jit_compile=False),
        "own training step": trained(Subclassed(case.make())),
        "own training step with xla": trained(Subclassed(case.make()), jit_compile=True),
    }
    for way, values in ways.items():
        for one, other in zip(values, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=way)


@every_case
def test_accumulated_gradients_are_the_mean_of_the_batches(case):
    x, upstream = inputs((2, 6, 4)), inputs((2, 6, 4), seed=3)
    layer = randomize(case.make(), (None, 4))
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer.build(layer.trainable_variables)
    before, slopes = weights(layer), []
    for n in range(2):
        slopes.append(gradients(layer, x[n], upstream[n])[2:])
        optimizer.apply_gradients(zip(map(tf.constant, slopes[-1]), layer.trainable_variables, strict=True))
    for variable, one, other in zip(layer.trainable_variables, *slopes, strict=True):
        expected = before[variable.name] - 0.1 * (one + other) / 2
        np.testing.assert_allclose(to_numpy(variable), expected, rtol=1e-5, atol=1e-6)
    if case.running:
        assert float(layer.update_count) == 2


@every_running_case
def test_fine_tuning_with_the_normalizer_frozen(case):
    norm = randomize(case.make(), (None, 4))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), norm, keras.layers.Dense(2)])
    norm.trainable = False
    before = weights(norm)
    kernel = to_numpy(model.layers[0].kernel)
    trained(model)
    for name, value in weights(norm).items():
        np.testing.assert_array_equal(value, before[name])
    assert np.any(to_numpy(model.layers[0].kernel) != kernel)
    x = inputs((8, 3))
    np.testing.assert_array_equal(to_numpy(model(x, training=True)), to_numpy(model(x)))
    norm.trainable = True
    trained(model)
    assert all(np.any(weights(norm)[name] != before[name]) for name in ("gamma", "moving_mean", "update_count"))


@every_case
def test_summary_and_clone(case):
    model = keras.Sequential([keras.Input((3, 4)), case.make(name="norm"), keras.layers.Dense(2)])
    randomize(model.get_layer("norm"), (None, 3, 4))
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text))
    count = sum(int(np.prod(variable.shape)) for variable in model.get_layer("norm").variables)
    assert f"Total params: {count + 10} " in "\n".join(lines)
    clone, x = keras.models.clone_model(model), inputs((5, 3, 4))
    assert clone.get_layer("norm").get_config() == model.get_layer("norm").get_config()
    assert np.any(model.predict(x, verbose=0) != clone.predict(x, verbose=0))
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(model.predict(x, verbose=0), clone.predict(x, verbose=0))
