"""Running statistics against NumPy float64 on the activations of an independent copy."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import nrm_keras
from nrm_keras import layers

BATCHES = [5, 8, 3, 8]


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def examples(shape=(6, 5, 3), count=24, seed=1):
    """Examples of different offset and spread, so that batches differ."""
    rng = np.random.default_rng(seed)
    offset, spread = (rng.uniform(0.5, 4.0, (count, *[1] * len(shape))) for _ in range(2))
    return (offset + spread * rng.normal(size=(count, *shape))).astype("float32")


def in_batches(*arrays, sizes=BATCHES):
    """A tf.data.Dataset of batches of these sizes."""
    edges = np.cumsum([0, *sizes])
    parts = [tuple(a[start:stop] for a in arrays) for start, stop in itertools.pairwise(edges)]
    signature = tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays)
    one = len(arrays) == 1
    return tf.data.Dataset.from_generator(
        lambda: (part[0] if one else part for part in parts), output_signature=signature[0] if one else signature
    )


@keras.saving.register_keras_serializable(package="tests")
class Own(keras.layers.BatchNormalization):
    """A subclass that updates in its own way."""

    def call(self, inputs, training=None, mask=None):
        outputs = super().call(inputs, training=training, mask=mask)
        if training:
            self.moving_mean.assign(self.moving_mean * 0.5)
        return outputs


MAKERS = {
    "keras": keras.layers.BatchNormalization,
    "batch": layers.BatchNormalization,
    "batch without warm-up": lambda **k: layers.BatchNormalization(warmup=False, **k),
    "adaptive": layers.AdaptiveNormalization,
    "synchronized": lambda **k: layers.BatchNormalization(synchronized=True, **k),
    "subclass": Own,
}


def network(make, dropout=0.0):
    """Two normalizers, the second one behind a layer that is not linear."""
    inner = keras.Sequential(
        [
            keras.Input((4, 3, 4)),
            keras.layers.ReLU(),
            keras.layers.Conv2D(5, 2),
            make(name="second"),
        ],
        name="inner",
    )
    x = keras.Input((6, 5, 3))
    y = keras.layers.Dropout(dropout)(make(name="first")(keras.layers.Conv2D(4, 3, name="conv")(x)))
    y = keras.layers.GlobalAveragePooling2D()(inner(y))
    return keras.Model(x, keras.layers.Dense(2, name="head")(y))


def norms(model):
    return model.get_layer("first"), model.get_layer("inner").get_layer("second")


def pooled(activations):
    values = np.concatenate([a.reshape(-1, a.shape[-1]) for a in activations]).astype("float64")
    return values.mean(0), values.var(0)


def independently(model, batches):
    """(mean, variance) of what reaches each of the two, from sub-models in training mode, batch by batch."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    inner = copy.get_layer("inner")
    front = keras.Model(copy.input, copy.get_layer("first").input)
    middle = keras.Model(copy.input, copy.get_layer("first").output)
    conv = next(layer for layer in inner.layers if isinstance(layer, keras.layers.Conv2D))
    first = [np.array(front(x)) for x in batches]
    second = [np.array(conv(keras.ops.relu(middle(x, training=True)))) for x in batches]
    return pooled(first), pooled(second)


def split(x, sizes=BATCHES):
    return np.split(x, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("kind", MAKERS)
def test_pooled_over_all_batches(kind):
    model, x = network(MAKERS[kind]), examples()
    expected = independently(model, split(x))
    report = nrm_keras.recalibrate(model, in_batches(x), verbose=0)
    for layer, (mean, variance) in zip(norms(model), expected, strict=True):
        np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)
        average = np.mean([a.var() for a in split(x)])
        assert abs(average / x.var() - 1) > 0.01, "an average over batches must be another number"
        if getattr(layer, "update_count", None) is not None:
            assert layer.update_count == len(BATCHES)
        if kind == "adaptive":
            assert float(layer.moving_log_count) == pytest.approx(np.mean(np.log(BATCHES)))
    assert (report.batches, report.skipped, report.examples) == (4, 0, 24)
    assert report.before is None and report.after is None
    assert [shift.path for shift in report.shifts] == [layer.path for layer in norms(model)]


def test_in_float64_to_twelve_digits_at_a_large_offset():
    model = keras.Sequential([keras.Input((4,), dtype="float64"), keras.layers.BatchNormalization(dtype="float64")])
    x = 1e5 + np.random.default_rng(0).normal(size=(24, 4))
    nrm_keras.recalibrate(model, in_batches(x), verbose=0)
    np.testing.assert_allclose(model.layers[0].moving_mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(model.layers[0].moving_variance, x.var(0), rtol=1e-8)


@pytest.mark.parametrize("make", [keras.layers.BatchNormalization, layers.BatchNormalization])
def test_masked_positions_do_not_count(make):
    norm = make()
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.Masking(0.0), norm])
    x = examples((5, 3))
    x[:, 3:] = 0
    x[5] = 0
    nrm_keras.recalibrate(model, in_batches(x), verbose=0)
    valid = np.delete(x[:, :3], 5, axis=0)
    (mean, variance) = pooled([valid])
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-5)


