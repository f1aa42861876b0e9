import keras
import numpy as np
import pytest

from nrm_keras import layers
from nrm_keras.layers import AdaptiveNormalization
from nrm_keras.recipe.schema import Recipe
from nrm_keras.training import optimizers


def recipe(optimizer, schedule=None, **train):
    return Recipe.model_validate(
        {
            "data": {"source": "digits"},
            "model": {"type": "mlp"},
            "norm": {"type": "adaptive"},
            "optimizer": optimizer,
            "train": train,
        }
        | ({"schedule": schedule} if schedule else {})
    )


def model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), AdaptiveNormalization(), keras.layers.Dense(2)])


def model_of_all_normalizers():
    """A layer each, among them gamma and beta of rank 2."""
    x, domain = keras.Input((5, 4)), keras.Input((), dtype="int32")
    h = keras.layers.Dense(3)(x)
    for norm in (
        layers.AdaptiveNormalization(gate="channel", learn_slope=True),
        layers.LayerNormalization(axis=[1, 2]),
        layers.InstanceNormalization(),
        layers.SwitchableNormalization(),
    ):
        h = norm(h)
    h = layers.DomainBatchNormalization(2)(h, domain)
    return keras.Model([x, domain], keras.layers.Dense(2)(h))


def rates(schedule, epochs=4, steps=10, peak=0.5):
    built = optimizers.build(recipe({"type": "sgd", "learning_rate": peak}, schedule, epochs=epochs), model(), steps)
    out = []
    for step in range(epochs * steps):
        built.iterations.assign(step)
        out.append(float(built.learning_rate))
    return np.array(out)


def test_constant_is_constant():
    assert (rates(None) == 0.5).all()


def test_warm_up_rises_linearly_to_the_peak_and_stays():
    got = rates({"type": "constant", "warmup_epochs": 1})
    np.testing.assert_allclose(got[:10], 0.05 * np.arange(1, 11), rtol=1e-6)
    assert (got[10:] == 0.5).all()


def test_cosine_with_warm_up_ends_at_its_final_share():
    got = rates({"type": "cosine", "warmup_epochs": 1, "final": 0.1})
    steps = np.arange(30)
    np.testing.assert_allclose(got[10:], 0.05 + 0.45 * (1 + np.cos(np.pi * steps / 30)) / 2, rtol=1e-5)
    assert got.argmax() in (9, 10)


@pytest.mark.parametrize("warmup", [0, 1])
def test_steps_fall_at_the_end_of_their_epochs(warmup):
    got = rates({"type": "step", "epochs": (2, 3), "factor": 0.1, "warmup_epochs": warmup})
    np.testing.assert_allclose(
        got[10 * warmup :], [*[0.5] * (20 - 10 * warmup), *[0.05] * 10, *[0.005] * 10], rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("make", [model, model_of_all_normalizers])
def test_weight_decay_is_decoupled_and_spares_gamma_beta_gates_and_biases(kind, make):
    built = optimizers.build(recipe({"type": kind, "learning_rate": 0.1, "weight_decay": 0.5}), net := make(), 10)
    before = {v.path: v.numpy() + 1 for v in net.trainable_variables}
    for v in net.trainable_variables:
        v.assign(before[v.path])
    built.apply_gradients([(keras.ops.zeros(v.shape), v) for v in net.trainable_variables])
    for v in net.trainable_variables:
        factor = 1 - 0.1 * 0.5 if v.path.endswith("kernel") else 1.0
        np.testing.assert_allclose(v.numpy(), before[v.path] * factor, rtol=1e-6, err_msg=v.path)
    kinds = {(v.name, len(v.shape)) for v in net.trainable_variables}
    assert {("kernel", 2), ("bias", 1), ("gamma", 1), ("beta", 1)} < kinds
    assert kinds >= ({("gate_delta", 0)} if make is model else {("gamma", 2), ("beta", 2), ("gate_phi", 1)})
    assert make is model or kinds >= {("mean_logits", 1), ("variance_logits", 1)}


def rows_of(kind, l2, steps, gradients, start):
    """Weights after some steps, in float64: heavy-ball SGD, and Adam with bias correction."""
    w, m, v = np.array(start, "float64"), 0.0, 0.0
    for step, gradient in enumerate(gradients, 1):
        g = gradient + l2 * w
        if kind == "sgd":
            m = 0.9 * m - 0.1 * g
            w = w + m
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w - 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)
    assert step == steps
    return w


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("everything", [False, True])
def test_l2_is_part_of_the_gradient_and_spares_what_decay_spares(kind, everything):
    section = {"type": kind, "learning_rate": 0.1, "l2": 0.5, "decay_normalizers": everything}
    built = optimizers.build(recipe(section), net := model(), 10)
    rng = np.random.default_rng(0)
    start = {v.path: rng.normal(size=v.shape).astype("float32") for v in net.trainable_variables}
    gradients = [{path: rng.normal(size=w.shape).astype("float32") for path, w in start.items()} for _ in range(4)]
    for v in net.trainable_variables:
        v.assign(start[v.path])
    for one in gradients:
        built.apply_gradients([(one[v.path], v) for v in net.trainable_variables])
    for v in net.trainable_variables:
        l2 = 0.5 if everything or v.path.endswith("kernel") else 0.0
        expected = rows_of(kind, l2, 4, [one[v.path] for one in gradients], start[v.path])
        np.testing.assert_allclose(v.numpy(), expected, rtol=1e-3, atol=1e-5, err_msg=v.path)


