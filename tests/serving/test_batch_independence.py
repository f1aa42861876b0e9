"""The answer for an example is the same alone, among 64 and in any order, plain and specialized.

Of the function for any batch that an export holds; `tests/serving/test_export.py` asks what was written and loaded again.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as k

import nrm_keras.layers as own
from nrm_keras import models
from nrm_keras.layers.named import NAMED
from nrm_keras.serving.specialize import specialize

LARGEST = 1e-6
BATCH = 64
NORMS = {
    "none": None,
    "keras batch": k.BatchNormalization,
    **NAMED,
    "group": functools.partial(own.GroupNormalization, 4),
    "adaptive of groups": functools.partial(own.AdaptiveNormalization, alternative="group", groups=4),
    "adaptive, a gate of 1": functools.partial(own.AdaptiveNormalization, balance=1 + 1e-9),
    "virtual batches": functools.partial(own.BatchNormalization, virtual_batch_size=4),
}


def factory(norm):
    return None if norm is None else lambda name: norm(name=name)


def images(norm):
    inputs = keras.Input((12, 12, 3), name="image")
    features = models.resnet(inputs, factory(norm), depth=8, width=8)
    return keras.Model(inputs, k.Dense(5)(features)), lambda rng, size: rng.normal(size=(size, 12, 12, 3)).astype(
        "float32"
    )


def rows(norm):
    inputs = keras.Input((20,), name="inputs")
    features = models.mlp(inputs, factory(norm), units=(32, 32))
    return keras.Model(inputs, k.Dense(5)(features)), lambda rng, size: rng.normal(size=(size, 20)).astype("float32")


def tokens(norm):
    """Texts of 3 to 12 words, padded."""
    inputs = keras.Input((12,), dtype="int32", name="tokens")
    features = models.transformer(inputs, factory(norm), vocabulary=50, length=12, depth=1, width=16, heads=2)

    def draw(rng, size):
        words = rng.integers(1, 50, (size, 12)).astype("int32")
        return np.where(np.arange(12) < rng.integers(3, 13, (size, 1)), words, 0)

    return keras.Model(inputs, k.Dense(5)(features)), draw


def functions(model, draw):
    """What is exported of the model, plain and specialized, after three steps of its normalizers' statistics."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        model(draw(rng, 16), training=True)
    signature = [tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype)]
    for one in (model, specialize(model, draw(rng, 8), tolerance=1e-3).model):
        call = tf.function(functools.partial(one, training=False), signature, autograph=False)
        yield call.get_concrete_function()


CASES = [("images", norm) for norm in NORMS]
CASES += [("rows", norm) for norm in ("keras batch", "batch", "layer", "group", "rms", "switchable", "adaptive")]
CASES += [("tokens", norm) for norm in ("batch", "layer", "rms", "switchable", "adaptive")]


@pytest.mark.parametrize("kind, norm", CASES, ids=lambda value: value)
def test_every_example_has_its_own_answer(kind, norm):
    keras.utils.set_random_seed(0)
    model, draw = {"images": images, "rows": rows, "tokens": tokens}[kind](NORMS[norm])
    rng = np.random.default_rng(1)
    x, order = tf.constant(draw(rng, BATCH)), rng.permutation(BATCH)
    for function in functions(model, draw):
        answers = {
            "together": function(x).numpy(),
            "alone": np.concatenate([function(x[i : i + 1]) for i in range(BATCH)]),
            "in threes": np.concatenate([function(x[i : i + 3]) for i in range(0, BATCH, 3)]),
            "in another order": function(tf.gather(x, order)).numpy()[np.argsort(order)],
        }
        assert np.isfinite(answers["together"]).all()
        differences = {name: np.abs(one - answers["together"]).max() for name, one in answers.items()}
        print(f"{kind}, {norm}: {differences}, outputs up to {np.abs(answers['together']).max():.2f}")
        assert max(differences.values()) <= LARGEST
