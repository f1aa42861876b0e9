"""What the kept weights get right and wrong, class by class, with pictures of the worst mistakes."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.data.examples import Examples, Split
from nrm_keras.data.pipelines import Batches
from nrm_keras.report.evaluation import MOST_BYTES, MOST_PICTURES
from nrm_keras.runs import directory

MOST_CLASSES = 1000  # a matrix of more would be the largest file of the run, and nobody could read it
PICTURE_SIDES = (256, 180)  # 180 * 180 * 3 bytes always fit into a picture's limit


@dataclass(frozen=True)
class Answers:
    """The model's answers to the examples `index` of a split; all are vectors of the same length."""

    index: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    loss: np.ndarray


def write(path: Path, model: keras.Model, examples: Examples, batch_size: int) -> None:
    """Measures the test split, or validation where there is none, and writes `evaluation.json` and `examples/`.

    `confusion[i][j]` counts the examples of class i that the model takes for class j. Examples whose logits are not
    finite are `unanswered` and not in it. Without both splits, or with more than 1,000 classes, nothing is written.

    Args:
        path: the run directory; what an earlier evaluation left there is removed.
        model: from raw inputs to logits. It stays as it is.
        examples: the run's data.
        batch_size: of inference.
    """
    (path / directory.EVALUATION).unlink(missing_ok=True)
    shutil.rmtree(path / directory.EXAMPLES, ignore_errors=True)
    name = next((name for name in ("test", "validation") if len(getattr(examples, name))), None)
    if name is None or len(examples.classes) > MOST_CLASSES:
        return
    split = getattr(examples, name)
    answers = _answers(model, split, Batches(split, batch_size, decode=examples.decode)(0))
    confusion = np.zeros([len(examples.classes)] * 2, "int64")
    np.add.at(confusion, (answers.true, answers.predicted), 1)
    content = {
        "version": 1,
        "split": name,
        "classes": list(examples.classes),
        "confusion": confusion.tolist(),
        "loss_per_class": _loss_per_class(answers, len(examples.classes)),
        "unanswered": len(split) - len(answers.index),
        "examples": _worst(path, answers, split, examples),
    }
    directory.write_text(path / directory.EVALUATION, json.dumps(content, allow_nan=False) + "\n")


def _answers(model: keras.Model, split: Split, batches: tf.data.Dataset) -> Answers:
    """One pass over the split, without XLA, whose compilation would cost more than the pass."""
    from scipy.special import log_softmax

    logits_of = tf.function(lambda inputs: model(inputs, training=False), input_signature=[batches.element_spec[0]])
    parts, seen = [], 0
    for inputs, labels in batches:
        logits = logits_of(inputs).numpy().astype("float64")
        (rows,) = np.isfinite(logits).all(1).nonzero()
        true = labels.numpy()[rows]
        logs = log_softmax(logits[rows], axis=1)
        predicted = logs.argmax(1)
        each = np.arange(len(rows))
        parts.append((seen + rows, true, predicted, np.exp(logs[each, predicted]), -logs[each, true]))
        seen += len(logits)
    return Answers(*map(np.concatenate, zip(*parts, strict=True)))


def _loss_per_class(answers: Answers, classes: int) -> list[float | None]:
    """Mean cross entropy of each class; None where it has no examples."""
    counts = np.bincount(answers.true, minlength=classes)
    sums = np.bincount(answers.true, answers.loss, minlength=classes)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def _worst(path: Path, answers: Answers, split: Split, examples: Examples) -> list[dict]:
    """The most confidently wrong examples, as pictures; none where the inputs are no images of 1 or 3 channels."""
    (wrong,) = (answers.predicted != answers.true).nonzero()
    if len(examples.shape) != 3 or examples.shape[-1] not in (1, 3) or not len(wrong):
        return []
    worst = wrong[np.argsort(-answers.probability[wrong], kind="stable")][:MOST_PICTURES]
    inputs = split.inputs[answers.index[worst]]
    if examples.decode is not None:
        inputs = np.stack([examples.decode(one).numpy() for one in inputs])
    (path / directory.EXAMPLES).mkdir()
    listed = []
    for number, (row, pixels) in enumerate(zip(worst, _as_bytes(inputs), strict=True), start=1):
        file = f"{directory.EXAMPLES}/{number:04}.png"
        (path / file).write_bytes(_png(pixels))
        true, predicted = (examples.classes[label[row]] for label in (answers.true, answers.predicted))
        listed.append(
            {"image": file, "true": true, "predicted": predicted, "probability": float(answers.probability[row])}
        )
    return listed


def _as_bytes(images: np.ndarray) -> np.ndarray:
    """Pixels from 0 to 255 as they are; of any other range, such as 0 to 1, from black at its end to white."""
    low, high = min(0.0, float(images.min())), float(images.max())
    if low < 0 or not 16 < high <= 255:
        images = (images.astype("float64") - low) * (255 / ((high - low) or 1))
    return np.rint(images).astype("uint8")


def _png(pixels: np.ndarray) -> bytes:
    """The picture, made smaller where it has too many pixels or bytes for a page, and never larger."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    for side in PICTURE_SIDES:
        image.thumbnail((side, side))
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        if file.tell() <= MOST_BYTES:
            break
    return file.getvalue()
