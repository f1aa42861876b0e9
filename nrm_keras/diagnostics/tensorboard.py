"""Scalars and histograms for TensorBoard, where that is installed."""

import contextlib
import importlib.util
from pathlib import Path

import tensorflow as tf

from nrm_keras.diagnostics.readings import Reading


class TensorBoardLog:
    """Writes what a probed step shows as events: each number under `kind/layer/number`, and histograms.

    Args:
        directory: for the events; None, or where TensorBoard is not installed: nothing is written.
    """

    def __init__(self, directory: str | Path | None):
        usable = directory is not None and importlib.util.find_spec("tensorboard") is not None
        self._writer = tf.summary.create_file_writer(str(directory)) if usable else None

    def write(self, step: int, records: list[dict]) -> None:
        """The records' numbers."""
        with self._writing(step) as on:
            for record in records if on else ():
                place = "/".join(str(record[key]) for key in ("kind", "layer", "reference") if key in record)
                for key, value in record.items():
                    if isinstance(value, (int, float)) and not isinstance(value, bool):
                        tf.summary.scalar(f"{place}/{key}", value)

    def write_histograms(self, step: int, reading: Reading) -> None:
        """Of the activations' samples, and of all values of gammas, betas, biases and gates."""
        with self._writing(step) as on:
            for activation in reading.activations if on else ():
                tf.summary.histogram(f"activation/{activation.layer}", activation.sample)
            for weight in reading.weights if on else ():
                if weight.values is not None:
                    tf.summary.histogram(f"weight/{weight.variable.path}", weight.values)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    @contextlib.contextmanager
    def _writing(self, step):
        if self._writer is None:
            yield False
            return
        with self._writer.as_default(step=step):
            yield True
        self._writer.flush()
