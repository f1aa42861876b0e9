"""InternalStatistics in `fit`: it changes nothing, survives everything, and leaves nothing behind."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from nrm_keras.callbacks import InternalStatistics
from tests.programs import report as run

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 6, 6, 2)).astype("float32")
Y = RANDOM.integers(0, 3, 200)


def silent(line):
    pass


def network(policy="float32", jit=False, optimizer=None, **arguments):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, dtype=policy, name="convolution"),
            layers.BatchNormalization(dtype=policy, name="normalizer"),
            layers.ReLU(dtype=policy, name="relu"),
            layers.Dropout(0.3, dtype=policy, name="dropout"),
            layers.Flatten(dtype=policy, name="flat"),
            layers.Dense(3, "softmax", name="last"),
        ]
    )
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit, **arguments)
    return model


def fit(model, *callbacks, x=X, y=Y, epochs=2, batch_size=8, **arguments):
    return model.fit(x, y, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=list(callbacks), **arguments)


def watching(**arguments):
    return InternalStatistics(**{"every": 3, "drift_every": 2, "say": silent, "alerts": False, **arguments})


def state(model):
    return [np.asarray(v) for v in (*model.variables, *model.optimizer.variables)]


def check_nothing_is_left(model, folder):
    """No hook, the plain train function, and a model that trains, evaluates, saves, loads and exports."""
    for layer in model._flatten_layers():
        assert "call" not in vars(layer)
    assert not {"apply", "scale_loss"} & vars(model.optimizer).keys()
    assert not hasattr(model.train_function, "__self__")
    fit(model, epochs=1, x=X[:32], y=Y[:32])
    assert len(model.evaluate(X[:16], Y[:16], verbose=0)) == 2
    predicted = model.predict(X[:16], verbose=0)
    model.save(folder / "model.keras")
    np.testing.assert_allclose(keras.models.load_model(folder / "model.keras").predict(X[:16], verbose=0), predicted)
    model.export(folder / "exported", verbose=False)
    exported = tf.saved_model.load(str(folder / "exported"))
    np.testing.assert_allclose(exported.serve(X[:16]).numpy(), predicted, atol=1e-6)


# Watching changes nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "jit"), [("float32", True), ("mixed_float16", False), ("mixed_float16", True), ("mixed_bfloat16", False)]
)
def test_watching_changes_no_bit(policy, jit):
    """Weights, running statistics, optimizer and seeds after 50 steps, with drift and deep measurements."""
    plain, watched = network(policy, jit), network(policy, jit)
    watch = watching(every=1 if jit else 4, deep_every=20, alerts=True, channels=True)
    results = [fit(plain), fit(watched, watch)]
    assert int(watched.optimizer.iterations) == 50
    assert watch.schedule.probes >= 13
    for one, other in zip(state(plain), state(watched), strict=True):
        np.testing.assert_array_equal(one, other)
    assert results[0].history == results[1].history


@pytest.fixture
def sums_in_order():
    """TensorFlow does not rearrange sums, which it otherwise does where nobody looks at what is in between."""
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    yield
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True})


def test_watching_changes_no_bit_of_a_plain_graph_whose_sums_stay_in_order(sums_in_order):
    """A normalizer in front of a residual connection is where it would."""

    def residual():
        keras.utils.set_random_seed(1)
        x = keras.Input((6, 6, 2))
        h = layers.Conv2D(4, 3, padding="same")(x)
        for _ in range(2):
            branch = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(h))
            h = layers.ReLU()(layers.Add()([h, layers.Dropout(0.1)(branch)]))
        model = keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(h)))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
        return model

    plain, watched = residual(), residual()
    fit(plain)
    fit(watched, watching(every=4))
    for one, other in zip(state(plain), state(watched), strict=True):
        np.testing.assert_array_equal(one, other)


def test_watching_does_not_change_the_order_of_the_data():
    orders = []
    options = tf.data.Options()
    # fit looks at one batch before it begins, behind which tf.data would fetch more or fewer
    options.experimental_optimization.inject_prefetch = False
    for callbacks in ([], [watching(every=2)]):
        seen = []

        def note(x, y, seen=seen):
            seen.append(x.numpy().ravel().tolist())
            return x

        def map_(x, y, note=note):
            x = tf.ensure_shape(tf.py_function(note, [x, y], tf.float32), (None, 6, 6, 2))
            return x, y

        data = tf.data.Dataset.from_tensor_slices((X[:40], Y[:40])).shuffle(40, seed=3).batch(8).map(map_)
        data = data.with_options(options)
        network().fit(data, epochs=2, verbose=0, callbacks=callbacks)
        orders.append(seen)
    assert orders[0] == orders[1]


# Survives --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["plain", "jit", "mixed", "eagerly", "executions", "accumulation"])
def test_leaves_nothing_behind(case, tmp_path):
    model = network(
        "mixed_float16" if case == "mixed" else "float32",
        case == "jit",
        keras.optimizers.SGD(0.01, gradient_accumulation_steps=2) if case == "accumulation" else None,
        run_eagerly=case == "eagerly",
        steps_per_execution=4 if case == "executions" else 1,
    )
    watch = watching(every=5, path=tmp_path / "statistics.jsonl")
    fit(model, watch, x=X[:100], y=Y[:100], epochs=1)
    found = [json.loads(line) for line in (tmp_path / "statistics.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in found if r["kind"] == "step"]
    expected = {"executions": [4, 8, 12, 16], "accumulation": [2, 6, 12]}.get(case, [1, 6, 11])
    assert steps == expected
    assert {r["layer"] for r in found if r["kind"] == "activation"} == {"convolution", "normalizer", "relu", "last"}
    if case == "accumulation":
        assert all(r["update_norm"] > 0 for r in found if r["kind"] == "weight")
    check_nothing_is_left(model, tmp_path)


class Stop(keras.callbacks.Callback):
    """Raises at a given point."""

    def __init__(self, where, error):
        super().__init__()
        setattr(self, where, lambda batch, logs=None: self._raise(batch))
        self.error = error

    def _raise(self, batch):
        if batch == 3:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_exception_from_another_callback(error, tmp_path):
    model = network()
    with pytest.raises(type(error)):
        fit(model, watching(every=1), Stop("on_train_batch_end", error))
    check_nothing_is_left(model, tmp_path)


def test_exception_between_the_beginning_of_a_step_and_the_step(tmp_path):
    """Nobody tells a callback: the next `fit` runs the plain function all the same, and puts it back."""
    model, twin = network(), network()
    watch = watching(every=1)
    for one, callbacks in ((model, [watch]), (twin, [watching(every=1)])):
        with pytest.raises(RuntimeError):
            fit(one, *callbacks, Stop("on_train_batch_begin", RuntimeError("boom")))
    read = watch._probed_step._outcome
    fit(model, epochs=1, x=X[:32], y=Y[:32])
    assert watch._probed_step._outcome is read
    check_nothing_is_left(model, tmp_path)
    # and the callback itself finds the plain one
    fit(twin, watching(every=100), epochs=1, x=X[:32], y=Y[:32])
    check_nothing_is_left(twin, tmp_path)


def test_exception_from_the_dataset_and_from_a_layer(tmp_path):
    def batches():
        for i in range(0, 32, 8):
            yield X[i : i + 8], Y[i : i + 8]
        raise OSError("disk")

    model = network()
    with pytest.raises(Exception, match="disk"):
        model.fit(batches(), verbose=0, callbacks=[watching(every=1)])
    check_nothing_is_left(model, tmp_path)


class Faulty(layers.Layer):
    """Fails in training at an input above 100."""

    def call(self, x):
        with tf.control_dependencies([tf.debugging.assert_less(x, 100.0, "too large")]):
            return tf.identity(x)


def test_exception_from_a_layer(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="dense"), Faulty(), layers.ReLU()])
    model.compile("sgd", "mse")
    x = np.ones((16, 3))
    x[8:] = 1e4 * np.sign(model.layers[0].kernel.numpy()[:, 0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        model.fit(x, np.ones((16, 2)), batch_size=8, shuffle=False, verbose=0, callbacks=[watching(every=1)])
    assert "call" not in vars(model.layers[0])
    assert not hasattr(model.train_function, "__self__")


def test_early_stop_validation_weights_and_a_last_partial_batch(tmp_path):
    model = network()
    watch = watching(every=1, path=tmp_path / "statistics.jsonl")
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=100.0)
    arguments = {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}, "validation_data": (X[:20], Y[:20])}
    fit(model, stop, watch, x=X[:30], y=Y[:30], epochs=5, **arguments)
    assert watch.schedule.probes == 8
    check_nothing_is_left(model, tmp_path)
    found = [json.loads(line) for line in (tmp_path / "statistics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in found if r["kind"] == "step"] == [*range(1, 9)]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8], np.full(8, 0.5, "float32")


def test_other_kinds_of_data():
    def generator():
        while True:
            yield X[:8], Y[:8]

    for data, arguments in ((Batches(), {}), (generator(), {"steps_per_epoch": 4})):
        watch = watching(every=1)
        network().fit(data, epochs=2, verbose=0, callbacks=[watch], **arguments)
        assert watch.schedule.probes == 8


def test_the_same_callback_again(tmp_path):
    """Two fits, another compile in between, and then another model."""
    model, watch = network(), watching(every=4, path=tmp_path / "statistics.jsonl")
    fit(model, watch, x=X[:64], y=Y[:64], epochs=1)
    step = watch._probed_step
    fit(model, watch, x=X[:64], y=Y[:64], epochs=1)
    assert watch._probed_step is step  # not traced again
    model.get_layer("convolution").trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    fit(model, watch, x=X[:64], y=Y[:64], epochs=1)
    other = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(3, name="else")])
    other.compile("sgd", "mse")
    fit(other, watch, x=X[:64], y=np.ones((64, 3)), epochs=1)
    found = [json.loads(line) for line in (tmp_path / "statistics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in found if r["kind"] == "step"] == [1, 5, 9, 13, 1, 5, 1, 5]
    assert found[-2]["layer"] == "else" or found[-3]["layer"] == "else"
    third = found[[n for n, r in enumerate(found) if r["kind"] == "cost"][1] :]
    assert not any("convolution" in r.get("layer", "") for r in third if r["kind"] == "weight")
    check_nothing_is_left(model, tmp_path)


def test_two_at_once():
    model, watches = network(), [watching(every=3), watching(every=3)]
    fit(model, *watches, epochs=1, x=X[:80], y=Y[:80])
    assert all(watch.schedule.probes >= 3 for watch in watches)
    assert not hasattr(model.train_function, "__self__")


def test_two_replicas_are_one_device():
    found = run("-m", "tests.diagnostics.two_replicas_watch")
    assert found["records"][0] == found["records"][1]
    assert found["hooks"] == 0
    assert found["saved"] < 1e-5
    for kind in ("step", "activation", "weight", "running", "drift"):
        assert found[kind] < 2e-3, kind  # records have six digits, those of channels four


class LossOfTheStep(keras.Model):
    """Reports each step's loss, not the running mean, and has a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.dense, self.unused = layers.Dense(1), layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x) - y))
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.dense.trainable_variables), self.dense.trainable_variables, strict=True)
        )
        return {"loss": loss}


