"""What a task trains and measures with: its loss and its metrics by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="nrm_keras")
class DiceCrossEntropy(keras.losses.Loss):
    """Cross entropy plus soft Dice loss, each example's mean over its positions (Isensee et al. 2021, nnU-Net).

    `loss = mean over positions of -log p[true] + 1 - mean over foreground classes of (2 sum p t + 1) / (sum p + sum t + 1)`
    with p = softmax(logits) and t one-hot, sums over an example's positions. Class 0 is the background. The 1 keeps an
    example without a class from counting as wholly wrong for a single position. Call with integer labels
    `(batch, *positions)` and logits `(batch, *positions, classes)`; gives one value per example, in float32.
    """

    def __init__(self, reduction="sum_over_batch_size", name="dice_cross_entropy", **kwargs):
        super().__init__(reduction=reduction, name=name, **kwargs)

    def call(self, y_true, y_pred):
        logits = ops.cast(y_pred, "float32")
        true = ops.one_hot(ops.cast(y_true, "int32"), logits.shape[-1], dtype="float32")
        positions = tuple(range(1, len(logits.shape) - 1))
        entropy = -ops.mean(ops.sum(true * ops.log_softmax(logits), -1), positions)
        probability = ops.softmax(logits)
        both = ops.sum(probability * true, positions)[:, 1:]
        either = ops.sum(probability + true, positions)[:, 1:]
        return entropy + 1 - ops.mean((2 * both + 1) / (either + 1), -1)


@keras.saving.register_keras_serializable(package="nrm_keras")
class Dice(keras.metrics.IoU):
    """Mean over the foreground classes of `2 |true and predicted| / (|true| + |predicted|)`, over all positions together.

    A class that is neither in the masks nor predicted is left out. Takes labels and logits as `keras.metrics.IoU` does
    with `sparse_y_pred=False`.

    Args:
        num_classes: the background, class 0, included.
    """

    def __init__(self, num_classes, name="dice", dtype="int64"):
        super().__init__(num_classes, range(1, num_classes), name=name, dtype=dtype, sparse_y_pred=False)

    def result(self):
        counts = ops.cast(self.total_cm, "float32")
        total = (ops.sum(counts, 0) + ops.sum(counts, 1))[1:]
        there = ops.cast(total > 0, "float32")
        dice = 2 * ops.diagonal(counts)[1:] / ops.maximum(total, 1)
        return ops.sum(there * dice) / ops.maximum(ops.sum(there), 1)

    def get_config(self):
        return {"num_classes": self.num_classes, "name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="nrm_keras")
class Auroc(keras.metrics.AUC):
    """Area under the ROC curve of each class against the others, their mean; from integer labels and logits.

    A class that has no examples, or all of them, has no such area and is left out; NaN where that is every class.

    Keras adds up trapezoids between even thresholds. A network's probabilities crowd at 0 and 1, or all around the
    middle, so each is replaced by `(1 + z / (1 + |z|)) / 2` of its log odds z: scores count as equal only where their z
    differ by less than about `2e-4 (1 + |z|)^2`.

    Args:
        num_classes: how many classes there are.
    """

    def __init__(self, num_classes, name="auroc", dtype=None):
        super().__init__(10_000, multi_label=True, num_labels=num_classes, name=name, dtype=dtype)
        self.num_classes = num_classes

    def update_state(self, y_true, y_pred, sample_weight=None):
        true = ops.one_hot(ops.cast(ops.reshape(y_true, (-1,)), "int32"), self.num_classes)
        score = (1 + ops.softsign(_log_odds(ops.cast(y_pred, "float32")))) / 2
        super().update_state(true, score, sample_weight)

    def result(self):
        true_positive_rate = ops.divide_no_nan(self.true_positives, self.true_positives + self.false_negatives)
        false_positive_rate = ops.divide_no_nan(self.false_positives, self.false_positives + self.true_negatives)
        heights = (true_positive_rate[:-1] + true_positive_rate[1:]) / 2
        areas = ops.sum((false_positive_rate[:-1] - false_positive_rate[1:]) * heights, 0)
        # the first threshold is below every score
        defined = ops.cast((self.true_positives[0] > 0) & (self.false_positives[0] > 0), areas.dtype)
        return ops.sum(areas * defined) / ops.sum(defined)

    def get_config(self):
        return {"num_classes": self.num_classes, "name": self.name, "dtype": self.dtype}


def _log_odds(logits):
    """`log p - log(1 - p)` of each class, also where p is 1 in float32."""
    log_p = ops.log_softmax(logits)
    largest = ops.one_hot(ops.argmax(logits, -1), logits.shape[-1]) > 0
    others = ops.logsumexp(ops.where(largest, -np.inf, log_p), -1, keepdims=True)
    return log_p - ops.where(largest, others, ops.log1p(-ops.minimum(ops.exp(log_p), 0.5)))


@dataclass(frozen=True)
class Task:
    """Loss and metrics; a metric is made for a number of classes (of targets, in regression)."""

    loss: Callable[[], keras.losses.Loss]
    metrics: dict[str, Callable[[int], keras.metrics.Metric]]


TASKS = {
    "classification": Task(
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        {
            "accuracy": lambda classes: keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            "top_5_accuracy": lambda classes: keras.metrics.SparseTopKCategoricalAccuracy(5, name="top_5_accuracy"),
            "auroc": Auroc,
        },
    ),
    "segmentation": Task(
        DiceCrossEntropy,
        {
            "accuracy": lambda classes: keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            "dice": Dice,
            "iou": lambda classes: keras.metrics.IoU(
                classes, range(1, classes), name="iou", dtype="int64", sparse_y_pred=False
            ),
        },
    ),
    "regression": Task(
        keras.losses.MeanSquaredError,
        {
            "rmse": lambda targets: keras.metrics.RootMeanSquaredError(name="rmse"),
            "mae": lambda targets: keras.metrics.MeanAbsoluteError(name="mae"),
            "r2": lambda targets: keras.metrics.R2Score(name="r2"),
        },
    ),
}
