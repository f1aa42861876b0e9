"""A tiny model of handwritten digits: what the monitor says of images like those it knows, and of changed ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.datasets import load_digits

from nrm_keras.errors import UserError
from nrm_keras.serving.drift.monitor import DriftMonitor

SIZES = (1, 5, 8, 48)


@pytest.fixture(scope="module")
def digits():
    """(for training, for the reference, for requests): float32 images, and the labels of the first."""
    images, labels = load_digits(return_X_y=True)
    images, order = images.reshape(-1, 8, 8, 1).astype("float32"), np.random.default_rng(0).permutation(len(labels))
    train, reference, test = np.split(order, [400, 1200])
    return images[train], labels[train], images[reference], images[test]


@pytest.fixture(scope="module")
def model(digits):
    images, labels, *_ = digits
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="inputs")
    x = keras.layers.Normalization(axis=-1, mean=images.mean(), variance=images.var(), name="standardize")(inputs)
    x = keras.layers.Conv2D(8, 3, padding="same", name="conv")(x)
    x = keras.layers.Activation("relu", name="relu")(keras.layers.BatchNormalization()(x))
    shortcut = x
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="inner")(x)
    x = keras.layers.Add(name="sum")([x, shortcut])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(images, labels, epochs=3, verbose=0)
    return model


@pytest.fixture(scope="module")
def monitor(model, digits):
    return DriftMonitor.of(model, batches(digits[2]))


@pytest.fixture(scope="module")
def judge(monitor):
    return tf.function(monitor, input_signature=[tf.TensorSpec((None, 8, 8, 1))])


def batches(images, size=100):
    return tf.data.Dataset.from_tensor_slices(images).batch(size)


def p_values(judge, images, size, requests=200, seed=0):
    rng = np.random.default_rng(seed)
    chosen = (images[rng.choice(len(images), size, replace=False)] for _ in range(requests))
    return np.array([float(judge(request)["p_value"]) for request in chosen])


def test_watches_what_inference_keeps(monitor):
    assert monitor.layers == ("standardize", "relu", "inner", "sum", "features", "logits")


@pytest.mark.parametrize("size", SIZES)
def test_p_values_of_unchanged_images_are_uniform(judge, digits, size):
    values = p_values(judge, digits[3], size)
    assert np.mean(values < 0.01) <= 0.035  # of 200 at 0.01, 8 have a chance of 0.0001
    assert 0.35 < np.median(values) < 0.65
    if size <= 8:  # larger ones, drawn from 597 images, have many in common
        assert stats.kstest(values, "uniform").pvalue > 1e-4


def test_distance_of_unchanged_images_is_one_whatever_the_size(judge, digits):
    for size in (2, 16, 100):
        rng = np.random.default_rng(size)
        squares = [
            np.square(judge(digits[3][rng.choice(len(digits[3]), size, replace=False)])["distance"]) for _ in range(60)
        ]
        np.testing.assert_allclose(np.mean(squares, 0), 1, atol=0.35)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: 16 - x,
        lambda x: 0.6 * x,
        lambda x: np.clip(x + np.random.default_rng(0).normal(0, 1.6, x.shape), 0, 16),
    ],
    ids=["inverted", "darker", "noise"],
)
def test_changed_images_are_flagged(judge, digits, change):
    assert np.mean(p_values(judge, change(digits[3]).astype("float32"), 48, requests=40) < 0.01) >= 0.95


def test_strange_images_whose_mean_is_as_usual_are_flagged(judge, digits):
    # half of the images are brighter by what the other half is darker: only their spread is larger
    images = digits[3][:64]
    mean = images.mean(0)
    factor = np.where(np.arange(64) % 2, 1.8, 0.2).reshape(-1, 1, 1, 1)
    assert float(judge((mean + factor * (images - mean)).astype("float32"))["p_value"]) < 0.01


def test_distance_of_a_constant_shift_grows_with_the_root_of_the_size(judge, digits):
    shifted = digits[3] + 4
    one, four = (np.mean([judge(shifted[i : i + n])["distance"] for i in range(0, 400, n)], 0) for n in (4, 16))
    np.testing.assert_allclose(four[0] / one[0], 2, rtol=0.15)


def test_order_does_not_matter(judge, digits):
    request = digits[3][:20]
    for name, value in judge(request).items():
        if name != "layers":
            np.testing.assert_allclose(value, judge(request[::-1])[name], rtol=1e-4)


def test_more_examples_than_the_reference_has(judge, digits):
    assert 0.001 < float(judge(np.concatenate(digits[2:]))["p_value"]) <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_request_that_is_not_finite_is_flagged(judge, digits, value):
    request = digits[3][:8].copy()
    request[0, 0, 0] = value
    answer = judge(request)
    assert np.isfinite(answer["distance"]).all() and np.isfinite(answer["score"])
    assert answer["p_value"] < 0.01


def test_the_saved_monitor_says_the_same(monitor, judge, digits, tmp_path):
    tf.saved_model.save(monitor, str(tmp_path), signatures={"monitor": judge.get_concrete_function()})
    loaded = tf.saved_model.load(str(tmp_path))
    for request in (digits[3][:1], digits[3][:7], 16 - digits[3][:64]):
        answer, expected = loaded.signatures["monitor"](tf.constant(request)), judge(request)
        assert answer.keys() == {"score", "p_value", "distance", "layers"}
        for name, value in expected.items():
            np.testing.assert_array_equal(answer[name], value)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 2e6
    operations = {op.type for op in judge.get_concrete_function().graph.get_operations()}
    assert not operations & {"PyFunc", "EagerPyFunc", "PyFuncStateless"}


def test_the_model_is_as_before(model, monitor):
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_too_few_reference_examples(model, digits):
    with pytest.raises(UserError, match=r"16 reference examples.*Received: 15"):
        DriftMonitor.of(model, batches(digits[2][:15]))


def test_a_reference_that_is_not_finite(model, digits):
    images = digits[2][:64].copy()
    images[3] = np.nan
    with pytest.raises(UserError, match="finite.*standardize"):
        DriftMonitor.of(model, batches(images))
