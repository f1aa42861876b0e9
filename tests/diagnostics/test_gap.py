"""The train/inference gap against NumPy float64, SciPy, and models whose fault is known."""

import functools
import json

import keras
import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from nrm_keras import layers
from nrm_keras.diagnostics.gap import train_inference_gap
from nrm_keras.diagnostics.gap_null import Examples, Memory, compare, progress

MOMENTUM = 0.9


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def batches_of(*arrays, size):
    """A generator of batches in the order of the examples."""
    for start in range(0, len(arrays[0]), size):
        batch = tuple(a[start : start + size] for a in arrays)
        yield batch[0] if len(batch) == 1 else batch


def give(layer, mean, variance):
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)


def by_path(report):
    return {layer.path.split("/")[-1]: layer for layer in report.layers}


def oracle(x, running, sizes, epsilon):
    """Gaps and z of x, float64, a list of batches (examples, positions, channels), from the issue's formulas."""
    means = np.stack([b.reshape(-1, b.shape[-1]).mean(0) for b in x])
    variances = np.stack([b.reshape(-1, b.shape[-1]).var(0) for b in x])
    mean, variance = means.mean(0), variances.mean(0)
    rows = np.concatenate(x)
    m = rows.mean(1)
    q = np.square(rows - rows.mean((0, 1))).mean(1)
    both = 1 / len(x) + (1 - MOMENTUM) / (1 + MOMENTUM)
    mean_error = np.sqrt(m.var(0, ddof=1) / sizes * both)
    log_error = np.sqrt(q.var(0, ddof=1) / sizes * both) / (variance + epsilon)
    return {
        "mean_gap": np.abs(running[0] - mean) / np.sqrt(running[1] + epsilon),
        "log_variance_ratio": np.log(variance / running[1]),
        "mean_z": (running[0] - mean) / mean_error,
        "variance_z": np.log((running[1] + epsilon) / (variance + epsilon)) / log_error,
        "mean_noise": np.sqrt(np.mean(m.var(0, ddof=1) / sizes / (q.mean(0) + epsilon))),
        "variance_noise": np.sqrt(np.mean(q.var(0, ddof=1) / sizes / np.square(q.mean(0) + epsilon))),
    }


@keras.saving.register_keras_serializable(package="tests")
class Own(keras.layers.BatchNormalization):
    pass