def test_loss_of_each_step(tmp_path):
    """From Keras' running mean, also of partial batches; from a train_step's own words."""
    x, y = (RANDOM.normal(size=(32, n)).astype("float32") for n in (4, 1))
    model = LossOfTheStep()
    model.compile(keras.optimizers.SGD(0.0))
    watch = watching(every=1, path=tmp_path / "own.jsonl")
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(8), verbose=0, callbacks=[watch])
    found = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    # it is watched from the second step on, when it is sure that the unused layer will not be built
    weights = [w.numpy() for w in model.dense.weights]
    expected = [np.mean((x[i : i + 8] @ weights[0] + weights[1] - y[i : i + 8]) ** 2) for i in range(8, 32, 8)]
    np.testing.assert_allclose([r["loss"] for r in found if r["kind"] == "step"], expected, rtol=1e-5)


def test_model_whose_batch_is_not_its_input():
    """A train_step may use the batch as it likes: then there is no drift, and a line says so."""

    class Own(LossOfTheStep):
        def train_step(self, data):
            return super().train_step((data["x"], data["y"]))

    model, said = Own(), []
    model(np.ones((1, 4)))
    model.compile("sgd")
    data = tf.data.Dataset.from_tensor_slices({"x": tf.ones((32, 4)), "y": tf.ones((32, 1))}).batch(8)
    watch = watching(every=1, say=said.append)
    model.fit(data, verbose=0, callbacks=[watch])
    assert watch.schedule.probes == 3
    assert sum("no drift" in line for line in said) == 1


