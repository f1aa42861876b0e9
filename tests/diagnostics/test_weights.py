"""Scale-invariant weights and their equilibrium, against finite differences and simulations in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import nrm_keras
from nrm_keras.diagnostics.objective import Objective
from nrm_keras.diagnostics.weights import (
    angular_update,
    effective_learning_rate,
    equilibrium_norm,
    scale_invariant,
    update_ratio,
)

L = keras.layers


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def batch(*shape, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype("float32"), rng.normal(size=(shape[0], outputs)).astype("float32")


def generic(model):
    """Biases, gamma and beta as after some training. At their initial 0 more is invariant than later."""
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        if len(variable.shape) == 1:
            variable.assign_add(0.2 * rng.normal(size=variable.shape))
    model.compile(loss="mse")
    return model


def convolutions(norm, bias=False, **kernel):
    x = keras.Input((6, 6, 3))
    h = L.Conv2D(8, 3, use_bias=bias, name="conv", **kernel)(x)
    h = L.ReLU()(norm()(h))
    h = L.DepthwiseConv2D(3, padding="same", use_bias=bias, name="depthwise")(h)
    h = L.Conv2DTranspose(4, 2, use_bias=bias, name="transposed", **kernel)(norm()(h))
    h = L.GlobalAveragePooling2D()(L.ReLU()(norm()(h)))
    h = L.Dense(6, activation="tanh", name="hidden", **kernel)(h)
    return generic(keras.Model(x, L.Dense(2, name="last")(h)))


def axes(model, x, y, **objective):
    found = scale_invariant(Objective(model, x, y, **objective))
    return {path: invariance.channel_axis for path, invariance in found.items()}


PER_CHANNEL = {"conv/kernel": 3, "depthwise/kernel": 2, "transposed/kernel": 2}
WHOLE = dict.fromkeys(PER_CHANNEL)
ours = nrm_keras.layers
NORMALIZERS = {
    "keras batch": (L.BatchNormalization, PER_CHANNEL, PER_CHANNEL),
    "keras instance": (lambda: L.GroupNormalization(-1), PER_CHANNEL, PER_CHANNEL),
    "keras group": (lambda: L.GroupNormalization(2), WHOLE, {}),
    "keras layer": (L.LayerNormalization, WHOLE, {}),
    "keras rms": (L.RMSNormalization, WHOLE, {}),
    "batch": (ours.BatchNormalization, PER_CHANNEL, PER_CHANNEL),
    "instance": (ours.InstanceNormalization, PER_CHANNEL, PER_CHANNEL),
    "group": (lambda: ours.GroupNormalization(2), WHOLE, {}),
    "switchable": (ours.SwitchableNormalization, WHOLE, {}),
    "adaptive": (ours.AdaptiveNormalization, WHOLE, {}),
    "none": (lambda: L.Activation("linear"), {}, {}),
}


@pytest.mark.parametrize("name", NORMALIZERS)
def test_weights_in_front_of_normalizers(name):
    """A bias in front is taken out by statistics of its channel alone; otherwise it has a share in the scale."""
    make, without_bias, with_bias = NORMALIZERS[name]
    x, y = batch(12, 6, 6, 3)
    assert axes(convolutions(make), x, y) == without_bias
    assert axes(convolutions(make, bias=True), x, y) == with_bias


def test_at_inference_running_statistics_make_nothing_invariant():
    x, y = batch(12, 6, 6, 3)
    assert axes(convolutions(L.BatchNormalization), x, y, training=False) == {}
    assert axes(convolutions(lambda: L.GroupNormalization(2)), x, y, training=False) == WHOLE


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_other_dtypes(policy):
    keras.config.set_dtype_policy(policy)
    try:
        models = [convolutions(make) for make, _, _ in (NORMALIZERS["keras batch"], NORMALIZERS["none"])]
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = batch(12, 6, 6, 3)
    assert [axes(model, x, y) for model in models] == [PER_CHANNEL, {}]


def test_regularizers_and_a_loss_without_them():
    x, y = batch(12, 6, 6, 3)
    model = convolutions(L.BatchNormalization, kernel_regularizer=keras.regularizers.L2(0.1))
    assert axes(model, x, y) == PER_CHANNEL
    assert axes(model, x, y, loss=keras.losses.MeanSquaredError()) == PER_CHANNEL


def test_transformer_and_recurrent_layers():
    """The keys' bias has a gradient of 0 but for rounding, whatever its scale; nothing else is invariant but the last."""
    x = keras.Input((6, 5))
    h = L.MultiHeadAttention(2, 4)(L.LayerNormalization()(x), x)
    h = L.LayerNormalization()(L.Add()([h, x]))
    h = L.LSTM(7)(L.Dense(5)(h))
    h = L.UnitNormalization()(L.Dense(6, use_bias=False, name="projection")(h))
    model = generic(keras.Model(x, L.Dense(2)(h)))
    for variable in model.trainable_variables:
        if variable.path.endswith("key/bias"):
            variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    assert axes(model, *batch(8, 6, 5)) == {"projection/kernel": None}


