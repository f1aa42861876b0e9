"""Rank, saturation and CKA against their definitions written out, and on real models of every kind."""

import keras
import numpy as np
import pytest

from nrm_keras.diagnostics.representations import cka, effective_rank, linear_cka, representations, saturation

L = keras.layers


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def hsic_cka(x, y):
    """By the Hilbert-Schmidt independence criterion with an explicit centring matrix."""
    n = len(x)
    x, y = np.reshape(x, (n, -1)).astype("float64"), np.reshape(y, (n, -1)).astype("float64")
    centring = np.eye(n) - np.ones((n, n)) / n

    def hsic(a, b):
        return np.trace(a @ a.T @ centring @ b @ b.T @ centring)

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def rotation(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def test_effective_rank():
    # p = 1/4, 1/4, 1/2: entropy 3/2 log 2.
    assert effective_rank([1.0, 1.0, 2.0]) == pytest.approx(2**1.5)
    matrix = rotation(5)[:, :3] @ np.diag([1.0, 1.0, 2.0]) @ rotation(4)[:3]
    assert effective_rank(matrix) == pytest.approx(2**1.5)
    assert effective_rank(np.reshape(rotation(12), (3, 4, 12))) == pytest.approx(12)
    assert effective_rank(np.zeros((3, 3))) == 0 and effective_rank([]) == 0
    assert np.isnan(effective_rank([[np.nan, 1.0], [0.0, 1.0]]))


def test_saturation_of_activations_with_known_covariance():
    rows = rotation(40)[:, :6]
    rows = np.linalg.qr(rows - rows.mean(0))[0]
    # On six rotated axes: 2 of them have 110 / 112.1 = 0.981 of the variance, 3 have 0.999.
    x = rows * np.sqrt([100.0, 10.0, 2.0, 0.1, 0.0, 0.0]) @ rotation(6) + 7.0
    assert saturation(x) == 3 / 6
    assert saturation(x, share=0.85) == 1 / 6 and saturation(x, share=1.0) == 4 / 6
    assert saturation(np.reshape(x, (5, 8, 6))) == 3 / 6
    assert saturation([1.0, 0.0, 0.0, 0.0]) == 1 / 4 and saturation(np.ones(4)) == 1


def test_saturation_of_constants_and_nan():
    assert saturation(np.full((7, 3), 0.1)) == 0 and saturation(np.zeros(3)) == 0
    assert np.isnan(saturation([[np.nan, 1.0], [1.0, 2.0]]))


@pytest.mark.parametrize("p, q", [(3, 4), (30, 4), (4, 30), (30, 50), (12, 12)])
def test_linear_cka_is_the_normalized_hsic(p, q):
    """12 examples: few features, many, and both."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, p)) + 5.0
    y = np.tanh(x @ rng.normal(size=(p, q))) + rng.normal(size=(12, q))
    assert linear_cka(x, y) == pytest.approx(hsic_cka(x, y), rel=1e-12)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), rel=1e-12)


@pytest.mark.parametrize("size", [5, 30])
def test_linear_cka_does_not_see_rotation_scale_and_shift(size):
    x = np.random.default_rng(0).normal(size=(12, size))
    assert linear_cka(x, 3 * x @ rotation(size) - 2) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, x * np.logspace(0, 2, size)) < 0.99


def test_linear_cka_of_independent_features_goes_down_with_examples():
    values = [
        linear_cka(*(np.random.default_rng(seed).normal(size=(n, 4)) for seed in (1, 2))) for n in (20, 200, 20_000)
    ]
    assert values[0] > values[1] > values[2] and values[2] < 1e-3


def test_linear_cka_of_constants_and_nan():
    x = np.random.default_rng(0).normal(size=(9, 4))
    for constant in (np.zeros((9, 3)), np.full((9, 3), 0.1), np.full((9, 30), 1e4 / 3)):
        assert linear_cka(x, constant) == 0 and linear_cka(constant, constant) == 0
    for bad in (np.nan, np.inf):
        assert np.isnan(linear_cka(x, np.where(np.arange(4) == 1, bad, x)))
    with pytest.raises(ValueError, match="same examples"):
        linear_cka(x, x[:5])


def functional():
    x = keras.Input((6, 6, 2))
    h = L.Conv2D(3, 3, name="conv")(x)
    h = L.BatchNormalization(name="norm")(h)
    h = L.Flatten(name="flat")(L.ReLU(name="relu")(h))
    shared = L.Dense(48, activation="tanh", name="shared")
    return keras.Model(x, L.Dense(2, name="last")(shared(shared(h))))


class Subclassed(keras.Model):
    """No `training` argument, layers in a list, one in a layer of its own."""

    def __init__(self):
        super().__init__()
        self.blocks = [L.Dense(4, activation="relu", name=f"dense{i}") for i in range(2)]
        self.inner = keras.Sequential([L.LayerNormalization(name="norm"), L.Dense(3, name="last")], name="inner")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.inner(x)


def test_the_matrix_is_that_of_the_layers_outputs():
    """In inference mode, examples in rows, a layer's second call apart."""
    x = np.random.default_rng(0).normal(size=(10, 6, 6, 2)).astype("float32")
    a, b = functional(), functional()
    b.get_layer("norm").moving_mean.assign([0.5, 0.0, -0.5])
    matrix, rows, columns = cka(a, b, x)
    assert rows == columns == ["conv", "norm", "relu", "flat", "shared", "shared#2", "last"]

    def outputs(model):
        tensors = [model.get_layer(name).output for name in ("conv", "norm", "relu", "flat")]
        shared = model.get_layer("shared")
        tensors += [node.outputs[0] for node in shared._inbound_nodes] + [model.output]
        return keras.Model(model.input, tensors).predict(x, verbose=0)

    expected = [[hsic_cka(one, other) for other in outputs(b)] for one in outputs(a)]
    np.testing.assert_allclose(matrix, expected, rtol=1e-4)


def test_a_subclassed_model_at_two_steps():
    model = Subclassed()
    x = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    model(x)
    before = representations(model, x)
    same, rows, _ = cka(before, model, x)
    np.testing.assert_allclose(np.diag(same), 1.0, atol=1e-12)
    assert [row.rpartition("/")[2] for row in rows] == ["dense0", "dense1", "norm", "last"]
    model.compile("sgd", "mse")
    model.fit(x, np.ones((16, 3)), epochs=20, verbose=0)
    assert np.all(np.diag(cka(before, model, x)[0]) < 0.9999)


def test_recurrent_layers_wrappers_and_attention():
    x = keras.Input((5, 4))
    h = L.MultiHeadAttention(2, 3, name="attention")(x, x)
    h = L.TimeDistributed(L.Dense(3), name="each")(h)
    h = L.Bidirectional(L.GRU(2, return_sequences=True), name="both")(h)
    model = keras.Model(x, L.LSTM(3, name="lstm")(h))
    found = representations(model, np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32"))
    assert {"each", "both", "lstm"} <= set(found)
    assert any("attention/" in path for path in found)
    assert all(r.examples == 6 for r in found.values())


def test_chosen_layers_and_names_that_are_not_there():
    x = np.zeros((4, 6, 6, 2), "float32")
    assert list(representations(functional(), x, ["con*", "last"])) == ["conv", "last"]
    with pytest.raises(ValueError, match="layer of such a name"):
        representations(functional(), x, ["convolution"])


def test_memory_is_the_smaller_of_features_and_gram_matrix():
    found = representations(functional(), np.random.default_rng(0).normal(size=(20, 6, 6, 2)).astype("float32"))
    assert found["conv"].gram.shape == (20, 20) and found["conv"].features is None
    assert found["last"].features.shape == (20, 2) and found["last"].gram is None


class Failing(L.Layer):
    def call(self, x):
        raise RuntimeError("no")


def test_hooks_are_removed_and_the_model_is_as_before(tmp_path):
    model = functional()
    x, y = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32"), np.ones((8, 2))
    before = [v.numpy() for v in model.variables]
    attributes = [set(vars(layer)) for layer in model._flatten_layers()]
    representations(model, x)
    assert [set(vars(layer)) for layer in model._flatten_layers()] == attributes
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    np.testing.assert_allclose(
        keras.saving.load_model(tmp_path / "m.keras").predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5
    )

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = L.Dense(2), Failing()

        def call(self, x):
            return self.second(self.first(x))

    net = Net()
    net.built = True
    with pytest.raises(RuntimeError, match="no"):
        representations(net, np.zeros((4, 3), "float32"))
    assert all("call" not in vars(layer) for layer in (net.first, net.second))
