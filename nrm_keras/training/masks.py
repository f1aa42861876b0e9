"""What a segmentation model gets right and wrong: positions by class, and the examples with the worst overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from nrm_keras.data.examples import Examples, Split
from nrm_keras.report.evaluation import MOST_PICTURES
from nrm_keras.training import pictures


def measure(path: Path, logits_of, batches: tf.data.Dataset, split: Split, examples: Examples) -> dict:
    """Counts positions, and keeps pictures of the examples whose foreground the prediction overlaps least.

    Args:
        path: the run directory.
        logits_of: from inputs of a batch to logits `(batch, *positions, classes)`.
        batches: the split, in its order.
    """
    from scipy.special import log_softmax

    count = len(examples.classes)
    confusion, losses, unanswered, overlaps = np.zeros(count * count, "int64"), np.zeros(count), 0, []
    for inputs, labels in batches:
        logits, true = logits_of(inputs), labels.numpy()
        finite = np.isfinite(logits).all(-1)
        predicted = logits.argmax(-1)
        overlaps.append(_overlap(true, predicted))
        unanswered += int((~finite).sum())
        confusion += np.bincount(true[finite] * count + predicted[finite], minlength=count * count)
        logs = log_softmax(logits[finite], -1)
        loss = -np.take_along_axis(logs, true[finite][:, None], -1)[:, 0]
        losses += np.bincount(true[finite], loss, minlength=count)
    confusion = confusion.reshape(count, count)
    return {
        "classes": list(examples.classes),
        "unit": "pixels" if len(examples.shape) == 3 else "voxels",
        "confusion": confusion.tolist(),
        "loss_per_class": [float(loss / n) if n else None for loss, n in zip(losses, confusion.sum(1), strict=True)],
        "unanswered": unanswered,
        "examples": _worst(path, logits_of, np.concatenate(overlaps), split, examples),
    }


def _overlap(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Dice of each example: of the positions that are foreground, in either, the share that both give the same class."""
    positions = tuple(range(1, true.ndim))
    both = ((true == predicted) & (true > 0)).sum(positions)
    either = (true > 0).sum(positions) + (predicted > 0).sum(positions)
    return np.where(either > 0, 2 * both / np.maximum(either, 1), 1.0)


def _worst(path: Path, logits_of, overlaps: np.ndarray, split: Split, examples: Examples) -> list[dict]:
    """Image, mask and prediction of the examples with the least overlap; of a volume the slice with the most foreground."""
    *_, channels = examples.shape
    if channels not in (1, 3) or examples.decode is not None:
        return []
    listed = []
    for number, row in enumerate(np.argsort(overlaps, kind="stable")[:MOST_PICTURES], start=1):
        image = np.asarray(split.inputs[row : row + 1])
        true = np.asarray(split.labels[row])
        predicted = logits_of(tf.constant(image, "float32"))[0].argmax(-1)
        image = image[0]
        if true.ndim == 3:
            middle = (true > 0).sum((1, 2)).argmax()
            image, true, predicted = image[middle], true[middle], predicted[middle]
        grey = 255 // (len(examples.classes) - 1)
        masks = ((mask[..., None] * grey).astype("uint8") for mask in (true, predicted))
        names = ("mask", "predicted_mask")
        listed.append(
            {
                "image": pictures.save(path, f"{number:04}", pictures.as_bytes(image)),
                **{
                    name: pictures.save(path, f"{number:04}_{name}", mask)
                    for name, mask in zip(names, masks, strict=True)
                },
                "caption": f"Dice {overlaps[row]:.3f}",
            }
        )
    return listed
