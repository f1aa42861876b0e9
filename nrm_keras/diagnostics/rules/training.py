"""Rules about the loss over time, and about running statistics."""

from collections import deque

import keras
import numpy as np

from nrm_keras import layers
from nrm_keras.diagnostics import records
from nrm_keras.diagnostics.observation import Finding
from nrm_keras.diagnostics.rules.base import Rule, worst_first

BATCH_NORMALIZERS = (keras.layers.BatchNormalization, layers.BatchNormalization)


class LossNotDecreasing(Rule):
    name = "loss_not_decreasing"
    of_new_trainings = True
    threshold = 0.03
    steps = 40
    reason = "The model learns nothing from the data."
    advice = "Try ten times the learning rate and a tenth of it, look whether labels fit their examples, and whether loss and last activation fit."

    def reset(self):
        self._losses = []

    def observe(self, observation):
        if observation.loss is None:
            return
        self._losses.append(observation.loss)
        if len(self._losses) < 10 or observation.step - observation.first.step < self.steps:
            return
        begin, late = self._losses[0], float(np.median(self._losses[-5:]))
        gain = (begin - late) / max(abs(begin), 1e-12)
        constant = observation.first.constant.loss()
        if gain < self.threshold and not (constant and late < 0.9 * constant):  # it may have learned before
            yield Finding(
                None, gain, f"The loss went from {begin:.4g} to {late:.4g} in {len(self._losses)} observations."
            )


class NoBetterThanConstant(Rule):
    name = "no_better_than_constant"
    threshold = 0.98
    reason = "A constant answer does as well."
    advice = "Look whether labels fit their examples, and in the right order; then at the learning rate and the size of the model."

    def reset(self):
        self._constant, self._best = None, np.inf

    def observe(self, observation):
        self._constant = observation.first.constant

    def end_epoch(self, epoch, logs):
        loss, validation = logs.get("loss"), logs.get("val_loss")
        if loss is None:
            return None
        # one that was better once has learned something, whatever came of it
        self._best = min(self._best, np.inf if validation is None else validation)
        constant = self._constant.loss() if self._constant and epoch >= 2 else None
        if not constant:
            return None
        # who learns by heart does well in training
        value = max(loss, loss if validation is None else self._best)
        if value <= self.threshold * constant or not np.isfinite(value):
            return iter(())
        which = "training loss is" if value == loss else "best validation loss was"
        text = f"After {epoch + 1} epochs the {which} {value:.4g}; the best constant answer has {constant:.4g}."
        return iter([Finding(None, value / constant, text)])


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
        self._batches, self._before, self._gaps = {}, {}, []

    def observe(self, observation):
        updates = observation.step - observation.first.step
        examples = keras.tree.flatten(observation.reading.batch)[0].shape[0]
        found, self._gaps = [], []
        for inputs in observation.reading.inputs:
            if not inputs.layer.trainable:
                continue  # frozen on purpose
            # against several batches, as one of few examples is noise
            recent = self._batches.setdefault(inputs.name, deque(maxlen=self.patience))
            recent.append((inputs.mean, inputs.variance))
            mean, variance = records.running_gap(inputs, *np.mean(recent, 0))
            gap = float(np.sqrt(np.mean(np.square(mean) + np.square(variance))))
            finding = Finding(inputs.name, gap, _gap_text(mean, variance))
            if np.isfinite(gap) and gap > self.threshold + _noise(examples * len(recent)):
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


def _noise(examples):
    """What the gap of so many independent examples' statistics is by chance, if they are Gaussian."""
    return (3 / max(examples - 1, 1)) ** 0.5


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
            # a frozen one uses its running statistics
            if inputs.layer.trainable and isinstance(inputs.layer, BATCH_NORMALIZERS):
                yield Finding(inputs.name, examples, f"It normalizes with the statistics of {examples} examples.")