def test_adam_divides_l2_where_adamw_decays_alike():
    """With the same gradient history, decoupled decay shrinks all weights alike, and L2 less where gradients are large."""
    shrunk = {}
    for section in ({"type": "adam", "l2": 0.1}, {"type": "adamw", "weight_decay": 0.1}):
        kernel = keras.layers.Dense(1, use_bias=False)
        net = keras.Sequential([keras.Input((2,)), kernel])
        weights = {}
        for decay in (True, False):
            off = {key: 0.0 for key in section if key != "type"}
            built = optimizers.build(recipe({"learning_rate": 1e-3} | section | ({} if decay else off)), net, 10)
            kernel.kernel.assign([[1.0], [1.0]])
            for sign in np.tile([1.0, -1.0], 50):
                built.apply_gradients([(keras.ops.array([[0.01], [10.0]]) * sign, kernel.kernel)])
            weights[decay] = kernel.kernel.numpy().ravel()
        shrunk[section["type"]] = weights[False] - weights[True]
    assert shrunk["adamw"][0] == pytest.approx(shrunk["adamw"][1], rel=0.05)
    assert shrunk["adam"][0] > 20 * shrunk["adam"][1]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_decay_can_take_in_normalizers(kind):
    section = {"type": kind, "learning_rate": 0.1, "weight_decay": 0.5, "decay_normalizers": True}
    built = optimizers.build(recipe(section), net := model(), 10)
    before = {v.path: v.numpy() + 1 for v in net.trainable_variables}
    for v in net.trainable_variables:
        v.assign(before[v.path])
    built.apply_gradients([(keras.ops.zeros(v.shape), v) for v in net.trainable_variables])
    for v in net.trainable_variables:
        np.testing.assert_allclose(v.numpy(), before[v.path] * 0.95, rtol=1e-6, err_msg=v.path)


def test_l2_survives_saving():
    net = model()
    net.compile(optimizers.build(recipe({"type": "adam", "l2": 0.25}), net, 10))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(net.optimizer))
    assert (type(again), again.l2) == (optimizers.CoupledAdam, 0.25)


def test_l2_of_an_embedding_shrinks_words_that_were_not_there():
    """Their gradient is sparse; the penalty is not."""
    net = keras.Sequential([keras.Input((1,), dtype="int32"), keras.layers.Embedding(3, 2), keras.layers.Flatten()])
    section = {"type": "sgd", "learning_rate": 0.1, "momentum": 0.0, "l2": 0.5}
    net.compile(optimizers.build(recipe(section), net, 10), loss=lambda y, p: keras.ops.sum(p * 0.0, -1))
    before = net.layers[0].embeddings.numpy()
    net.train_on_batch(np.array([[1]]), np.array([0.0]))
    np.testing.assert_allclose(net.layers[0].embeddings.numpy(), 0.95 * before, rtol=1e-5)


def test_clipping_bounds_the_global_norm():
    net = model()
    built = optimizers.build(recipe({"type": "sgd", "learning_rate": 1.0, "momentum": 0.0}, clip_norm=0.1), net, 10)
    before = [v.numpy() for v in net.trainable_variables]
    built.apply_gradients([(keras.ops.ones(v.shape) * 100, v) for v in net.trainable_variables])
    moved = [v.numpy() - b for v, b in zip(net.trainable_variables, before, strict=True)]
    assert np.sqrt(sum(np.square(m).sum() for m in moved)) == pytest.approx(0.1, rel=1e-5)


def test_schedules_survive_saving():
    net = model()
    net.compile(optimizers.build(recipe({"type": "sgd"}, {"type": "constant", "warmup_epochs": 1}), net, 10))
    config = keras.optimizers.serialize(net.optimizer)
    again = keras.optimizers.deserialize(config)
    for step in (0, 5, 20):
        net.optimizer.iterations.assign(step)
        again.build(net.trainable_variables) if not again.built else None
        again.iterations.assign(step)
        assert float(again.learning_rate) == float(net.optimizer.learning_rate)
