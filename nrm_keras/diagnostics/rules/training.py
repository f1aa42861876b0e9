"""Rules about the loss over time, and about running statistics."""

import keras
import numpy as np

from nrm_keras.diagnostics import records
from nrm_keras.diagnostics.observation import Finding
from nrm_keras.diagnostics.rules.base import Rule, worst_first


class LossNotDecreasing(Rule):
    name = "loss_not_decreasing"
    threshold = 0.03
    patience = 1
    checks = 10
    reason = "The model learns nothing from the data."
    advice = "Try ten times the learning rate and a tenth of it, look whether labels fit their examples, and whether loss and last activation fit."

    def reset(self):
        self._losses = []

    def observe(self, observation):
        if observation.loss is None:
            return
        self._losses.append(observation.loss)
        if len(self._losses) < self.checks:
            return
        begin, late = self._losses[0], float(np.median(self._losses[-5:]))
        gain = (begin - late) / max(abs(begin), 1e-12)
        if gain < self.threshold:
            yield Finding(
                None, gain, f"The loss went from {begin:.4g} to {late:.4g} in {len(self._losses)} observations."
            )


class NoGeneralization(Rule):
    name = "no_generalization"
    threshold = 1.0
    reason = "What is learned does not carry over to other examples."
    advice = "Look whether labels fit their examples and whether both splits are prepared alike; stop earlier, or regularize."

    def reset(self):
        self._start = self._first_loss = None

    def observe(self, observation):
        if self._first_loss is None:
            self._first_loss = observation.loss

    def end_epoch(self, epoch, logs):
        value, train = logs.get("val_loss"), logs.get("loss")
        if value is None or train is None or not self._first_loss or epoch < 2:
            return None
        ratio = value / abs(self._first_loss)
        if ratio <= self.threshold or not np.isfinite(ratio):
            return iter(())
        return iter(
            [
                Finding(
                    None,
                    ratio,
                    f"The validation loss is {value:.4g}, the first training loss was {self._first_loss:.4g}.",
                )
            ]
        )


class Overfitting(Rule):
    name = "overfitting"
    threshold = 1.0
    epoch_patience = 3
    reason = "The model learns its examples by heart."
    advice = "Stop earlier, use augmentation, dropout or weight decay, or a smaller model."

    def end_epoch(self, epoch, logs):
        value, train = logs.get("val_loss"), logs.get("loss")
        if value is None or train is None:
            return None
        self._best = min(getattr(self, "_best", value), value)
        gap = (value - train) / max(abs(train), 1e-12)
        if gap > self.threshold and value > 1.5 * self._best:
            return iter(
                [Finding(None, gap, f"Validation loss {value:.4g} (best {self._best:.4g}), training loss {train:.4g}.")]
            )
        return iter(())

    def reset(self):
        self.__dict__.pop("_best", None)


class RunningStatistics(Rule):
    name = "running_statistics"
    threshold = 1.0
    patience = 5
    reason = "The model answers at inference with other statistics than it trains with."
    advice = (
        "Recalibrate (nrm_keras.recalibrate(model, dataset)), lower `momentum`, train longer, or use "
        "nrm_keras.layers.BatchNormalization, whose running statistics warm up."
    )

    def reset(self):
        self._before, self._last, self._gaps = {}, 0, []

    def observe(self, observation):
        updates = observation.step - observation.first.step
        found, self._gaps = [], []
        for inputs in observation.reading.inputs:
            if not inputs.layer.trainable:
                continue  # frozen on purpose
            mean, variance = records.running_gap(inputs)
            gap = float(np.sqrt(np.mean(np.square(mean) + np.square(variance))))
            finding = Finding(inputs.name, gap, _gap_text(mean, variance))
            if gap > self.threshold and np.isfinite(gap):
                self._gaps.append(finding)
                if self._is_still(inputs) and updates or _initial_share(inputs.layer, updates) < 0.05:
                    found.append(finding)
            self._before[inputs.name] = inputs.moving_mean
        return worst_first(found)

    def end_epoch(self, epoch, logs):
        """Where they still lag behind: only if it shows."""
        value, train = logs.get("val_loss"), logs.get("loss")
        if value is None or train is None or not value > 2 * train:
            return None
        return worst_first(self._gaps)

    def _is_still(self, inputs):
        return np.array_equal(self._before.get(inputs.name), inputs.moving_mean)


def _initial_share(layer, updates):
    """What is left of the initial values after so many updates."""
    momentum = getattr(layer, "momentum", None)
    if not isinstance(momentum, float) or getattr(layer, "warmup", False):
        return 0.0 if updates >= 10 else 1.0
    return momentum**updates


def _gap_text(mean, variance):
    return (
        f"Running means are {np.sqrt(np.mean(mean**2)):.2g} standard deviations from the batch's, variances off by a "
        f"factor of {np.exp(np.sqrt(np.mean(variance**2))):.2g} (root mean squares)."
    )


class SmallBatch(Rule):
    name = "small_batch"
    threshold = 4.0
    patience = 3
    reason = "Statistics of so few examples are mostly noise, and inference has none of it."
    advice = "Use nrm_keras.layers.AdaptiveNormalization or GroupNormalization, or a larger batch."

    def observe(self, observation):
        x = keras.tree.flatten(observation.reading.batch)[0]
        examples = x.shape[0]
        if examples >= self.threshold:
            return
        for inputs in observation.reading.inputs:
            if (
                isinstance(inputs.layer, keras.layers.BatchNormalization)
                or type(inputs.layer).__name__ == "BatchNormalization"
            ):
                yield Finding(inputs.name, examples, f"It normalizes with the statistics of {examples} examples.")
