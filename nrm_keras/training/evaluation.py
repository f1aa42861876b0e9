"""What the kept weights get right and wrong, class by class, with pictures of the worst mistakes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.data.examples import Examples, Split, limited
from nrm_keras.data.pipelines import Batches
from nrm_keras.report.evaluation import MOST_PICTURES
from nrm_keras.report.regression import MOST_POINTS
from nrm_keras.runs import directory
from nrm_keras.training import masks, pictures

MOST_CLASSES = 1000  # a matrix of more would be the largest file of the run, and nobody could read it


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

    `confusion[i][j]` counts the examples (of masks the positions) of class i that the model takes for class j. Those
    whose logits are not finite are `unanswered` and not in it. Of a regression `true` and `predicted` are listed, of at
    most 2,000 random examples. Without both splits, or with more than 1,000 classes, nothing is written.

    Args:
        path: the run directory; what an earlier evaluation left there is removed.
        model: from encoded inputs to logits. It stays as it is.
        examples: the run's data.
        batch_size: of inference.
    """
    (path / directory.EVALUATION).unlink(missing_ok=True)
    shutil.rmtree(path / directory.EXAMPLES, ignore_errors=True)
    name = next((name for name in ("test", "validation") if len(getattr(examples, name))), None)
    if name is None or len(examples.classes) > MOST_CLASSES:
        return
    split = getattr(examples, name)
    domains = isinstance(model.input, dict)
    batches = Batches(split, batch_size, decode=examples.decode, encode=examples.encode, domains=domains)(0)
    measure = {"classification": _measure, "segmentation": masks.measure, "regression": _predictions}[examples.task]
    content = {"version": 1, "split": name, **measure(path, answering(model, batches), batches, split, examples)}
    directory.write_text(path / directory.EVALUATION, json.dumps(content, allow_nan=False) + "\n")


def answering(model: keras.Model, batches: tf.data.Dataset):
    """The model as one function from the inputs of a batch to logits (float64, NumPy), without XLA, whose compilation
    would cost more than the pass."""
    signature = [batches.element_spec[0]]
    # as Keras traces a model: AutoGraph would read all of its code for nothing
    logits_of = tf.function(lambda inputs: model(inputs, training=False), input_signature=signature, autograph=False)
    return lambda inputs: logits_of(inputs).numpy().astype("float64")


def _measure(path: Path, logits_of, batches: tf.data.Dataset, split: Split, examples: Examples) -> dict:
    answers, count = _answers(logits_of, batches), len(examples.classes)
    confusion = np.bincount(answers.true * count + answers.predicted, minlength=count * count).reshape(count, count)
    return {
        "classes": list(examples.classes),
        "confusion": confusion.tolist(),
        "loss_per_class": _loss_per_class(answers, count),
        "unanswered": len(split) - len(answers.index),
        "examples": _worst(path, answers, split, examples),
    }


def _answers(logits_of, batches: tf.data.Dataset) -> Answers:
    from scipy.special import log_softmax

    parts, seen = [], 0
    for inputs, labels in batches:
        logits = logits_of(inputs)
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


def _predictions(path: Path, outputs_of, batches: tf.data.Dataset, split: Split, examples: Examples) -> dict:
    predicted = np.concatenate([outputs_of(inputs) for inputs, _ in batches])
    some = limited(Split(predicted, split.labels), MOST_POINTS)
    (rows,) = np.isfinite(some.inputs).all(1).nonzero()
    return {
        "targets": list(examples.targets),
        "true": some.labels[rows].tolist(),
        "predicted": some.inputs[rows].tolist(),
        "unanswered": int((~np.isfinite(predicted).all(1)).sum()),
    }


def _worst(path: Path, answers: Answers, split: Split, examples: Examples) -> list[dict]:
    """The most confidently wrong examples, as pictures; none where the inputs are no images."""
    (wrong,) = (answers.predicted != answers.true).nonzero()
    if not pictures.can_show(examples.shape) or not len(wrong):
        return []
    worst = wrong[np.argsort(-answers.probability[wrong], kind="stable")][:MOST_PICTURES]
    inputs = split.inputs[answers.index[worst]]
    if examples.decode is not None:
        inputs = np.stack([examples.decode(one).numpy() for one in inputs])
    return [
        {
            "image": pictures.save(path, f"{number:04}", pixels),
            "true": examples.classes[answers.true[row]],
            "predicted": examples.classes[answers.predicted[row]],
            "probability": float(answers.probability[row]),
        }
        for number, (row, pixels) in enumerate(zip(worst, pictures.as_bytes(inputs), strict=True), start=1)
    ]
