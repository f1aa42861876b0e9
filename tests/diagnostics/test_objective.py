"""Losses, gradients and second derivatives against NumPy and against extrapolated differences of first derivatives."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.ops import nn_impl

from nrm_keras import layers as ours
from nrm_keras.diagnostics import exact
from nrm_keras.diagnostics.objective import Objective
from tests.diagnostics import nets
from tests.diagnostics.differences import dense_hessian, derivative, float64, gradient_of, relative, values_of


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def _mse(targets):
    return lambda outputs: tf.reduce_mean(tf.square(outputs - targets))


NETS = {
    **{f"conv, {name}": lambda n=n: nets.conv_net(n) for name, n in nets.NORMALIZERS.items()},
    "keras_batch, synchronized": lambda: nets.dense_net(lambda: layers.BatchNormalization(synchronized=True)),
    "keras_layer, several axes": lambda: nets.conv_net(lambda: layers.LayerNormalization(axis=(1, 2, 3))),
    "keras_rms": lambda: nets.dense_net(layers.RMSNormalization),
    "keras_unit": lambda: nets.dense_net(layers.UnitNormalization),
    "switchable": lambda: nets.conv_net(ours.SwitchableNormalization),
    "instance": lambda: nets.conv_net(ours.InstanceNormalization),
    "virtual batches": lambda: nets.dense_net(lambda: ours.BatchNormalization(virtual_batch_size=3)),
    "recurrent": nets.recurrent_net,
    "attention": nets.attention_net,
    "embedding and mask": nets.masked_net,
}


@pytest.mark.parametrize("name", NETS)
def test_product_in_training_mode_is_exact(name):
    with float64():
        model, x, y = NETS[name]()
    model.compile(loss="mse")
    objective, at = Objective(model, x, y), values_of(model)
    vector = np.random.default_rng(2).normal(size=at.size)
    vector /= np.linalg.norm(vector)
    gradient = gradient_of(model, _mse(y), x)
    assert relative(objective.gradient(), gradient(at)) < 1e-12
    assert relative(objective.hessian_vector_product(vector), derivative(gradient, at, vector)) < 1e-8


@pytest.mark.parametrize("name", ["keras_batch", "batch", "adaptive"])
def test_product_in_inference_mode_is_exact(name):
    with float64():
        model, x, y = nets.dense_net(nets.NORMALIZERS[name])
    model(x, training=True)
    model.compile(loss="mse")
    objective, at = Objective(model, x, y, training=False), values_of(model)
    vector = np.random.default_rng(2).normal(size=at.size)
    expected = derivative(gradient_of(model, _mse(y), x, training=False), at, vector)
    assert relative(objective.hessian_vector_product(vector), expected) < 1e-8


@pytest.mark.parametrize("name", nets.NORMALIZERS)
def test_dense_hessian(name):
    with float64():
        model, x, y = nets.dense_net(nets.NORMALIZERS[name])
    model.compile(loss="mse")
    objective, at = Objective(model, x, y), values_of(model)
    hessian = np.array([objective.hessian_vector_product(e) for e in np.eye(objective.size)])
    assert relative(hessian, dense_hessian(gradient_of(model, _mse(y), x), at)) < 1e-6
    assert np.abs(hessian - hessian.T).max() < 1e-12 * np.abs(hessian).max()


def test_without_the_replacement_keras_batch_normalization_is_wrong(monkeypatch):
    """What the package gets around is still there; once it is not, `exact` can go."""
    with float64():
        model, x, y = nets.dense_net(layers.BatchNormalization)
    model.compile(loss="mse")
    right, wrong = Objective(model, x, y), Objective(model, x, y)
    vector = np.ones(right.size)
    expected = right.hessian_vector_product(vector)
    monkeypatch.setattr(exact, "_install", lambda: None)
    monkeypatch.setattr(exact, "_uninstall", lambda: None)
    assert relative(wrong.hessian_vector_product(vector), expected) > 0.01


@pytest.mark.parametrize("training", [True, False])
def test_the_fused_kernel_of_float32_has_right_second_derivatives(training):
    with float64():
        precise, x, y = nets.conv_net(ours.BatchNormalization)
    model, *_ = nets.conv_net(ours.BatchNormalization)
    model.set_weights(precise.get_weights())
    vector, products = np.random.default_rng(2).normal(size=values_of(model).size), []
    for net in (model, precise):
        net.compile(loss="mse")
        objective = Objective(net, x.astype(net.compute_dtype), y, training=training)
        products.append(objective.hessian_vector_product(vector).numpy())
    assert products[0].dtype == "float32"
    assert relative(*products) < 1e-5


def test_linear_regression_in_closed_form():
    random = np.random.default_rng(0)
    x, y, v = random.normal(size=(7, 4)), random.normal(size=(7, 1)), random.normal(size=4)
    with float64():
        dense = layers.Dense(1, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.25))
        model = keras.Sequential([keras.Input((4,), dtype="float64"), dense])
    model.compile(loss="mse")
    objective, w = Objective(model, x, y), random.normal(size=4)
    error = x @ w - y[:, 0]
    assert float(objective.loss(w)) == pytest.approx(np.mean(error**2) + 0.25 * w @ w, rel=1e-14)
    assert relative(objective.gradient(w), 2 / 7 * x.T @ error + 0.5 * w) < 1e-13
    assert relative(objective.hessian_vector_product(v, w), 2 / 7 * x.T @ (x @ v) + 0.5 * v) < 1e-13


@pytest.mark.parametrize("loss", ["logits", "string", "callable", "keras loss", "loss function"])
def test_logistic_regression_in_closed_form(loss):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(7, 4)), random.integers(0, 2, (7, 1)).astype("float64")
    w, v = random.normal(size=4), random.normal(size=4)
    with float64():
        activation = "sigmoid" if loss == "string" else None
        model = keras.Sequential([keras.Input((4,), dtype="float64"), layers.Dense(1, activation, use_bias=False)])
    logits = keras.losses.BinaryCrossentropy(from_logits=True)
    compiled = {"logits": logits, "string": "binary_crossentropy"}.get(loss)
    model.compile(loss=compiled)
    passed = {
        "callable": lambda y, z: tf.nn.sigmoid_cross_entropy_with_logits(y, z),
        "keras loss": logits,
        "loss function": lambda y, z: keras.losses.binary_crossentropy(y, z, from_logits=True),
    }.get(loss)
    objective = Objective(model, x, y, loss=passed)
    s = 1 / (1 + np.exp(-x @ w))
    assert float(objective.loss(w)) == pytest.approx(
        -np.mean(y[:, 0] * np.log(s) + (1 - y[:, 0]) * np.log(1 - s)), rel=1e-12
    )
    assert relative(objective.gradient(w), x.T @ (s - y[:, 0]) / 7) < 1e-12
    assert relative(objective.hessian_vector_product(v, w), x.T @ (s * (1 - s) * (x @ v)) / 7) < 1e-12


class Subclassed(keras.Model):
    """Losses of all kinds, dropout, and a call without an argument `training`."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(4, "tanh", kernel_regularizer=keras.regularizers.L2(0.1))
        self.norm = layers.BatchNormalization()
        self.dropout = layers.Dropout(0.5)
        self.out = layers.Dense(2, activity_regularizer=keras.regularizers.L1(0.2))

    def call(self, x):
        x = self.dropout(self.norm(self.hidden(x)), training=True)
        self.add_loss(0.3 * keras.ops.mean(keras.ops.square(x)))
        return self.out(x)