MAKERS = {
    "keras": keras.layers.BatchNormalization,
    "subclass": Own,
    "batch": functools.partial(layers.BatchNormalization, warmup=False),
    "synchronized": functools.partial(layers.BatchNormalization, warmup=False, synchronized=True),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_gaps_and_z_of_layers_on_their_inputs_in_training(kind):
    epsilon, rng = 1e-5, np.random.default_rng(1)
    make = functools.partial(MAKERS[kind], momentum=MOMENTUM, epsilon=epsilon)
    inputs = keras.Input((5, 3))
    outputs = make(name="second")(keras.layers.Conv1D(4, 2, name="conv")(make(name="first")(inputs)))
    model = keras.Model(inputs, outputs)
    x = (rng.gamma(2.0, size=(42, 1, 3)) + rng.normal(size=(42, 5, 3))).astype("float32")
    running = {name: (rng.normal(size=n), rng.uniform(0.5, 2, n)) for name, n in (("first", 3), ("second", 4))}
    for name, values in running.items():
        give(model.get_layer(name), *values)
    report = train_inference_gap(model, batches_of(x, size=8))
    # The last two make no batch of 8.
    parts = [x[i : i + 8].astype("float64") for i in range(0, 40, 8)]
    kernel, bias = (np.array(v, "float64") for v in model.get_layer("conv").variables)
    normalized = [(b - b.mean((0, 1))) / np.sqrt(b.var((0, 1)) + epsilon) for b in parts]
    second = [sum(b[:, i : i + 4] @ kernel[i] for i in range(2)) + bias for b in normalized]
    assert (report.batches, report.examples, report.loss) == (6, 42, None)
    for name, seen in (("first", parts), ("second", second)):
        found, values = by_path(report)[name], [np.array(v, "float32").astype("float64") for v in running[name]]
        for quantity, expected in oracle(seen, values, 8, epsilon).items():
            tolerance = 2e-3 if "noise" not in quantity and "z" in quantity else 1e-4
            np.testing.assert_allclose(
                getattr(found, quantity), expected, tolerance, 1e-5, err_msg=f"{name} {quantity}"
            )
        assert found.batch_size == 8 and found.updates is None and not found.frozen


@pytest.mark.parametrize("make", [keras.layers.BatchNormalization, layers.BatchNormalization])
def test_padding_does_not_count(make):
    norm = make(momentum=MOMENTUM)
    model = keras.Sequential([keras.Input((6, 3)), keras.layers.Masking(0.0), norm])
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(3.0, size=(32, 6, 3)).astype("float32"), rng.integers(1, 7, 32)
    padded = x * (np.arange(6) < lengths[:, None])[..., None]
    (found,) = train_inference_gap(model, batches_of(padded, size=8)).layers
    valid = [
        np.concatenate([one[:n] for one, n in zip(x[i : i + 8], lengths[i : i + 8], strict=True)]).astype("float64")
        for i in range(0, 32, 8)
    ]
    mean, variance = np.mean([v.mean(0) for v in valid], 0), np.mean([v.var(0) for v in valid], 0)
    np.testing.assert_allclose(found.mean_gap, mean / np.sqrt(1 + 1e-3), 1e-5)
    np.testing.assert_allclose(found.log_variance_ratio, np.log(variance), 0, 1e-5)
    # The mean of a batch is a ratio of sums over examples, whose linear parts vary by so much.
    everything = np.concatenate(valid).mean(0)
    sums = np.stack([(one[:n] - everything).sum(0) for one, n in zip(x.astype("float64"), lengths, strict=True)])
    noise = np.square(sums / lengths.mean()).sum(0) / 31 / 8
    # Of ours it is known that there was no update.
    left = (1 - MOMENTUM) / (1 + MOMENTUM) if make is keras.layers.BatchNormalization else 0
    np.testing.assert_allclose(found.mean_z, -mean / np.sqrt(noise * (0.25 + left)), 1e-2)


def test_calls_of_a_shared_layer_and_virtual_batches_have_statistics_of_their_own():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 32, 3)).astype("float32")
    norm, inputs = layers.BatchNormalization(virtual_batch_size=4), [keras.Input((3,)), keras.Input((3,))]
    model = keras.Model(inputs, [norm(inputs[0]), norm(inputs[1] + 5.0)])
    (found,) = train_inference_gap(model, ([one, two],), batch_size=16).layers
    order = np.random.default_rng(0).permutation(32)
    groups = [x[order].astype("float64").reshape(8, 4, 3) for x in (one, two + 5.0)]
    np.testing.assert_allclose(found.log_variance_ratio, np.log(np.mean([g.var(1) for g in groups], (0, 1))), 0, 1e-5)
    np.testing.assert_allclose(found.mean_gap, np.abs(np.mean(groups, (0, 1, 2))) / np.sqrt(1.001), 1e-5)
    assert found.batch_size == 4


def test_rows_of_folded_time_belong_to_their_example():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4, 5, 2))  # examples, time, positions, channels
    rows = x.reshape(24, 5, 2)
    folded = Examples.of_batch(np.full((24, 1), 5.0), rows.mean(1), rows.var(1), 1, 6)
    np.testing.assert_allclose(folded.mean[:, 0], x.mean((1, 2)))
    np.testing.assert_allclose(folded.variance[:, 0], x.var((1, 2)))
    assert folded.sizes == (6,) and np.all(folded.weight == 20)


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize(("updates", "momentum"), [(1, 0.9), (7, 0.99), (300, 0.9), (300, 0.99), (2000, 0.99)])
def test_memory_is_that_of_the_recursion(updates, momentum, warmup):
    kept = np.array([min(momentum, t / (t + 9)) if warmup else momentum for t in range(updates)])
    weights = [(1 - kept[t]) * np.prod(kept[t + 1 :]) for t in range(updates)]
    memory = Memory.after(updates, momentum, warmup)
    np.testing.assert_allclose(memory.initial, np.prod(kept), 1e-9, 1e-300)
    np.testing.assert_allclose(memory.noise, np.sum(np.square(weights)), 1e-9)


def test_memory_of_unknown_length():
    assert Memory.after(np.inf, 0.99).initial == 0 and Memory.after(np.inf, 1.0).initial == 1
    assert Memory.after(np.inf, 0.99).noise == pytest.approx(1 / 199)
    assert Memory.after(np.inf, 0.99, True).noise == pytest.approx(1 / 199)