def test_longer_sequences_weigh_more():
    norm = layers.AdaptiveNormalization()
    model = keras.Sequential([keras.Input((None, 3)), norm])
    batches = [examples((length, 3), 2, length) for length in (2, 7, 4)]
    nrm_keras.recalibrate(model, (batch for batch in batches), verbose=0)
    mean, variance = pooled(batches)
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-5)


def test_shared_layer_pools_all_its_uses_and_channels_may_be_first():
    norm, one, two = layers.BatchNormalization(axis=1), keras.Input((3, 4), name="one"), keras.Input((3, 4), name="two")
    model = keras.Model([one, two], [norm(one), norm(two)])
    x, y = examples((3, 4)), 2 + examples((3, 4), seed=2)
    nrm_keras.recalibrate(model, ([x, y],), batch_size=8, verbose=0)
    mean, variance = pooled([np.moveaxis(a, 1, -1) for a in (x, y)])
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-5)


class Cell(keras.layers.Layer):
    """A recurrent cell that normalizes: its steps run in a loop of TensorFlow's graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = 3
        self.norm = keras.layers.BatchNormalization()

    def build(self, input_shape):
        self.norm.build(input_shape)

    def call(self, inputs, states, training=None):
        return self.norm(inputs, training=training), states


@pytest.mark.parametrize("unroll", [False, True])
def test_inside_wrappers_and_loops(unroll):
    cell, each = Cell(), keras.layers.BatchNormalization()
    x = examples((4, 3))
    recurrent = keras.layers.RNN(cell, return_sequences=True, unroll=unroll)
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.TimeDistributed(each), recurrent])
    nrm_keras.recalibrate(model, in_batches(x), verbose=0)
    np.testing.assert_allclose(each.moving_mean, pooled([x])[0], rtol=1e-5)
    # In front of the cell each step of each batch was standardized.
    np.testing.assert_allclose(cell.norm.moving_mean, np.zeros(3), atol=1e-6)
    # In a loop Keras calls the cell once more on the first step, to learn what comes out.
    steps = [1 if unroll else 2, 1, 1, 1]
    shares = [np.average(a.var(0) / (a.var(0) + 1e-3), 0, steps) for a in split(x.astype("float64"))]
    np.testing.assert_allclose(cell.norm.moving_variance, np.average(shares, 0, BATCHES), rtol=1e-5)


def test_dropout_and_seeds_stay_out_of_it():
    results = []
    for dropout in (0.0, 0.5):
        keras.utils.set_random_seed(0)
        model = network(layers.BatchNormalization, dropout)
        model.compile(keras.optimizers.Adam(), "mse", metrics=["mae"])
        x, y = examples(), np.zeros((24, 2), "float32")
        model.fit(x[:8], y[:8], verbose=0)
        model.set_weights(network_weights())
        others = [v for v in everything(model) if "moving" not in v.path and v.name != "update_count"]
        before = [np.array(v) for v in others]
        nrm_keras.recalibrate(model, in_batches(x, y), verbose=0)
        for variable, value in zip(others, before, strict=True):
            np.testing.assert_array_equal(variable, value, err_msg=variable.path)
        results.append([np.array(layer.moving_variance) for layer in norms(model)])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def network_weights():
    keras.utils.set_random_seed(3)
    return network(layers.BatchNormalization).get_weights()


def everything(model):
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]


def test_loss_and_metrics_before_and_after():
    model, x = network(layers.BatchNormalization), 10 + 5 * examples()
    model.compile("sgd", "mse", metrics=["mae"])
    y, weight = np.ones((24, 2), "float32"), np.linspace(0, 1, 24)

    def measured():
        error = model.predict(x, verbose=0).astype("float64") - y
        return {"loss": np.mean(np.mean(error**2, 1) * weight), "mae": np.mean(np.abs(error))}

    data, before = in_batches(x, y, weight), measured()
    report, after = nrm_keras.recalibrate(model, data, verbose=0), measured()
    assert report.before == pytest.approx(before, rel=1e-4) and report.after == pytest.approx(after, rel=1e-4)
    assert before["loss"] != pytest.approx(after["loss"], rel=0.1)
    assert f"loss: {report.before['loss']:.4g} -> {report.after['loss']:.4g}" in str(report)
    silent = nrm_keras.recalibrate(model, data, evaluate=False, verbose=0)
    assert silent.before is None and silent.after is None


def numbers(model):
    return [np.array(variable) for variable in model.variables]


def damaged(x, how):
    batches = split(x)
    if how == "empty":
        return [*batches[:2], x[:0], *batches[2:]]
    bad = batches[1].copy()
    bad[3, 2, 1, 0] = {"nan": np.nan, "infinite": np.inf, "overflow": 1e30}[how]
    return [batches[0], batches[1], bad, *batches[2:]]


@pytest.mark.parametrize("how", ["empty", "nan", "infinite", "overflow"])
@pytest.mark.parametrize("make", [keras.layers.BatchNormalization, layers.AdaptiveNormalization])
def test_bad_batches_are_left_out(make, how):
    clean, dirty, x = network(make), network(make), examples()
    dirty.set_weights(clean.get_weights())
    nrm_keras.recalibrate(clean, (batch for batch in split(x)), verbose=0)
    report = nrm_keras.recalibrate(dirty, (batch for batch in damaged(x, how)), verbose=0)
    assert (report.batches, report.skipped) == (4, 1) and "1 batches skipped" in str(report)
    for one, other in zip(numbers(clean), numbers(dirty), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_all_or_nothing(error):
    model, x = network(layers.AdaptiveNormalization, 0.5), examples()
    before = numbers(model)

    def data():
        yield x[:8]
        yield x[8:]
        raise error

    with pytest.raises(error):
        nrm_keras.recalibrate(model, data(), verbose=0)
    for one, other in zip(numbers(model), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all("call" not in vars(layer) for layer in norms(model)), "layers must be as they were, too"
    nrm_keras.recalibrate(model, x, verbose=0)


def test_error_while_measuring_the_result_takes_it_back():
    model, x = network(layers.BatchNormalization), examples()
    model.compile("sgd", "mse")
    before, old = numbers(model), np.array(model.get_layer("first").moving_mean)

    class Data(keras.utils.PyDataset):
        num_batches = 2

        def __getitem__(self, index):
            if index == 1 and not measuring(model, old):
                raise OSError("gone")
            return x[index * 8 : index * 8 + 8], np.zeros((8, 2))

    with pytest.raises(OSError, match="gone"):
        nrm_keras.recalibrate(model, Data(), verbose=0)
    for one, other in zip(numbers(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


def measuring(model, old):
    """Whether the model is not yet on its new statistics: they are the old ones, or layers are hooked."""
    first = model.get_layer("first")
    return "call" in vars(first) or np.array_equal(first.moving_mean, old)


def test_frozen_layers():
    x = examples()
    for include in (False, True):
        model = network(keras.layers.BatchNormalization)
        model.get_layer("first").trainable = False
        first, second = norms(model)
        before = np.array(first.moving_mean)
        report = nrm_keras.recalibrate(model, in_batches(x), include_frozen=include, verbose=0)
        assert np.array_equal(first.moving_mean, before) != include
        assert not first.trainable and report.left == (() if include else ((first.path, "frozen in training"),))
        # What is behind a frozen layer sees its old statistics, as in training.
        front = keras.Model(model.input, model.get_layer("conv").output)
        if not include:
            y = [np.array(second_input(model, (front(a) - 0.0) / np.sqrt(1 + 1e-3))) for a in split(x)]
            np.testing.assert_allclose(second.moving_variance, pooled(y)[1], rtol=1e-4)


def second_input(model, normalized):
    conv = next(layer for layer in model.get_layer("inner").layers if isinstance(layer, keras.layers.Conv2D))
    return conv(keras.ops.relu(normalized))


class Pretrained(keras.layers.Layer):
    """Calls its normalizer as at inference, always."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization()

    def call(self, inputs):
        return self.norm(inputs, training=False)


