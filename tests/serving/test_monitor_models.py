"""Monitors of models of text, tables, volumes and domains, and of models inside of models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from nrm_keras import layers
from nrm_keras.models import gru, transformer, unet
from nrm_keras.serving.drift.monitor import DriftMonitor
from nrm_keras.serving.drift.watching import MOST, Watch

LENGTH = 12


def norm(name):
    return layers.LayerNormalization(name=name)


def tokens(count, words=40, seed=0):
    """Texts of 3 to 12 tokens."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, words, (count, LENGTH))
    return np.where(np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (count, 1)), ids, 0).astype("int32")


def of_text(function):
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = function(inputs, norm, vocabulary=40, length=LENGTH, width=8, depth=1)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))


def monitor(model, inputs):
    return DriftMonitor.of(model, tf.data.Dataset.from_tensor_slices(inputs).batch(50))


@pytest.mark.parametrize("function", [gru, transformer])
def test_padding_does_not_count(function):
    model, texts = of_text(function), tokens(5)
    watch = Watch(model, texts)
    table = model.get_layer("embedding").get_weights()[0]
    found = watch(texts)[watch.names.index("embedding")].numpy()
    for text, row in zip(texts, found, strict=True):
        vectors = table[text[text > 0]].astype("float64")
        expected = [*vectors.mean(0), *vectors.std(0), np.log(1 + len(vectors))]
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", [gru, transformer])
def test_other_words_and_other_lengths_are_flagged(function):
    watching = monitor(of_text(function), tokens(400))
    request = tokens(64, seed=1)
    assert watching(request)["p_value"] > 0.01
    assert watching(np.where(request > 0, 1 + request % 5, 0))["p_value"] < 0.01
    assert watching(np.where(np.arange(LENGTH) < 3, request, 0))["p_value"] < 0.01


def test_raw_text_with_the_model_inside():
    words = keras.layers.TextVectorization(output_sequence_length=LENGTH)
    texts = np.array([" ".join(f"w{i}" for i in row if i) for row in tokens(200)])
    words.adapt(texts)
    inputs = keras.Input((), dtype="string", name="text")
    inner = of_text(gru)
    watching = monitor(keras.Model(inputs, inner(words(inputs))), texts)
    assert watching.layers == ("embedding", "gru1_forward", "features", "logits")
    assert watching(tf.constant(["unheard of words"] * 20))["p_value"] < 0.02
    answer = tf.function(watching)(tf.constant(texts[:1]))
    assert answer["distance"].shape == (4,)


def test_volumes():
    inputs = keras.Input((4, 6, 8, 2))
    x = unet(inputs, lambda name: layers.GroupNormalization(2, name=name), width=4, depth=1)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    known, new = np.random.default_rng(0).normal(size=(2, 100, 4, 6, 8, 2)).astype("float32")
    watching = monitor(model, known)
    assert watching.layers[0] == "inputs" and watching.layers[-1] == "logits"
    assert watching(new[:8])["p_value"] > 0.02 > watching(2 * new[:8])["p_value"]
    mean, deviation = np.split(Watch(model, known[:2])(new[:3])[0].numpy(), 2, axis=1)
    np.testing.assert_allclose(mean, new[:3].mean((1, 2, 3), dtype="float64"), atol=1e-5)
    np.testing.assert_allclose(deviation, new[:3].std((1, 2, 3), dtype="float64"), rtol=1e-4)


def test_domains():
    inputs, domain = keras.Input((6,), name="inputs"), keras.Input((), dtype="int32", name="domain")
    x = keras.layers.Dense(8)(inputs)
    x = keras.layers.ReLU(name="relu")(layers.DomainBatchNormalization(2)(x, domain))
    model = keras.Model({"inputs": inputs, "domain": domain}, keras.layers.Dense(2, name="logits")(x))
    rng = np.random.default_rng(0)

    def examples(count, shift=0.0):
        values = rng.normal(shift, 1, (count, 6)).astype("float32")
        return {"inputs": values, "domain": rng.integers(0, 2, count).astype("int32")}

    watching = monitor(model, examples(400))
    assert watching.layers == ("inputs", "features", "logits")
    assert watching(examples(30))["p_value"] > 0.01 > watching(examples(30, 1.0))["p_value"]


def test_a_constant_feature_and_rare_ones_cause_no_alarm_by_themselves():
    rng = np.random.default_rng(0)

    def table(count):
        rows = rng.normal(size=(count, 8)) * 10.0 ** np.arange(-3, 5)
        rows[:, 3] = 7
        rows[:, 4] *= rng.random(count) < 0.05
        return rows.astype("float32")

    inputs = keras.Input((8,))
    watching = monitor(keras.Model(inputs, keras.layers.Dense(2)(inputs)), table(2000))
    judge = tf.function(watching, reduce_retracing=True)
    values = np.array([judge(table(16))["p_value"] for _ in range(200)])
    assert np.mean(values < 0.01) <= 0.035
    changed = table(64)
    changed[:, 0] += 2e-3  # the smallest feature by its unit
    assert judge(changed)["p_value"] < 0.01


def test_of_many_layers_some_are_watched_and_both_ends():
    x = inputs = keras.Input((4,))
    for number in range(40):
        x = keras.layers.Dense(4, activation="tanh", name=f"dense{number}")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    names = Watch(model, np.zeros((2, 4), "float32")).names
    assert len(names) == MOST
    assert names[0] == "inputs" and names[-2:] == ("features", "logits")


def test_a_shared_layer_is_watched_in_each_call():
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, activation="relu", name="shared")
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(shared(shared(shared(inputs)))))
    names = Watch(model, np.zeros((2, 4), "float32")).names
    assert names == ("inputs", "shared", "shared#2", "features", "logits")