# What it finds ---------------------------------------------------------------------------------------------------------


def records_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_drift_on_a_fixed_batch(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="dense")])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    probe = RANDOM.normal(size=(50, 3)).astype("float32")
    x, y = RANDOM.normal(size=(40, 3)), RANDOM.normal(size=(40, 2))
    seen = []

    class Weights(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernel, bias = model.get_weights()
            outputs = probe.astype("float64") @ kernel + bias
            seen.append((outputs.mean(0), outputs.var(0), np.percentile(outputs, [15, 50, 85])))

    watch = watching(every=2, drift_every=1, probe=probe, path=tmp_path / "statistics.jsonl")
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[watch, Weights()])
    found = [r for r in records_of(tmp_path / "statistics.jsonl") if r["kind"] == "drift" and r["reference"] == "start"]
    # steps 1, 3 and 5, the end of the epoch, then 7 and 9, and the end
    assert [r["step"] for r in found] == [1, 3, 5, 5, 7, 9, 10]
    mean0, variance0, _ = seen[0]
    for record in found:
        mean, variance, percentiles = seen[record["step"] - 1]
        shift = (mean - mean0) / np.sqrt(variance0)
        assert record["mean_shift"] == pytest.approx(np.sqrt(np.mean(shift**2)), rel=1e-3, abs=1e-5)
        ratio = np.log(variance / variance0)
        assert record["log_variance_ratio"] == pytest.approx(ratio.mean(), rel=1e-3, abs=1e-5)
        divergence = -ratio / 2 + (variance + (mean - mean0) ** 2) / (2 * variance0) - 0.5
        assert record["kl_divergence"] == pytest.approx(divergence.mean(), rel=1e-3, abs=1e-5)
        assert [record["p15"], record["p50"], record["p85"]] == pytest.approx(list(percentiles), rel=1e-3, abs=1e-4)


