"""A run directory as an object. Reading it needs no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nrm_keras.runs import directory
from nrm_keras.runs.metrics import read_metrics


@dataclass(frozen=True)
class Run:
    """What one training left behind.

    Args:
        path: the run directory.

    Example:

        run = nrm_keras.run("images/digits_adaptive", {"train.epochs": 3})
        run.summary["metrics"]["test"]["accuracy"]
        model = run.load()
    """

    path: Path

    @property
    def summary(self) -> dict | None:
        """The content of `summary.json`; None while the run is unfinished."""
        return directory.summary(self.path)

    @property
    def metrics(self) -> dict[str, list[float]]:
        """The columns of `metrics.csv`, one value per epoch."""
        return read_metrics(self.path)

    def load(self):
        """The trained model; see `nrm_keras.load`."""
        from nrm_keras.training.saved import load

        return load(self.path)
