"""A recipe of each kind exports in smoke mode, and the exported model takes raw input; benchmarks/export_recipes.py takes them all."""

import json

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import nrm_keras
from nrm_keras.serving.digest import digest

CHANCE = np.random.default_rng(0)
KINDS = {
    # an image of another size than those of training
    "images/digits_adaptive": {"image": CHANCE.integers(0, 17, (5, 11, 9, 1), "uint8")},
    "text/spam": {"text": np.array([b"you have won", b"", "schlecht, sehr schlecht \u2026".encode()])},
    "medical/brain_3d": {"inputs": None},
    "physics/nuclei": {"inputs": None},
}


@pytest.mark.parametrize("name", KINDS)
def test_smoke_run_exports(name, tmp_path):
    run = nrm_keras.run(name, out=tmp_path / "runs", smoke=True, say=lambda line: None)
    said = []
    done = nrm_keras.export(run.path, tmp_path / "served", monitor=name == "physics/nuclei", say=said.append)
    assert done.path == tmp_path / "served" / "1" and done.card == json.loads(
        (done.path / "model_card.json").read_text()
    )
    assert done.card["digest"] == digest(done.path)
    assert done.card["check"]["batch_dependence"] <= 1e-6
    assert any("smoke run" in limit for limit in done.card["limits"])

    loaded = tf.saved_model.load(done.path)
    requests = {key: values if values is not None else _random(done.card) for key, values in KINDS[name].items()}
    answers = loaded.signatures["serving_default"](**{key: tf.constant(v) for key, v in requests.items()})
    features = loaded.signatures["features"](**{key: tf.constant(v) for key, v in requests.items()})["features"]
    count = len(next(iter(requests.values())))
    assert features.shape[0] == count and features.dtype == tf.float32
    _agrees(run.load(), done.card, requests, answers)
    if "monitor" in loaded.signatures:
        found = loaded.signatures["monitor"](**{key: tf.constant(v) for key, v in requests.items()})
        assert 0 < found["p_value"].numpy() <= 1 and len(found["layers"]) == len(found["distance"])


def _random(card) -> np.ndarray:
    """Three examples."""
    return CHANCE.normal(size=[3, *card["input"]["shape"][1:]]).astype(card["input"]["dtype"])


def _agrees(model, card, requests, answers) -> None:
    """The answers are those of the trained model: softmax and names, or values."""
    count = len(next(iter(requests.values())))
    if card["task"] == "regression":
        np.testing.assert_allclose(answers["values"], model.predict(requests["inputs"], verbose=0), rtol=1e-4)
        return
    scores = answers["scores"].numpy()
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)
    if "image" not in requests:
        (taken,) = requests.values()
        taken = tf.constant(taken) if "text" in requests else taken
        np.testing.assert_allclose(scores, softmax(model.predict(taken, verbose=0), -1), atol=1e-4)
    if card["task"] == "segmentation":
        assert answers["labels"].dtype == tf.uint8
        np.testing.assert_array_equal(answers["labels"], scores.argmax(-1))
    else:
        assert len(scores) == count and scores.shape[1] == len(card["classes"])
        assert [name.decode() for name in answers["labels"].numpy()] == [card["classes"][i] for i in scores.argmax(-1)]