def test_losses_of_a_subclassed_model_are_those_of_compute_loss():
    model = Subclassed()
    x, y, weight = np.random.default_rng(0).normal(size=(6, 3)), np.ones((6, 2)), np.arange(6.0)
    model(x)
    model.compile(loss="mse")
    objective = Objective(model, x, y, weight)
    actual = objective.loss()
    expected = model.compute_loss(x=x, y=y, y_pred=model(x), sample_weight=weight)
    assert len(model.losses) == 3
    assert float(actual) == pytest.approx(float(expected), rel=1e-6)
    # The second call of the model draws another mask; the objective keeps its own.
    other = model.compute_loss(x=x, y=y, y_pred=model(x), sample_weight=weight)
    assert abs(float(other) - float(expected)) > 1e-3
    assert float(objective.loss()) == float(actual)


class OwnLoss(keras.Model):
    """As Keras' documentation has it: another compute_loss, with a metric of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tracker = keras.metrics.Mean(name="loss")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = 3.0 * super().compute_loss(x, y, y_pred, sample_weight, training)
        self.tracker.update_state(loss)
        return loss


def test_a_compute_loss_of_ones_own_and_several_outputs():
    with float64():
        x = keras.Input((2,))
        kernel = {"use_bias": False, "kernel_initializer": "ones"}
        model = OwnLoss(x, {"a": layers.Dense(1, name="a", **kernel)(x), "b": layers.Dense(1, name="b", **kernel)(x)})
    model.compile(loss={"a": "mse", "b": "mae"}, loss_weights={"a": 2.0, "b": 5.0}, metrics={"a": ["mae"]})
    y = {"a": np.array([[1.0]]), "b": np.array([[4.0]])}
    objective = Objective(model, np.array([[1.0, 2.0]]), y)
    # (1 + 2 - 1)^2 and |1 + 2 - 4|
    assert float(objective.loss()) == 3 * (2 * 4 + 5 * 1)
    assert not model._compile_loss.built
    assert float(model.tracker.total) == 0


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_model_changes(training):
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.RandomFlip(),
            layers.Conv2D(4, 3, kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            ours.AdaptiveNormalization(),
            layers.GaussianNoise(0.1),
            layers.Flatten(),
            layers.Dense(3, "softmax"),
        ]
    )
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 4, 4, 3)).astype("float32"), random.integers(0, 3, 6)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=1, verbose=0)
    watched = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [keras.ops.convert_to_numpy(variable) for variable in watched]
    kept = dict(model.__dict__)
    objective = Objective(model, x, y, training=training)
    for _ in range(2):
        objective.loss()
        objective.gradient()
        objective.hessian_vector_product(np.ones(objective.size))
    for variable, value in zip(watched, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value, err_msg=variable.path)
    assert all(model.__dict__[name] is value for name, value in kept.items())
    assert float(objective.loss()) == float(objective.loss())


def test_one_trace_serves_all_forms_of_values_and_batches_of_one_shape():
    model, x, y = nets.dense_net(layers.BatchNormalization)
    model.compile(loss="mse")
    objective = Objective(model, x, y)
    vector = np.random.default_rng(0).normal(size=objective.size).astype("float32")
    flat, parts = objective.values(), [variable.value for variable in model.trainable_variables]
    first = objective.hessian_vector_product(vector)
    for values in (flat, flat.numpy(), parts, [part.numpy() for part in parts]):
        np.testing.assert_array_equal(objective.hessian_vector_product(vector, values), first)
    listed = objective.hessian_vector_product(objective.unflatten(vector))
    assert [part.shape for part in listed] == [part.shape for part in parts]
    np.testing.assert_array_equal(objective.flatten(listed), first)
    objective.set_batch(x + 1, y)
    assert relative(objective.hessian_vector_product(vector), first.numpy()) > 1e-3
    assert objective._functions["product"].experimental_get_tracing_count() == 1


def test_present_values_are_those_of_the_call():
    model, x, y = nets.dense_net(layers.BatchNormalization)
    model.compile(loss="mse")
    objective = Objective(model, x, y)
    before = float(objective.loss())
    model.layers[-1].bias.assign_add([1.0, 1.0])
    assert float(objective.loss()) != before


def test_some_variables_only():
    with float64():
        model, x, y = nets.dense_net(layers.BatchNormalization)
    model.compile(loss="mse")
    whole, part = Objective(model, x, y), Objective(model, x, y, variables=model.layers[-1].trainable_variables)
    hessian = np.array([whole.hessian_vector_product(e) for e in np.eye(whole.size)])
    block = np.array([part.hessian_vector_product(e) for e in np.eye(part.size)])
    assert relative(block, hessian[-part.size :, -part.size :]) < 1e-13


def test_mixed_float16():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 8)).astype("float32"), random.integers(0, 3, 64)
    results = {}
    for policy in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(0)
        dense, norm = (lambda n, p=policy: layers.Dense(n, dtype=p)), layers.BatchNormalization(dtype=policy)
        model = keras.Sequential(
            [keras.Input((8,)), dense(16), norm, layers.Activation("relu", dtype=policy), dense(3)]
        )
        model.compile(
            keras.optimizers.SGD(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), auto_scale_loss=True
        )
        objective = Objective(model, x, y)
        results[policy] = objective.second_order(np.random.default_rng(1).choice((-1e-3, 1e-3), objective.size))
        assert ("float16" in objective.compute_dtypes) == (policy == "mixed_float16")
    for exactly, actual in zip(results["float32"], results["mixed_float16"], strict=True):
        assert relative(actual, exactly.numpy()) < 0.02


class Fails(layers.Layer):
    def call(self, x, training=None):
        raise RuntimeError("here")


def test_the_replacement_is_undone_after_an_error():
    original = nn_impl.moments
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(2)(layers.BatchNormalization()(x)))
    model.compile(loss="mse")
    objective = Objective(model, np.ones((2, 3)), np.ones((2, 2)))
    compiled = model._compile_loss
    model.layers[-1].call = Fails().call
    with pytest.raises(RuntimeError, match="here"):
        objective.loss()
    assert nn_impl.moments is original
    assert model._compile_loss is compiled
    assert not keras.src.backend.common.stateless_scope.in_stateless_scope()


def test_other_threads_are_not_touched():
    original, seen = nn_impl.moments, []

    def graph():
        @tf.function
        def moments(x):
            return tf.nn.moments(x, [0])

        operations = moments.get_concrete_function(tf.TensorSpec((3,))).graph.get_operations()
        return {operation.type for operation in operations}

    with exact.second_derivatives():
        with exact.second_derivatives():
            pass
        assert "StopGradient" not in graph()
        thread = threading.Thread(target=lambda: seen.append(graph()))
        thread.start()
        thread.join()
    assert "StopGradient" in seen[0]
    assert nn_impl.moments is original


class Compiled(layers.Layer):
    """A normalizer in a tf.function of its own."""

    @tf.function
    def call(self, x):
        mean, variance = tf.nn.moments(x, [0])
        return (x - mean) / tf.sqrt(variance + 0.1)


class Plain(layers.Layer):
    def call(self, x):
        return (x - tf.reduce_mean(x, 0)) / tf.sqrt(tf.math.reduce_variance(x, 0) + 0.1)


def test_a_normalizer_in_a_function_of_its_own():
    x, y = np.random.default_rng(0).normal(size=(6, 3)), np.ones((6, 2))
    vector = np.random.default_rng(1).normal(size=26)
    with float64():
        first, second = layers.Dense(4, "tanh"), layers.Dense(2)
        models = [keras.Sequential([first, normalizer, second]) for normalizer in (Plain(), Compiled())]
        for layer, features in ((first, 3), (second, 4)):
            layer.build((None, features))
    for model in models:
        model.built = True
        model.compile(loss="mse")
    plain, compiled = (Objective(model, x, y).hessian_vector_product(vector) for model in models)
    assert relative(compiled, plain.numpy()) < 1e-12
    # Traced by a call of the model, it is what TensorFlow's second derivatives are wrong for.
    traced = keras.Sequential([first, Compiled(), second])
    traced(x)
    traced.compile(loss="mse")
    objective = Objective(traced, x, y)
    objective.gradient()
    with pytest.raises(ValueError, match="Take @tf.function from the layer"):
        objective.hessian_vector_product(vector)


def test_errors_say_what_to_do():
    model, x, y = nets.dense_net(layers.BatchNormalization)
    with pytest.raises(ValueError, match="Compile it, or pass `loss=`"):
        Objective(model, x, y)
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="Received: y=None"):
        Objective(model, x)
    with pytest.raises(ValueError, match="Received: shape \\(3,\\)"):
        Objective(model, x, y).loss(np.ones(3))
    with pytest.raises(ValueError, match="Pass Keras variables of this model"):
        Objective(model, x, y, variables=[keras.Variable(1.0)])
    with pytest.raises(TypeError, match="Received: Dense"):
        Objective(layers.Dense(1), x, y)
    with pytest.raises(ValueError, match="Call it on a batch first"):
        Objective(Subclassed(), x, y)
    model.trainable = False
    with pytest.raises(ValueError, match="Set `trainable` on a layer"):
        Objective(model, x, y)
