"""Saved models give the bits of the model that was saved, in fresh processes: `.keras` files, and SavedModels without this package."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import programs
from tests.layers.cases import CASES, randomize

LOAD = """
import sys
import numpy as np
import keras, nrm_keras, tests.layers.cases
for name in sys.argv[1:]:
    model = keras.models.load_model(f"{name}.keras")
    np.save(f"{name}.loaded.npy", model.predict(np.load(f"{name}.x.npy"), batch_size=64, verbose=0))
"""

SERVE = """
import sys
import numpy as np
import tensorflow as tf
for name in sys.argv[1:]:
    model, x = tf.saved_model.load(name), np.load(f"{name}.x.npy")
    for size in (64, 1, 3):
        rows = [model.serve(tf.constant(x[n : n + size])).numpy() for n in range(0, len(x), size)]
        np.save(f"{name}.served{size}.npy", np.concatenate(rows))
assert "nrm_keras" not in sys.modules
"""

SHAPES = {"image": (5, 3, 4), "masked": (6, 4), "vector": (4,)}
NAMES = [f"{case.name}-{shape}" for case in CASES for shape in SHAPES]


def model_of(case, shape):
    front = [keras.layers.Masking(0.0)] if shape == "masked" else []
    norm = case.make(name="norm")
    model = keras.Sequential([keras.Input(SHAPES[shape]), *front, norm, keras.layers.ReLU()])
    randomize(norm, (None, *SHAPES[shape]))
    return model


def inputs_of(shape):
    x = np.random.default_rng(1).normal(2.0, 3.0, (64, *SHAPES[shape])).astype("float32")
    if shape == "masked":
        x[::3, 4:] = 0
    return x


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each model as it predicts here, and as two fresh processes make it out of its files."""
    folder = tmp_path_factory.mktemp("models")
    for case in CASES:
        for shape, sizes in SHAPES.items():
            name, model, x = f"{case.name}-{shape}", model_of(case, shape), inputs_of(shape)
            path = folder / name
            np.save(f"{path}.x.npy", x)
            np.save(f"{path}.predicted.npy", model.predict(x, batch_size=64, verbose=0))
            dynamic = tf.function(model, input_signature=[tf.TensorSpec((None, *sizes))])
            np.save(f"{path}.dynamic.npy", dynamic(tf.constant(x)).numpy())
            model.save(f"{path}.keras")
            model.export(path, verbose=False)
    programs.python("-c", LOAD, *NAMES, folder=folder)
    programs.python("-c", SERVE, *NAMES, folder=folder)
    return folder


def arrays(folder, name, *kinds):
    return [np.load(folder / f"{name}.{kind}.npy") for kind in kinds]


@pytest.mark.parametrize("name", NAMES)
def test_a_keras_file_predicts_the_same_bits(name, folder):
    predicted, loaded = arrays(folder, name, "predicted", "loaded")
    assert np.any(predicted != 0)
    np.testing.assert_array_equal(loaded, predicted)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_serves_the_same_bits(name, folder):
    served, dynamic, predicted = arrays(folder, name, "served64", "dynamic", "predicted")
    np.testing.assert_array_equal(served, dynamic)
    # `predict` knows the size of the batch, with which TensorFlow's optimizer reorders sums of products
    np.testing.assert_allclose(served, predicted, rtol=0, atol=4e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 3])
def test_a_saved_model_answers_the_same_in_any_batch(name, size, folder):
    """TensorFlow's rsqrt rounds differently at an array's end; it made this fail by two units in the last place."""
    alone, together = arrays(folder, name, f"served{size}", "served64")
    np.testing.assert_array_equal(alone, together)