def overflowing(normalizer=layers.BatchNormalization):
    """Where values are large, it is their squares in which they overflow first."""
    x = keras.Input((3,))
    h = normalizer(name="normalizer", momentum=0.5)(layers.Dense(4, name="dense")(x))
    h = layers.Lambda(lambda values: tf.square(values), name="squares")(h)
    model = keras.Model(x, layers.Dense(1, name="last")(h))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def stopped(tmp_path, bad_step, every, **arguments):
    """Trains on finite batches but for one; returns (model, callback, evidence folder, lines said)."""
    model, said = overflowing(), []
    x = RANDOM.normal(size=(80, 3)).astype("float32")
    x[8 * (bad_step - 1) : 8 * bad_step] = np.nan
    watch = InternalStatistics(
        every=every, path=tmp_path / "run" / "statistics.jsonl", action="stop", say=said.append, **arguments
    )
    model.fit(x, np.ones((80, 1)), batch_size=8, shuffle=False, verbose=0, callbacks=[watch])
    return model, watch, tmp_path / "run" / "evidence", said


@pytest.mark.parametrize(("bad_step", "every"), [(1, 3), (4, 3), (5, 3)])
def test_nan_in_the_data_stops_with_evidence_and_finite_weights(bad_step, every, tmp_path):
    """At the first step, at a probed one, and at one that is not."""
    model, watch, evidence, said = stopped(tmp_path, bad_step, every)
    alert = next(a for a in watch.alerts if a.rule == "non_finite")
    assert alert.step == bad_step
    if bad_step == 5:
        assert alert.layer in ("dense", "normalizer")  # the first weight, a step that nobody looked at
    else:
        assert alert.layer is None
        assert "batch itself" in alert.evidence
    folder = evidence / f"non_finite-{bad_step}"
    assert {p.name for p in folder.iterdir()} == {
        "alert.json",
        "statistics.jsonl",
        "stopped.weights.h5",
        "last_finite.weights.h5",
    }
    assert json.loads((folder / "alert.json").read_text())["step"] == bad_step
    assert all(json.loads(line) for line in (folder / "statistics.jsonl").read_text().splitlines())
    assert all(np.isfinite(value).all() for value in state(model))
    twin = overflowing()
    twin.load_weights(folder / "last_finite.weights.h5")
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    twin.load_weights(folder / "stopped.weights.h5")
    assert not all(np.isfinite(value).all() for value in twin.get_weights())
    assert any(str(folder) in line and "last finite weights" in line for line in said)
    assert model.stop_training
    assert json.loads((tmp_path / "run" / "alerts.jsonl").read_text().splitlines()[-1])["rule"] == "non_finite"


