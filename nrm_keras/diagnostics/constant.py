"""What the best constant answer would cost, to hold a loss against."""

import collections

import keras
import numpy as np


def loss_name(model: keras.Model) -> str:
    """The compiled loss's name without underscores, such as "meansquarederror"; "" if there is none, or several."""
    loss = keras.losses.get(model.loss) if isinstance(model.loss, str) else model.loss
    name = getattr(loss, "name", None) or getattr(loss, "__name__", "")
    return name.lower().replace("_", "") if isinstance(name, str) else ""


class Constant:
    """The mean loss of the best constant answer, from the labels seen; None where the loss is none of the usual.

    What is added to the loss, or weighs it, makes it another one.
    """

    def __init__(self, model: keras.Model):
        loss = model.loss
        mean = getattr(loss, "reduction", "sum_over_batch_size") in ("sum_over_batch_size", "mean")
        self._name = loss_name(model) if mean and not model.losses else ""
        self._counts: collections.Counter = collections.Counter()
        self._sums = np.zeros(3)  # of ones, labels and squares of labels

    def add(self, batch: tuple) -> None:
        """Counts the labels of a batch (x, y, sample_weight)."""
        _, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        if y is None or isinstance(y, (dict, list, tuple)) or weight is not None:
            self._name = ""
        if self._name == "sparsecategoricalcrossentropy":
            self._counts.update(dict(zip(*np.unique(np.asarray(y), return_counts=True), strict=True)))
        elif self._name in ("meansquarederror", "binarycrossentropy"):
            values = np.asarray(y, "float64")
            self._sums += (values.size, values.sum(), np.square(values).sum())

    def loss(self) -> float | None:
        """Entropy or variance of the labels so far."""
        if not self._name:
            return None
        if self._name == "sparsecategoricalcrossentropy":
            shares = np.array(list(self._counts.values())) / sum(self._counts.values())
            return float(-np.sum(shares * np.log(shares)))
        number, total, squares = self._sums
        if not number:
            return None
        if self._name == "meansquarederror":
            return float(squares / number - (total / number) ** 2)
        shares = np.array([total / number, 1 - total / number])
        return float(-np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
