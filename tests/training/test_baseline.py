"""Baselines on data whose score is known."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from nrm_keras.data.examples import Examples, Split
from nrm_keras.training import baseline


def test_dice_of_masks_that_intensity_tells_but_for_some_positions(monkeypatch):
    """In parts that hold two examples; class 3 is in no test mask and never predicted, so it does not count."""
    monkeypatch.setattr(baseline, "MOST_POSITIONS", 2 * 8 * 8)
    chance = np.random.default_rng(0)
    train, test = np.resize(np.arange(4, dtype="uint8"), (5, 8, 8)), chance.integers(0, 3, (5, 8, 8), "uint8")
    true = np.where(chance.uniform(size=test.shape) < 0.2, 0, test).astype("uint8")
    splits = [Split(masks[..., None] * 50, labels) for masks, labels in ((train, train), (test, true))]
    examples = Examples(("background", "a", "b", "c"), splits[0], splits[0], splits[1], "made up", (8, 8, 1))
    found = baseline.measure(SimpleNamespace(baseline="linear", task="segmentation"), examples, say=lambda line: None)
    expected = f1_score(true.ravel(), test.ravel(), labels=[1, 2], average="macro")
    assert expected < 0.95
    assert found["metrics"]["dice"] == pytest.approx(expected, abs=1e-12)