def test_layer_that_is_called_for_inference_is_frozen():
    base = Pretrained()
    model = keras.Sequential([keras.Input((3,)), base, keras.layers.BatchNormalization()])
    report = nrm_keras.recalibrate(model, examples((3,)), verbose=0)
    assert report.left == ((base.norm.path, "frozen in training"),)
    np.testing.assert_array_equal(base.norm.moving_mean, np.zeros(3))
    model.trainable = False
    with pytest.raises(ValueError, match="2 layers, all frozen. Pass include_frozen=True"):
        nrm_keras.recalibrate(model, examples((3,)), verbose=0)


class PerDomain(keras.layers.Layer):
    """Statistics of each of two domains."""

    def build(self, input_shape):
        self.moving_mean = self.add_weight(shape=(2, input_shape[-1]), name="moving_mean", trainable=False)

    def call(self, inputs):
        return inputs - self.moving_mean[0]


def test_statistics_of_another_form_are_named():
    model = keras.Sequential([keras.Input((3,)), PerDomain(name="domains"), keras.layers.BatchNormalization()])
    before = np.array(model.layers[0].moving_mean)
    report = nrm_keras.recalibrate(model, examples((3,)), verbose=0)
    ((path, reason),) = report.left
    assert path == model.layers[0].path and "each channel" in reason
    np.testing.assert_array_equal(model.layers[0].moving_mean, before)