def test_progress_is_the_fraction_of_the_way():
    rng = np.random.default_rng(0)
    initial, batch = (np.zeros(5), np.ones(5)), (rng.normal(size=5), rng.uniform(0.1, 9, 5))
    running = tuple(0.7 * i + 0.3 * b for i, b in zip(initial, batch, strict=True))
    assert progress(running, initial, batch, 1e-3) == pytest.approx((0.3, 1.0))
    other = rng.normal(size=5), rng.uniform(0.1, 9, 5)
    scale = np.sqrt(batch[1] + 1e-3), batch[1] + 1e-3
    way, gone = (
        np.concatenate([(v - i) / s for v, i, s in zip(to, initial, scale, strict=True)]) for to in (batch, other)
    )
    (slope,), (residual,), *_ = np.linalg.lstsq(way[:, None], gone)
    expected = slope, 1 - residual / np.sum(np.square(gone - way))
    assert progress(other, initial, batch, 1e-3) == pytest.approx(expected) and expected[1] < 0.9
    assert progress(batch, initial, batch, 1e-3) == (1.0, 0.0)


def test_loss_in_both_modes_and_their_noise():
    epsilon, rng = 1e-3, np.random.default_rng(0)
    norm, head = keras.layers.BatchNormalization(epsilon=epsilon), keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((3,)), norm, keras.layers.Dropout(0.5), head])
    model.compile("sgd", "mse")
    give(norm, rng.normal(size=3), rng.uniform(0.5, 2, 3))
    x, y = rng.normal(2.0, 3.0, (40, 3)).astype("float32"), rng.normal(size=(40, 1)).astype("float32")
    report = train_inference_gap(model, batches_of(x, y, size=8))
    kernel, bias, mean, variance = (
        np.array(v, "float64") for v in (head.kernel, head.bias, norm.moving_mean, norm.moving_variance)
    )

    def loss(part, target, mean, variance):
        return np.mean(np.square((part - mean) / np.sqrt(variance + epsilon) @ kernel + bias - target))

    parts = list(batches_of(x.astype("float64"), y.astype("float64"), size=8))
    inference = [loss(part, target, mean, variance) for part, target in parts]
    training = [loss(part, target, part.mean(0), part.var(0)) for part, target in parts]
    assert report.loss.training == pytest.approx(np.mean(training), rel=1e-5)
    assert report.loss.inference == pytest.approx(np.mean(inference), rel=1e-5)
    assert report.loss.p_value == pytest.approx(stats.ttest_rel(inference, training).pvalue, rel=1e-4)
    assert report.loss.standard_error == pytest.approx(stats.sem(np.subtract(inference, training)), rel=1e-4)


def moments(x, sizes):
    """Examples from an array (examples, positions, channels)."""
    return Examples(np.full((len(x), 1, 1), x.shape[1]), x.mean(1)[:, None], x.var(1)[:, None], sizes)


@functools.cache
@threadpool_limits.wrap(limits=1)
def null_p_values(batch_size, steps, trials=300):
    """p-values of running statistics that are those of other batches of the same skewed, correlated distribution.

    In front of a first normalizer, and in front of a second one behind a layer with ReLU, in training mode.
    """
    rng, p = np.random.default_rng(0), []
    weights = MOMENTUM ** np.arange(60)
    weights /= weights.sum()
    for trial in range(trials):
        mixing, kernel = rng.normal(size=(3, 3)) + np.eye(3), rng.normal(size=(3, 5))
        shape = (steps + 60, batch_size, 1, 3)
        x = rng.gamma(2.0, size=shape) @ mixing + rng.normal(size=(steps + 60, batch_size, 4, 3))
        normalized = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-3)
        for seen in (x, np.maximum(normalized @ kernel, 0)):
            running = weights @ seen[steps:].mean((1, 2)), weights @ seen[steps:].var((1, 2))
            examples = moments(seen[:steps].reshape(-1, *seen.shape[2:]), (batch_size,) * steps)
            p.append(compare(examples, running, 1e-3, Memory.after(np.inf, MOMENTUM), trial).p_value)
    return np.reshape(p, (trials, 2))


