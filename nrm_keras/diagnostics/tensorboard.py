"""Scalars and histograms for TensorBoard, where that is installed."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics.readings import Reading

BINS = 30


class TensorBoardLog:
    """Writes what a probed step shows as events: each number under `kind/layer/number`, and histograms.

    All of a step is one event: `tf.summary.scalar` takes longer for a thousand numbers than the step itself.

    Args:
        directory: for the events; None, or where TensorBoard is not installed: nothing is written.
    """

    def __init__(self, directory: str | Path | None):
        usable = directory is not None and importlib.util.find_spec("tensorboard") is not None
        self._writer = tf.summary.create_file_writer(str(directory)) if usable else None

    def write(self, step: int, records: list[dict]) -> None:
        """The records' numbers."""
        if self._writer is not None:
            self._write(step, (value for record in records for value in _scalars(record)))

    def write_histograms(self, step: int, reading: Reading) -> None:
        """Of the activations' samples, and of all values of gammas, betas, biases and gates."""
        if self._writer is not None:
            samples = {f"activation/{a.layer}": a.sample for a in reading.activations}
            samples |= {f"weight/{w.variable.path}": w.values for w in reading.weights if w.values is not None}
            self._write(step, (_histogram(tag, sample) for tag, sample in samples.items()))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, step: int, values: Iterable[tf.compat.v1.Summary.Value]) -> None:
        summary = tf.compat.v1.Summary(value=list(values))
        with self._writer.as_default():
            tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)
        self._writer.flush()


def _scalars(record):
    place = "/".join(str(record[key]) for key in ("kind", "layer", "reference") if key in record)
    for key, value in record.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield tf.compat.v1.Summary.Value(tag=f"{place}/{key}", simple_value=value)


def _histogram(tag, sample):
    finite = sample[np.isfinite(sample)]
    counts, edges = np.histogram(finite, BINS) if finite.size else (np.zeros(1), np.zeros(2))
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    sums = {"num": finite.size, "sum": finite.sum(), "sum_squares": np.square(finite).sum()}
    histogram = tf.compat.v1.HistogramProto(min=low, max=high, **sums, bucket_limit=edges[1:], bucket=counts)
    return tf.compat.v1.Summary.Value(tag=tag, histo=histogram)
