"""What is measured on a batch that stays the same, when its step has come and the budget allows."""

import time
from collections.abc import Callable

import keras
import tensorflow as tf

from nrm_keras.diagnostics.cost import Schedule
from nrm_keras.diagnostics.deep import Deep
from nrm_keras.diagnostics.drift import Drift
from nrm_keras.diagnostics.places import Places


class FixedBatch:
    """Drift, and the deep measurements.

    Each is due where a multiple of its number of steps has been passed, so that a resumed training is measured where an
    uninterrupted one is. What the model can't do with the batch is said once, and left out from then on.

    Args:
        model, places: see `Drift`.
        probe: what `InternalStatistics` was given.
        say: prints a line.
    """

    def __init__(self, model: keras.Model, places: Places, probe, say: Callable[[str], None]):
        self._model, self._places, self._probe, self._say = model, places, probe, say
        self._drift: Drift | None = None
        self._deep: Deep | None = None
        self._can_be_deep = True
        self._drift_at = self._deep_at = 0
        self._drift_seconds = self._deep_seconds = 0.0

    @property
    def ready(self) -> bool:
        return self._drift is not None

    def restart(self, step: int) -> None:
        """A training begins at this step."""
        self._drift_at = self._deep_at = step

    def begin(self, batch: tuple, step: int) -> list[dict]:
        """Takes the batch, unless there is one, and measures the references."""
        if self._probe is None or self.ready:
            return []
        drift = Drift(self._model, self._places, self._probe, batch)
        try:
            found = drift.measure()
        except Exception as error:
            if not isinstance(self._probe, str):
                raise
            # A train_step of one's own may feed the model with something else than the batch.
            self._give_up("drift, the model does not take the training batch", error, "Pass `probe`.")
            self._probe = None
            return []
        self._drift, self._drift_at = drift, step
        return found

    def is_drift_due(self, step: int, every: int, schedule: Schedule) -> bool:
        return self.ready and step // every > self._drift_at // every and schedule.affords(self._drift_seconds)

    def measure_drift(self, step: int) -> list[dict]:
        began = time.perf_counter()
        found = self._drift.measure()
        self._drift_at, self._drift_seconds = step, time.perf_counter() - began
        return found

    def end_epoch(self, step: int, schedule: Schedule) -> list[dict]:
        """The drift, which is the reference of the next epoch."""
        if not self.ready or not schedule.affords(self._drift_seconds):
            return []
        found = self.measure_drift(step)
        self._drift.end_epoch()
        return found

    def weights_if_due(self, step: int, every: int | None, schedule: Schedule) -> tf.Tensor | None:
        """The weights before a step behind which the deep measurements are due; else None."""
        if not self.is_deep_due(step, every, schedule):
            return None
        if self._deep is None:
            try:
                self._deep = Deep(self._model, self._drift.batch)
            except (TypeError, ValueError) as error:
                self._cannot(error)
                return None
        return self._deep.values()

    def is_deep_due(self, step: int, every: int | None, schedule: Schedule) -> bool:
        """Whether the step that begins now passes a multiple of `every`."""
        if not every or not self.ready or not self._can_be_deep or self._drift.batch[1] is None:
            return False
        return (step + 1) // every > self._deep_at // every and schedule.affords(self._deep_seconds)

    def measure_deeply(self, step: int, before: tf.Tensor, learning_rate: float) -> list[dict]:
        began = time.perf_counter()
        try:
            found = self._deep.measure(before, learning_rate)
        except (TypeError, ValueError) as error:
            self._cannot(error)
            found = []
        self._deep_at, self._deep_seconds = step, time.perf_counter() - began
        return found

    def _cannot(self, error):
        self._give_up("curvature and the like, the model has no loss on the probe batch", error, "")
        self._can_be_deep = False

    def _give_up(self, what, error, advice):
        self._say(f"InternalStatistics: no {what} ({type(error).__name__}). {advice}".rstrip())
