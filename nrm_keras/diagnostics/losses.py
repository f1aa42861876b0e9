"""The loss of each step, from what `fit` tells its callbacks."""

import math
import statistics
from collections import deque

import keras


class Losses:
    """The loss of each step of an epoch, from what `fit` reports: a running mean, or what a train_step of one's own says."""

    def __init__(self, model: keras.Model):
        self._model, self._is_mean = model, None
        self._steps, self._sum = 0, 0.0
        self._last: deque = deque(maxlen=20)

    def add(self, steps: int, logs: dict | None) -> float | None:
        """The mean loss of the steps since the last call; None where the train_step reports none."""
        if not logs or "loss" not in logs:
            return None
        if self._is_mean is None:
            self._is_mean = self._reports_mean(float(logs["loss"]))
        total = float(logs["loss"]) * steps
        loss = (total - self._sum) / max(steps - self._steps, 1) if self._is_mean else float(logs["loss"])
        self._steps, self._sum = steps, total
        self._last.append(loss)
        return loss

    def _reports_mean(self, loss):
        results = [float(metric.result()) for metric in self._model.metrics if metric.name == "loss"]
        return any(math.isnan(result) or math.isclose(result, loss, rel_tol=1e-4) for result in results)

    def leaps(self) -> bool:
        """Whether the last loss is far above those before."""
        *before, last = self._last
        return len(before) >= 3 and last > 3 * statistics.median(before) > 0