def perceptron(epsilon=1e-3, spread=1.0, dtype="float32"):
    x = keras.Input((5,), dtype=dtype)
    h = L.Dense(4, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(stddev=spread), dtype=dtype)(x)
    h = L.BatchNormalization(epsilon=epsilon, center=False, scale=False, dtype=dtype)(h)
    outputs = L.Dense(1, name="last", dtype=dtype)(L.Activation("tanh", dtype=dtype)(h))
    model = keras.Model(x, outputs)
    model.compile(loss="mse")
    return model


@pytest.mark.parametrize("epsilon", [1e-6, 0.3])
def test_cosine_and_error_are_those_of_finite_differences(epsilon):
    model = perceptron(epsilon, dtype="float64")
    x, y = (array.astype("float64") for array in batch(16, 5, outputs=1))
    w, v, b = (variable.numpy() for variable in model.trainable_variables)

    def loss(w):
        h = x @ w
        h = (h - np.mean(h, axis=0)) / np.sqrt(np.var(h, axis=0) + epsilon)
        return np.mean((np.tanh(h) @ v + b - y) ** 2)

    def gradient(w):
        step = 1e-5 * np.linalg.norm(w)
        units = np.eye(w.size).reshape(w.size, *w.shape)
        return np.reshape([(loss(w + step * u) - loss(w - step * u)) / (2 * step) for u in units], w.shape)

    g = gradient(w)
    (found,) = scale_invariant(Objective(model, x, y)).values()
    cosine = abs(np.vdot(w, g)) / np.linalg.norm(w) / np.linalg.norm(g)
    assert found.cosine == pytest.approx(cosine, rel=1e-3, abs=1e-8)
    assert found.error == pytest.approx(np.linalg.norm(32 * gradient(32 * w) - g) / np.linalg.norm(g), rel=1e-3)
    assert found.norm == pytest.approx(np.sqrt(np.sum(w**2))) and found.channel_axis == 1
    assert (found.error > 0.05) == (epsilon == 0.3)


@pytest.mark.parametrize("variance, invariant", [(10.0, True), (1.0, True), (0.1, False), (0.001, False)])
def test_how_much_epsilon_is_too_much(variance, invariant):
    """In multiples of epsilon. The limit is about a half."""
    x, y = batch(64, 5, outputs=1)
    model = perceptron(1e-3)
    w = model.trainable_variables[0]
    w.assign(w.numpy() * np.sqrt(variance * 1e-3 / np.var(x @ w.numpy(), axis=0)))
    assert bool(axes(model, x, y)) == invariant


def test_dead_nets_prove_nothing():
    x, y = batch(12, 6, 6, 3)
    model = convolutions(L.BatchNormalization)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.gamma.assign(np.zeros_like(layer.gamma))
            layer.beta.assign(-np.ones_like(layer.beta))
    assert axes(model, x, y) == {}
    plain = keras.Sequential([keras.Input((5,)), L.Dense(4, bias_initializer=keras.initializers.Constant(-100.0))])
    plain.add(L.ReLU())
    plain.add(L.Dense(2, kernel_initializer="zeros"))
    plain.compile(loss="mse")
    assert axes(plain, *batch(8, 5)) == {}