@pytest.mark.parametrize(("batch_size", "steps", "where"), [(16, 12, 0), (16, 12, 1), (2, 20, 0)])
def test_p_values_are_uniform_under_the_null(batch_size, steps, where):
    p = null_p_values(batch_size, steps)[:, where]
    for level in (0.01, 0.05, 0.2, 0.5):
        # Three standard deviations of a proportion of 300: 0.038 at 0.05.
        band = 3 * np.sqrt(level * (1 - level) / len(p))
        assert abs(np.mean(p <= level) - level) <= band, level


def test_p_values_of_batches_of_two_behind_a_normalizer_are_somewhat_too_small():
    # Normalized, two examples are each other's mirror image, and resampling takes them for independent: 0.10 at 0.05.
    assert np.mean(null_p_values(2, 20)[:, 1] <= 0.05) <= 0.14


def test_p_value_sees_what_is_no_noise():
    rng, p = np.random.default_rng(0), []
    for size in (0.0, 1.0):
        x = rng.normal(size=(192, 1, 3)) + rng.normal(size=(192, 4, 3))
        # Standard errors of the mean of the batches and of a running average, together.
        error = np.sqrt(1.25 / 16 * (1 / 12 + 1 / 19))
        running = x.mean((0, 1)) + 5 * size * error, x.var((0, 1))
        p.append(compare(moments(x, (16,) * 12), running, 1e-3, Memory.after(np.inf, MOMENTUM)).p_value)
    assert p[0] > 0.5 and p[1] == 0.001


@functools.cache
def digits():
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.images[order, ..., None] / 16).astype("float32"), data.target[order]


def cnn(make=keras.layers.BatchNormalization, **arguments):
    model = keras.Sequential([keras.Input((8, 8, 1))])
    for block in ([keras.layers.Conv2D(8, 3)], [keras.layers.Conv2D(16, 3, 2)], [keras.layers.Flatten(), 32]):
        for layer in block:
            model.add(keras.layers.Dense(layer) if isinstance(layer, int) else layer)
        model.add(make(name=f"norm{sum(isinstance(one, make) for one in model.layers)}", **arguments))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10, "softmax"))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@functools.cache