def test_overflow_in_a_layer_is_named(tmp_path):
    model = overflowing()
    x = RANDOM.normal(size=(80, 3)).astype("float32")
    model.get_layer("normalizer").gamma.assign([1.0, 1e15, 1.0, 1.0])  # to the fourth power it is beyond float32
    watch = InternalStatistics(every=4, layers=["*"], say=silent)
    model.fit(x, np.ones((80, 1)), batch_size=8, verbose=0, callbacks=[watch])
    alert = next(a for a in watch.alerts if a.rule == "non_finite")
    assert (alert.layer, alert.step) == ("squares", 1)


def test_settings_of_rules(tmp_path):
    def alerts(**settings):
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(8, "relu", bias_initializer=dead, name="dead"), layers.Dense(1)]
        )
        model.compile("sgd", "mse")
        watch = InternalStatistics(every=1, say=silent, **settings)
        model.fit(RANDOM.normal(size=(80, 3)), np.ones((80, 1)), batch_size=8, verbose=0, callbacks=[watch])
        return [(a.rule, a.layer, a.step) for a in watch.alerts if a.rule == "dead_units"]

    def dead(shape, dtype=None):
        return np.array([-99.0] * 6 + [1.0] * 2, "float32")

    called = []
    assert alerts() == [("dead_units", "dead", 3)]
    assert alerts(alerts={"dead_units": {"patience": 5}}) == [("dead_units", "dead", 5)]
    assert alerts(alerts={"dead_units": {"threshold": 0.9}}) == []
    assert alerts(alerts={"dead_units": False}) == alerts(alerts=False) == []
    assert alerts(action=called.append, alerts={"dead_units": {"action": "log"}})
    assert not any(a.rule == "dead_units" for a in called)
    called.clear()
    alerts(alerts={"dead_units": {"action": called.append}})
    assert [a.layer for a in called] == ["dead"]


# Arguments -------------------------------------------------------------------------------------------------------------

WRONG = {
    "every": ({"every": 0}, "positive number of steps"),
    "every as a truth": ({"every": True}, "every=True"),
    "drift_every": ({"drift_every": None}, "`drift_every`"),
    "deep_every": ({"deep_every": 2.5}, "`deep_every`"),
    "deep without probe": ({"deep_every": 5, "probe": None}, "on the probe batch"),
    "budget": ({"budget": 5}, "between 0 and 1"),
    "action": ({"action": "panic"}, "'panic'"),
    "probe": ({"probe": "last"}, "'last'"),
    "rule": ({"alerts": {"dead_unit": False}}, "Did you mean 'dead_units'"),
    "setting": ({"alerts": {"dead_units": {"treshold": 1}}}, "Did you mean 'threshold'"),
    "patience": ({"alerts": {"dead_units": {"patience": 0}}}, "positive integer"),
    "threshold": ({"alerts": {"dead_units": {"threshold": "high"}}}, "a number"),
    "rule's action": ({"alerts": {"dead_units": {"action": "halt"}}}, "halt"),
    "number for a rule": ({"alerts": {"dead_units": 0.7}}, "dictionary"),
    "list of rules": ({"alerts": ["dead_units"]}, "dictionary"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case):
    arguments, words = WRONG[case]
    with pytest.raises((ValueError, TypeError), match="Received: ") as raised:
        InternalStatistics(**arguments)
    assert words in str(raised.value)


@pytest.mark.parametrize("wish", ["nowhere*", layers.LSTM, 5])
def test_layers_that_are_not_there(wish):
    model = network()
    with pytest.raises((ValueError, TypeError), match="Received: "):
        fit(model, watching(layers=[wish]), epochs=1)
    assert not hasattr(model.train_function, "__self__")


def test_layers_by_name_pattern_class_and_itself(tmp_path):
    model = network()
    watch = watching(every=100, layers=["norm*", layers.Dropout, model.get_layer("last")], path=tmp_path / "s.jsonl")
    fit(model, watch, epochs=1, x=X[:16], y=Y[:16])
    found = [r["layer"] for r in records_of(tmp_path / "s.jsonl") if r["kind"] == "activation"]
    assert found == ["normalizer", "dropout", "last"]
    assert math.isfinite(watch.schedule.share)