def test_orthogonal_by_accident():
    """Least squares, at the multiple of w at which <w, g> = 0."""
    x, y = batch(32, 5, outputs=1)
    model = keras.Sequential([keras.Input((5,)), L.Dense(1, use_bias=False)])
    model.compile(loss="mse")
    w = model.trainable_variables[0]
    fit = x @ w.numpy()
    w.assign(w.numpy() * np.sum(fit * y) / np.sum(fit**2))
    g = x.T @ (x @ w.numpy() - y)
    assert abs(np.vdot(w, g)) < 1e-6 * np.linalg.norm(w) * np.linalg.norm(g)
    assert axes(model, x, y) == {}


def test_orthogonal_at_every_scale_without_the_gradient_of_an_invariant_loss():
    """L = <c, w>: with <c, w> = 0 the loss is the same for all a w, but the gradient does not go as 1/a."""
    model = keras.Sequential([keras.Input((2,)), L.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1.0], [2.0]])])
    x = np.array([[2.0, -1.0], [4.0, -2.0]], "float32")
    assert axes(model, x, np.zeros((2, 1)), loss=lambda y, y_pred: y_pred) == {}


@pytest.mark.parametrize(
    "factor, invariant",
    [
        (lambda size: 1.0, True),
        (lambda size: 1.0 + 30.0 * tf.exp(-size), False),
        (lambda size: 1.0 + tf.nn.relu(size - 40.0) / 88.0, False),
    ],
)
def test_invariant_at_some_scales_only(factor, invariant):
    """L = <c, w> / ||w|| is invariant, and at <c, w> = 0 a factor of the norm keeps <w, g> = 0 at every scale."""
    model = keras.Sequential([keras.Input((3,)), L.Dense(1, use_bias=False)])
    model.set_weights([np.array([[0.6], [0.8], [0.0]])])
    c = np.array([[4.0], [-3.0], [2.0]], "float32")

    def loss(c, w):
        return tf.reduce_sum(tf.cast(c, w.dtype) * w) / tf.norm(w) * factor(tf.norm(w))

    assert bool(axes(model, np.eye(3, dtype="float32"), c, loss=loss)) == invariant


def test_a_gradient_that_goes_as_one_over_a_without_orthogonality():
    """L = log ||w||^2."""
    model = keras.Sequential([keras.Input((3,)), L.Dense(1, use_bias=False)])
    found = axes(
        model,
        np.eye(3, dtype="float32"),
        np.zeros((3, 1)),
        loss=lambda y, y_pred: tf.math.log(tf.reduce_sum(y_pred**2)),
    )
    assert found == {}


@pytest.mark.parametrize("seed", range(5))
def test_a_saturated_tanh_is_not_scale_invariance(seed):
    """At large weights tanh is a sign, which no scale changes; with few examples the gradient is that of one channel."""
    keras.utils.set_random_seed(seed)
    layers = [L.Dense(6, activation="tanh", use_bias=False), L.Dense(4, activation="sigmoid"), L.Dense(2)]
    model = generic(keras.Sequential([keras.Input((4,)), *layers]))
    x, y = batch(12, 4)
    for scale in (0.3, 1.0, 3.0, 10.0):
        assert axes(model, scale * x, y) == {}


def test_a_shortcut_around_the_normalizer():
    x = keras.Input((5,))
    h = L.Dense(4, use_bias=False)(x)
    model = generic(keras.Model(x, L.Dense(2)(L.Add()([L.BatchNormalization()(h), h]))))
    assert axes(model, *batch(16, 5)) == {}


def test_the_model_is_as_it_was():
    model = convolutions(L.BatchNormalization)
    before = [v.numpy() for v in model.variables]
    axes(model, *batch(12, 6, 6, 3))
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())


