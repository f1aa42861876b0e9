"""Models of text: padding takes no part in anything."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from nrm_keras import models
from nrm_keras.errors import UserError
from nrm_keras.layers import BatchNormalization, LayerNormalization
from nrm_keras.layers.named import NAMED
from nrm_keras.models.recurrent import NormalizedGRUCell

NORMS = ["none", *NAMED]
VARIANTS = {
    "pre_norm": (models.transformer, {"placement": "pre_norm"}),
    "post_norm": (models.transformer, {"placement": "post_norm"}),
    "gru": (models.gru, {"bidirectional": True, "pooling": "last"}),
    "deep gru": (models.gru, {"depth": 2, "bidirectional": True}),
}


def factory(norm):
    if norm == "none":
        return None
    return lambda name: NAMED[norm](name=name, **({"groups": 4} if norm == "group" else {}))


def build(variant, norm="layer", length=None, **options):
    function, chosen = VARIANTS[variant]
    tokens = keras.Input((length,), dtype="int32")
    options = {"vocabulary": 30, "length": 20, "width": 8, "dropout": 0.0, **chosen, **options}
    features = function(tokens, factory(norm), **options)
    return keras.Model(tokens, keras.layers.Dense(3, dtype="float32")(features))


def texts():
    tokens = np.random.default_rng(0).integers(1, 30, (5, 9))
    tokens[0, 5:] = tokens[2, 1:] = tokens[4] = 0
    return tokens


def trained_step(model, tokens):
    """Logits, gradients by weight and running statistics of one call in training."""
    with tf.GradientTape() as tape:
        logits = model(tokens, training=True)
        loss = tf.reduce_sum(tf.sin(3.0 * logits))
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_variables)]
    return [logits, *gradients, *model.non_trainable_variables]


# Instance normalization in front of a mean over tokens leaves beta; recipes refuse it in a transformer.
PADDED = [("pre_norm", norm) for norm in NORMS if norm != "instance"] + [("gru", norm) for norm in NORMS]
PADDED += [(variant, norm) for variant in ("post_norm", "deep gru") for norm in ("batch", "rms")]


@pytest.mark.parametrize("variant,norm", PADDED)
@pytest.mark.filterwarnings("error:Layer.*mask:UserWarning")
def test_padding_changes_neither_logits_nor_gradients_nor_statistics(variant, norm):
    model, tokens = build(variant, norm), texts()
    before = model.get_weights()
    logits = np.asarray(model(tokens))
    step = [np.array(value) for value in trained_step(model, tokens)]
    model.set_weights(before)
    longer = np.pad(tokens, ((0, 0), (0, 7)))
    np.testing.assert_allclose(model(longer), logits, atol=1e-5)
    for value, expected in zip(trained_step(model, longer), step, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4)
    assert np.isfinite(logits).all() and np.ptp(logits[:4], 0).min() > 1e-4


def test_what_padding_is_embedded_as_does_not_matter():
    for variant in VARIANTS:
        model, tokens = build(variant, "layer"), texts()
        logits = np.asarray(model(tokens))
        embeddings = model.get_layer("embedding").embeddings
        embeddings.assign(np.asarray(embeddings) + 100.0 * (np.arange(30) == 0)[:, None])
        np.testing.assert_allclose(model(tokens), logits, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_token_counts(variant):
    model, tokens = build(variant), texts()
    for position in (0, 4, 8):
        changed = tokens.copy()
        changed[1, position] = tokens[1, position] % 29 + 1
        assert np.abs(np.asarray(model(changed) - model(tokens)))[1].max() > 1e-6


@pytest.mark.parametrize(
    "variant,norm", [("pre_norm", "adaptive"), ("post_norm", "rms"), ("gru", "layer"), ("deep gru", "none")]
)
def test_a_saved_model_answers_the_same(tmp_path, variant, norm):
    model, tokens = build(variant, norm), texts()
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    longer = np.pad(tokens, ((0, 0), (0, 3)))
    np.testing.assert_allclose(loaded(longer), model(tokens), atol=1e-5)


@pytest.mark.parametrize(
    "variant,policy,jit",
    [
        ("pre_norm", "mixed_float16", True),
        ("pre_norm", "mixed_bfloat16", False),
        ("gru", "mixed_float16", False),
        ("gru", "mixed_bfloat16", True),
    ],
)
def test_half_precision_and_xla_train(variant, policy, jit):
    keras.config.set_dtype_policy(policy)
    try:
        model = build(variant, "layer", length=9, dropout=0.1)
    finally:
        keras.config.set_dtype_policy("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=jit)
    assert np.isfinite(model.fit(texts(), np.arange(5) % 3, verbose=0).history["loss"][0])


@pytest.mark.parametrize("variant", ["pre_norm", "gru"])
def test_only_texts_that_fit(variant):
    function, _ = VARIANTS[variant]
    with pytest.raises(UserError, match="needs text"):
        function(keras.Input((8,)), None, vocabulary=10, length=8)
    with pytest.raises(UserError, match="no more tokens than the 8"):
        function(keras.Input((9,), dtype="int32"), None, vocabulary=10, length=8)


@pytest.mark.parametrize("norm", ["layer", "rms", "sample", "group"])
def test_normalizers_of_one_step_stand_inside_of_the_recurrence(norm):
    cell = build("gru", norm).get_layer("gru1_forward").cell
    assert type(cell.gate_norm).__name__ == type(factory(norm)("x")).__name__


@pytest.mark.parametrize("norm", ["none", "batch", "adaptive", "switchable", "instance"])
def test_other_normalizers_stand_in_front_of_the_recurrence_only(norm):
    cell = build("gru", norm).get_layer("gru1_forward").cell
    assert cell.gate_norm is None and cell.candidate_norm is None


def reference_gru(a, u, v, epsilon, mask):
    """The equations of Cho et al. 2014 with the normalization of Ba et al. 2016, token by token, in float64."""

    def layer_norm(x):
        return (x - x.mean()) / np.sqrt(x.var() + epsilon)

    states = np.zeros((*a.shape[:2], len(u)))
    for n, text in enumerate(a):
        h = np.zeros(len(u))
        for t, (a_z, a_r, a_c) in enumerate(np.split(row, 3) for row in text):
            if mask[n, t]:
                g_z, g_r = np.split(layer_norm(h @ u), 2)
                z, r = 1 / (1 + np.exp(-a_z - g_z)), 1 / (1 + np.exp(-a_r - g_r))
                h = z * h + (1 - z) * np.tanh(a_c + r * layer_norm(h @ v))
            states[n, t] = h
    return states


def test_cell_is_the_published_one():
    rng = np.random.default_rng(0)
    a, mask = rng.normal(size=(3, 7, 12)), rng.random((3, 7)) < 0.7
    norms = [LayerNormalization(epsilon=1e-5, dtype="float64") for _ in range(2)]
    cell = NormalizedGRUCell(4, *norms, dtype="float64")
    states = keras.layers.RNN(cell, return_sequences=True, dtype="float64")(a, mask=mask)
    expected = reference_gru(a, np.asarray(cell.gates.kernel), np.asarray(cell.candidate.kernel), 1e-5, mask)
    np.testing.assert_allclose(states, expected, atol=1e-6)


def test_without_normalizers_it_is_keras_gru():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 7, 5)).astype("float32")
    theirs = keras.layers.GRU(4, return_sequences=True, bias_initializer="normal")
    expected = theirs(x)
    kernel, recurrent, (bias, recurrent_bias) = (np.asarray(w) for w in theirs.weights)
    cell = NormalizedGRUCell(4)
    ours = keras.layers.RNN(cell, return_sequences=True)
    ours.build((3, 7, 12))
    cell.gates.set_weights([recurrent[:, :8], recurrent_bias[:8]])
    cell.candidate.set_weights([recurrent[:, 8:], recurrent_bias[8:]])
    np.testing.assert_allclose(ours(x @ kernel + bias), expected, atol=1e-5)


@pytest.mark.parametrize("placement,behind_the_sum", [("pre_norm", False), ("post_norm", True)])
def test_placement_of_the_transformers_normalizers(placement, behind_the_sum):
    names = [layer.name for layer in build(placement, "batch").layers]
    norm, add = names.index("block1_attention_norm"), names.index("block1_attention_add")
    assert (norm > add) == behind_the_sum
    assert ("final_norm" in names) != behind_the_sum
    assert sum(name.endswith("_norm") for name in names) == 4 + (not behind_the_sum)


def test_batch_statistics_are_those_of_the_tokens():
    model, tokens = build("gru", "batch"), texts()
    norm = model.get_layer("gru1_forward_input_candidate_norm")
    assert isinstance(norm, BatchNormalization)
    model(tokens, training=True)
    projected = keras.Model(model.input, model.get_layer("gru1_forward_input_candidate").output)(tokens)
    valid = np.asarray(projected, "float64")[tokens != 0]
    np.testing.assert_allclose(norm.moving_mean, valid.mean(0), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, valid.var(0), rtol=1e-3, atol=1e-6)
