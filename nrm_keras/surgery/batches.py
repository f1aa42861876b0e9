"""The data sets one can recalibrate on, as batches."""

import itertools
import warnings
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf


class Batches:
    """Batches (x, y, sample_weight) of whatever `fit` takes; y and sample_weight are None where there are none.

    Arrays come in a fixed random order: sorted by class, each batch would have statistics of its own.
    """

    def __init__(self, dataset, steps: int | None, batch_size: int):
        if steps is not None and (not isinstance(steps, int) or steps < 1):
            raise ValueError(f"`steps` must be a positive integer. Received: {steps!r}. None means all batches.")
        self._open, available = _opener(dataset, batch_size)
        self.repeatable = not hasattr(dataset, "__next__")
        if available is not None and available == np.inf and steps is None:
            raise ValueError(
                "`steps` is needed to know when to stop. "
                f"Received: {type(dataset).__name__} that never ends, and steps=None. Pass a number of batches."
            )
        known = [number for number in (available, steps) if number is not None]
        self.total = int(min(known)) if known else None
        self._dataset, self._steps = dataset, steps

    def __iter__(self) -> Iterator[tuple]:
        for batch in itertools.islice(self._open(), self._steps):
            yield keras.utils.unpack_x_y_sample_weight(batch)

    def evaluate(self, model: keras.Model) -> dict[str, float] | None:
        """Loss and metrics of a compiled model; None where there are no labels, or only one pass over the data."""
        if not self.repeatable or not self._labelled():
            return None
        arguments = {"verbose": 0, "return_dict": True}
        if isinstance(self._dataset, (tf.data.Dataset, keras.utils.PyDataset)):
            arguments |= {"x": self._dataset, "steps": self._steps}
        else:
            arguments |= {"x": (keras.utils.pack_x_y_sample_weight(*batch) for batch in self)}
        with warnings.catch_warnings():
            # Keras counts batches as it goes, and takes the end of those for an accident.
            warnings.filterwarnings("ignore", "Your input ran out of data")
            logs = model.evaluate(**arguments)
        model.reset_metrics()
        return {name: float(value) for name, value in logs.items()}

    def _labelled(self):
        return any(y is not None for _, y, _ in itertools.islice(self, 1))


def examples(x) -> int:
    """How many examples a batch has."""
    return int(keras.tree.flatten(x)[0].shape[0])


def _opener(dataset, batch_size):
    """(a function that starts over, the number of batches: infinite, or None if unknown)."""
    if isinstance(dataset, tf.data.Dataset):
        return lambda: iter(dataset), _cardinality(dataset)
    if isinstance(dataset, keras.utils.PyDataset):
        number = dataset.num_batches
        indices = itertools.count if number is None else lambda: range(number)
        return lambda: (dataset[i] for i in indices()), np.inf if number is None else number
    if isinstance(dataset, (tuple, list, dict, np.ndarray, tf.Tensor)):
        return _slices(dataset, batch_size)
    if hasattr(dataset, "__iter__"):
        return lambda: iter(dataset), None
    raise TypeError(
        "`dataset` must be a tf.data.Dataset, a keras.utils.PyDataset, a generator of batches, or arrays: x, (x, y) or "
        f"(x, y, sample_weight). Received: {type(dataset).__name__}. Pass one of them."
    )


def _cardinality(dataset):
    number = int(dataset.cardinality())
    if number == tf.data.INFINITE_CARDINALITY:
        return np.inf
    return number if number >= 0 else None


def _slices(data, batch_size):
    data = keras.tree.map_structure(lambda a: a if a is None else np.asarray(a), data)
    lengths = {len(array) for array in keras.tree.flatten(data) if array is not None}
    if len(lengths) != 1:
        raise ValueError(
            f"Arrays must have the same number of examples. Received: {sorted(lengths)}. "
            "Several inputs of a model go into one list or dictionary: ([x1, x2], y)."
        )
    order = np.random.default_rng(0).permutation(lengths.pop())

    def batches():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield keras.tree.map_structure(lambda a, chosen=chosen: a if a is None else a[chosen], data)

    return batches, -(-len(order) // batch_size)