def test_update_ratio():
    assert update_ratio(np.full((3, 3), 2.0), np.full((3, 3), 2.002)) == pytest.approx(1e-3)
    assert update_ratio(np.zeros(3), np.zeros(3)) == 0
    assert update_ratio(np.zeros(3), np.ones(3)) == np.inf
    assert np.isnan(update_ratio([np.nan], [1.0]))
    # In float32 the squares would be infinite.
    assert update_ratio(np.float32([1e30]), np.float32([1.001e30])) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_effective_learning_rate_is_what_turns_weights_of_any_norm_alike(optimizer):
    """L = -<u, w> / ||w|| from two norms: learning rates of equal effect give the same direction."""
    u, directions = np.array([0.0, 1.0]), []
    for norm in (1.0, 5.0):
        rate = 1e-3 / effective_learning_rate(norm, 1.0, optimizer)
        w = norm * np.array([1.0, 0.0])
        g = -(u - w * (w @ u) / norm**2) / norm
        # The first step of Adam is the gradient's sign.
        w -= rate * (g if optimizer == "sgd" else np.sign(g))
        directions.append(w / np.linalg.norm(w))
    np.testing.assert_allclose(directions[0], directions[1], rtol=1e-12)
    assert directions[0][1] > 5e-4


def test_an_optimizer_without_a_rule():
    with pytest.raises(ValueError, match="'sgd' or 'adam'"):
        effective_learning_rate(1.0, 0.1, "adagrad")


RATE, NOISE, SIZE = 0.1, 0.5, 50


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("momentum, decay", [(0.0, 0.02), (0.9, 0.005)])
def test_equilibrium_of_simulated_sgd(momentum, decay, decoupled):
    """Gradients at unit norm are Gaussian noise across w, so that ||g~||^2 = 0.25 * 49."""
    rng = np.random.default_rng(0)
    decay = decay / (1 - momentum) if decoupled else decay
    w, velocity, norms, angles = rng.normal(size=SIZE) / 3, np.zeros(SIZE), [], []
    for step in range(24_000):
        before, size = w, np.linalg.norm(w)
        noise = NOISE * rng.normal(size=SIZE)
        g = (noise - w * (w @ noise) / size**2) / size
        velocity = momentum * velocity + g + (0.0 if decoupled else decay * w)
        w = w - RATE * velocity - (RATE * decay * w if decoupled else 0.0)
        if step >= 6_000:
            norms.append(w @ w)
            angles.append(np.arccos(before @ w / size / np.linalg.norm(w)) ** 2)
    unit = NOISE * np.sqrt(SIZE - 1)
    predicted = equilibrium_norm(RATE, decay, momentum, unit, decoupled)
    assert np.sqrt(np.mean(norms)) == pytest.approx(predicted, rel=0.02)
    assert np.sqrt(np.mean(angles)) == pytest.approx(angular_update(RATE, decay, momentum, decoupled), rel=0.02)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equilibrium_of_keras_sgd_on_a_net(momentum):
    """Weights in front of BatchNormalization, with random labels, that is with gradients that don't agree."""
    x, rate, decay = keras.Input((16,)), 0.1, 0.1
    h = L.BatchNormalization(center=False, scale=False, epsilon=1e-9)(L.Dense(1, use_bias=False)(x))
    model = keras.Model(x, L.Activation("tanh")(h))
    (w,) = model.trainable_variables
    optimizer = keras.optimizers.SGD(rate, momentum=momentum, weight_decay=decay)
    optimizer.build([w])

    @tf.function
    def train(steps):
        norms, gradients, angles = tf.zeros(()), tf.zeros(()), tf.zeros(())
        for _ in tf.range(steps):
            before = tf.identity(w.value)
            with tf.GradientTape() as tape:
                y = tf.random.normal((8, 1))
                loss = tf.reduce_mean(y * model(tf.random.normal((8, 16)), training=True))
            g = tape.gradient(loss, w.value)
            optimizer.apply([g])
            norms += tf.reduce_sum(w.value**2)
            gradients += tf.reduce_sum(g**2) * tf.reduce_sum(before**2)
            angles += (tf.norm(w.value / tf.norm(w.value) - before / tf.norm(before))) ** 2
        return norms, gradients, angles

    train(500)
    norm, gradient, angle = (np.sqrt(total / 6000) for total in train(6000))
    assert norm == pytest.approx(equilibrium_norm(rate, decay, momentum, gradient), rel=0.05)
    assert angle == pytest.approx(angular_update(rate, decay, momentum), rel=0.05)


def test_without_decay_the_norm_has_no_equilibrium():
    assert equilibrium_norm(0.1, 0.0, 0.9, 1.0) == np.inf