def trained(momentum, batch_size, steps):
    """A CNN trained on digits. Tests share it, as nothing of it may change."""
    keras.utils.set_random_seed(0)
    model, (x, y) = cnn(momentum=momentum), digits()
    count = min(1280, steps * batch_size)
    model.fit(x[:count], y[:count], batch_size=batch_size, epochs=-(-steps * batch_size // count), verbose=0)
    return model


def test_well_trained_has_no_gap():
    model, (x, y) = trained(MOMENTUM, 32, 320), digits()
    report = train_inference_gap(model, (x[:1280], y[:1280]))
    assert report.verdict == "none" and all(layer.verdict == "none" for layer in report.layers)
    assert all(layer.updates == 320 for layer in report.layers) and report.batches == 20
    assert report.advice == "nothing to do" and "evidence" not in str(report)


@functools.cache
def few_updates(compiled):
    model, (x, y) = trained(0.99, 32, 20), digits()
    if not compiled:
        model = keras.Model(model.inputs, model.outputs)
    return train_inference_gap(model, (x[:1280], y[:1280]), remedy=True)


@pytest.mark.parametrize("compiled", [True, False])
def test_few_steps_with_a_long_memory_are_too_few_updates(compiled):
    report = few_updates(compiled)
    assert {layer.verdict for layer in report.layers} == {"too few updates"} == {report.verdict}
    for layer in report.layers:
        assert layer.fraction == pytest.approx(1 - 0.99**20, abs=0.02) and layer.explained > 0.99
    assert "nrm_keras.recalibrate" in report.advice and "warmup=True" in report.advice
    if not compiled:
        assert report.loss is None and report.recalibrated.before is None
        return
    assert "20 updates with momentum 0.99 leave 82%" in str(report)
    before, after = report.recalibrated.before, report.recalibrated.after
    # On these batches: 2.25 -> 1.69, accuracy 0.22 -> 0.45; with batch statistics 1.71.
    assert before["loss"] == pytest.approx(report.loss.inference, rel=1e-4)
    assert after["loss"] < before["loss"] - 0.3 and after["accuracy"] > before["accuracy"] + 0.1
    assert abs(after["loss"] - report.loss.training) < 0.1
    assert f"loss {before['loss']:.4g} -> {after['loss']:.4g}" in str(report)


def test_updates_are_known_by_the_layers_own_count():
    model, (x, y) = cnn(layers.BatchNormalization), digits()
    model.fit(x[:640], y[:640], batch_size=32, verbose=0)
    model.optimizer.iterations.assign(7)
    report = train_inference_gap(model, (x[:1280], y[:1280]))
    assert report.verdict == "none" and {layer.updates for layer in report.layers} == {20}
    assert {layer.initial_left for layer in report.layers} == {0.0}


def test_batch_of_two_is_too_small():
    x, y = digits()
    report = train_inference_gap(trained(MOMENTUM, 32, 320), (x, y), batch_size=2)
    worst = report.layers[0]
    assert report.verdict == worst.verdict == "batch too small" and worst.path.endswith("norm2")
    # Two examples: the variance of their mean is half that of one.
    assert worst.mean_noise == pytest.approx(np.sqrt(0.5), rel=0.1)
    assert "AdaptiveNormalization" in report.advice and report.loss.training > report.loss.inference + 0.2


@pytest.mark.parametrize("compiled", [True, False])
def test_other_data_are_a_data_shift_of_the_first_layer_alone(compiled):
    model, (x, y) = trained(MOMENTUM, 32, 320), digits()
    if not compiled:
        model = keras.Model(model.inputs, model.outputs)
    report = train_inference_gap(model, (x[:1280] * 2 + 1, y[:1280]), remedy=True)
    verdicts = {name: layer.verdict for name, layer in by_path(report).items()}
    assert verdicts == {"norm0": "data shift", "norm1": "none", "norm2": "none"} and report.verdict == "data shift"
    if compiled:
        before, after = report.recalibrated.before, report.recalibrated.after
        # 2.30 -> 0.19: recalibration undoes an affine change of the inputs.
        assert after["loss"] < 0.3 * before["loss"] and report.loss.p_value < 1e-4


def test_momentum_of_one_never_updates():
    model, (x, y) = trained(1.0, 32, 20), digits()
    report = train_inference_gap(model, (x, y), steps=5, remedy=True)
    assert {layer.verdict for layer in report.layers} == {"never updated"} == {report.verdict}
    assert "momentum is 1" in str(report) and report.batches == 5
    assert report.recalibrated.after["loss"] < report.recalibrated.before["loss"]


class Wired(keras.Model):
    """A model that forgets to train one of its normalizers, and one that is frozen on purpose."""

    def __init__(self):
        super().__init__()
        self.wired = keras.layers.BatchNormalization(name="wired")
        self.frozen = keras.layers.BatchNormalization(name="frozen", trainable=False)
        self.trained = layers.AdaptiveNormalization(name="trained")

    def call(self, x, training=None):
        x = self.frozen(self.wired(x, training=False), training=training)
        return self.trained(x, training=training)


def test_frozen_layers_are_reported_as_such():
    model, x = Wired(), np.random.default_rng(0).normal(3.0, 2.0, (320, 4)).astype("float32")
    model(x)
    give(model.frozen, np.full(4, 2.0), np.full(4, 3.0))
    for start in range(0, 320, 32):
        model(x[start : start + 32], training=True)
    report = train_inference_gap(model, x, remedy=True)
    found = by_path(report)
    assert (found["wired"].verdict, found["wired"].frozen) == ("never updated", True)
    assert "called with training=False" in found["wired"].evidence and report.verdict == "never updated"
    assert (found["frozen"].verdict, found["frozen"].frozen) == ("none", True)
    assert "training uses the running statistics, too" in found["frozen"].evidence
    assert not found["trained"].frozen and "(frozen)" in str(report)
    # What is behind frozen layers sees their running statistics.
    np.testing.assert_allclose(found["frozen"].mean_gap, (x.mean(0) / 1.0005 - 2) / np.sqrt(3.001), 1e-3)


class Noise(keras.layers.Layer):
    """Random at inference, too: its seed moves with every call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + 0.01 * keras.random.normal(keras.ops.shape(x), seed=self.seed)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = [
            Noise(),
            keras.layers.BatchNormalization(),
            layers.SwitchableNormalization(),
            layers.AdaptiveNormalization(),
            layers.DomainBatchNormalization(2),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2),
        ]

    def call(self, x, training=None):
        for layer in self.body:
            one = isinstance(layer, layers.DomainBatchNormalization)
            arguments = {"domain": keras.ops.zeros(keras.ops.shape(x)[0], "int32")} if one else {}
            x = layer(x, **arguments) if isinstance(layer, Noise) else self._call(layer, x, training, arguments)
        return x

    @staticmethod
    def _call(layer, x, training, arguments):
        known = isinstance(layer, keras.layers.Dense)
        return layer(x) if known else layer(x, training=training, **arguments)


@pytest.mark.parametrize("fault", [False, True])
def test_model_is_left_bit_for_bit(fault):
    model, rng = Subclassed(), np.random.default_rng(0)
    x, y = rng.normal(2.0, 3.0, (64, 5)).astype("float32"), rng.normal(size=(64, 2)).astype("float32")
    model.compile(keras.optimizers.Adam(), "mse", metrics=["mae"])
    model.fit(x, y, batch_size=16, verbose=0)
    every = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    assert any("seed" in v.path for v in every) and len(every) > 20
    before = [np.array(v) for v in every]
    if fault:
        x[20] = np.nan

        def data_with_error():
            yield x[:16], y[:16]
            yield x[16:32], y[16:32]
            raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            train_inference_gap(model, data_with_error(), remedy=True)
    else:
        report = train_inference_gap(model, batches_of(x, y, size=16), remedy=True)
        assert len(report.layers) == 3 and report.left[0][1].startswith("its running statistics are not one mean")
        # One pass over a generator is enough: its batches are kept.
        assert report.recalibrated.before["loss"] != report.recalibrated.after["loss"]
    for variable, value in zip(every, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    assert all("call" not in vars(layer) for layer in model.body)


def test_batches_with_values_that_are_not_finite_are_skipped():
    model, x = cnn(), digits()[0][:96].copy()
    x[40, 0, 0] = np.nan
    report = train_inference_gap(model, batches_of(x, size=32))
    assert (report.batches, report.skipped, report.examples) == (2, 1, 64)
    assert "1 batches skipped" in str(report) and np.all(np.isfinite(report.layers[0].mean_gap))


def test_report_prints_and_becomes_records():
    report = few_updates(compiled=True)
    model_record, *records = [json.loads(json.dumps(record)) for record in report.as_records()]
    assert model_record["verdict"] == "too few updates" and model_record["after"]["loss"] > 0
    assert [record["path"] for record in records] == [layer.path for layer in report.layers]
    assert len(records[0]["mean_z"]) == len(report.layers[0].mean_z)
    lines = str(report).splitlines()
    assert lines[0] == "train/inference gap: too few updates, on 640 examples in 20 batches" and len(lines) == 9
    with pytest.raises(AttributeError):
        report.verdict = "none"


class Cell(keras.layers.Layer):
    """A recurrent cell that normalizes: its steps run in a loop of TensorFlow's graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = 3
        self.norm = keras.layers.BatchNormalization(name="cell")

    def build(self, input_shape):
        self.norm.build(input_shape)

    def call(self, inputs, states, training=None):
        return self.norm(inputs, training=training), states


def test_inside_wrappers_and_loops():
    x = np.random.default_rng(0).normal(2.0, 3.0, (32, 4, 3)).astype("float32")
    each = keras.layers.BatchNormalization(name="each")
    recurrent = keras.layers.RNN(Cell(), return_sequences=True)
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.TimeDistributed(each), recurrent])
    found = by_path(train_inference_gap(model, batches_of(x, size=8)))
    # Each time step normalizes with statistics of its own, whose average counts.
    parts = x.reshape(4, 8, 4, 3).astype("float64")
    np.testing.assert_allclose(found["each"].log_variance_ratio, np.log(parts.var(1).mean((0, 1))), 0, 1e-5)
    np.testing.assert_allclose(found["cell"].mean_gap, np.zeros(3), 0, 1e-5)
    assert np.all(np.abs(found["cell"].log_variance_ratio) < 1e-3)


def test_half_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = cnn(layers.AdaptiveNormalization)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    report = train_inference_gap(model, digits(), steps=3)
    assert report.verdict == "never updated" and np.isfinite(report.loss.training)


def test_nothing_to_measure():
    with pytest.raises(ValueError, match="has none"):
        train_inference_gap(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), np.zeros((4, 3)))
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    with pytest.raises(ValueError, match="finite values only"):
        train_inference_gap(model, np.full((4, 3), np.nan))
    (found,) = train_inference_gap(model, np.ones((1, 3), "float32")).layers
    assert found.verdict == "never updated" and np.isfinite(found.p_value)