def test_every_kind_of_data_gives_the_same():
    x = examples((3,), 64)
    x[:32] += 100  # as if sorted by class
    y = np.zeros((64, 1))

    class Pairs(keras.utils.PyDataset):
        num_batches = 2

        def __getitem__(self, index):
            return x[index::2], y[index::2]

    kinds = {
        "array": x,
        "pair": (x, y),
        "tensor": tf.constant(x),
        "dataset": tf.data.Dataset.from_tensor_slices(x).batch(10),
        "forever": tf.data.Dataset.from_tensor_slices(x).batch(32).repeat(),
        "pydataset": Pairs(),
        "generator": (x[i : i + 16] for i in range(0, 64, 16)),
    }
    for kind, data in kinds.items():
        model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
        nrm_keras.recalibrate(model, data, 2 if kind == "forever" else None, verbose=0)
        np.testing.assert_allclose(model.layers[0].moving_variance, x.var(0), rtol=1e-4, err_msg=kind)


def test_arrays_are_shuffled_so_that_a_sorted_set_gives_mixed_batches():
    x = examples((3,), 64)
    x[:32] += 100
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.ReLU(), norm])
    means = []
    for _ in range(2):
        nrm_keras.recalibrate(model, x, verbose=0)
        means.append(np.array(norm.moving_mean))
    np.testing.assert_array_equal(*means)
    # Of two far clusters, standardized together, half is at 1 and half at -1.
    np.testing.assert_allclose(means[0], np.full(3, 0.5), atol=0.05)


def test_subclassed_model():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        def call(self, inputs, training=None):
            return self.norm(inputs, training=training)

    model, x = Own(), examples((3,))
    model(x[:2])
    nrm_keras.recalibrate(model, x, verbose=0)
    np.testing.assert_allclose(model.norm.moving_mean, x.mean(0), rtol=1e-5)


def test_statistics_of_domains_are_left():
    x, domain = keras.Input((3,)), keras.Input((), dtype="int32")
    y = keras.layers.BatchNormalization(name="known")(x)
    model = keras.Model([x, domain], layers.DomainBatchNormalization(2, name="domains")(y, domain))
    before = [np.array(v) for v in model.get_layer("domains").variables]
    report = nrm_keras.recalibrate(model, ([examples((3,)), np.zeros(len(examples((3,))), "int32")],), verbose=0)
    assert [shift.path for shift in report.shifts] == ["known"]
    assert report.left[0][0] == "domains"
    for variable, old in zip(model.get_layer("domains").variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)


def test_after_a_swap(capsys):
    model = keras.Sequential([keras.Input((3,)), keras.layers.LayerNormalization(), keras.layers.Dense(2)])
    new = nrm_keras.swap_normalization(model, "batch")
    assert "nrm_keras.recalibrate" in capsys.readouterr().out
    x = examples((3,))
    nrm_keras.recalibrate(new, x, verbose=1)
    assert "1/1" in capsys.readouterr().out
    y = np.array(new.layers[0](x))
    np.testing.assert_allclose(y.mean(0), np.zeros(3), atol=1e-5)


def _norm():
    return keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])


@pytest.mark.parametrize(
    "make, data, options, error, message",
    [
        (lambda: keras.Sequential([keras.layers.BatchNormalization()]), 0, {}, ValueError, "that is built"),
        (lambda: keras.layers.Dense(1), 0, {}, ValueError, "must be a Keras model"),
        (lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), 0, {}, ValueError, "has none"),
        (_norm, tf.data.Dataset.from_tensors(np.ones((2, 3))).repeat(), {}, ValueError, "`steps` is needed"),
        (_norm, np.ones((4, 3)), {"steps": 0}, ValueError, "positive integer. Received: 0"),
        (_norm, (np.ones((4, 3)), np.ones(3)), {}, ValueError, r"Received: \[3, 4\]"),
        (_norm, np.ones((0, 3)), {}, ValueError, "finite values only"),
        (_norm, np.full((4, 3), np.nan), {}, ValueError, "1 batches without"),
        (_norm, 3, {}, TypeError, "Received: int"),
    ],
)
def test_errors_say_what_to_do(make, data, options, error, message):
    with pytest.raises(error, match=message):
        nrm_keras.recalibrate(make(), data, verbose=0, **options)
