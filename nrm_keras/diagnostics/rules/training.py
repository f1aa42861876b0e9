"""Rules about the loss over time, and about running statistics."""

from collections import deque

import keras
import numpy as np

from nrm_keras.diagnostics import records
from nrm_keras.diagnostics.observation import Finding
from nrm_keras.diagnostics.rules.base import Rule, worst_first


class LossNotDecreasing(Rule):
    name = "loss_not_decreasing"
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
        if gain < self.threshold:
            yield Finding(
                None, gain, f"The loss went from {begin:.4g} to {late:.4g} in {len(self._losses)} observations."
            )


class NoBetterThanConstant(Rule):
    name = "no_better_than_constant"
    threshold = 0.98
    reason = "A constant answer does as well."
    advice = "Look whether labels fit their examples, and in the right order; then at the learning rate and the size of the model."

    def reset(self):
        self._constant = Constant()

    def observe(self, observation):
        self._constant.add(observation)

    def end_epoch(self, epoch, logs):
        constant, loss = self._constant.loss(), logs.get("loss")
        if not constant or loss is None or epoch < 2:
            return None
        # who learns by heart does well in training
        value = max(loss, logs.get("val_loss", loss))
        if value <= self.threshold * constant or not np.isfinite(value):
            return iter(())
        which = "training" if value == loss else "validation"
        text = f"After {epoch + 1} epochs the {which} loss is {value:.4g}; the best constant answer has {constant:.4g}."
        return iter([Finding(None, value / constant, text)])


class Constant:
    """The loss of the best constant answer, from the labels seen; None where the loss is not one of the usual."""

    def __init__(self):
        self._labels: list[np.ndarray] = []
        self._kind = None

    def add(self, observation) -> None:
        loss, y = observation.model.loss, keras.utils.unpack_x_y_sample_weight(observation.reading.batch)[1]
        name = getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss
        if isinstance(name, str) and y is not None and not isinstance(y, (dict, list, tuple)):
            self._kind = name.lower().replace("_", "")
            self._labels.append(np.asarray(y))

    def loss(self) -> float | None:
        if not self._labels:
            return None
        labels = np.concatenate([values.reshape(len(values), -1) for values in self._labels]).astype("float64")
        if self._kind == "sparsecategoricalcrossentropy":
            shares = np.unique(labels, return_counts=True)[1] / labels.size
            return float(-np.sum(shares * np.log(shares)))
        if self._kind in ("categoricalcrossentropy", "binarycrossentropy"):
            shares = np.clip(labels.mean(0), 1e-12, 1)
            entropy = -shares * np.log(shares)
            if self._kind.startswith("categorical"):
                return float(entropy.sum())
            others = np.clip(1 - shares, 1e-12, 1)
            return float(np.mean(entropy - others * np.log(others)))
        if self._kind in ("meansquarederror", "mse"):
            return float(np.mean(labels.var(0)))
        return None


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
            if (
                isinstance(inputs.layer, keras.layers.BatchNormalization)
                or type(inputs.layer).__name__ == "BatchNormalization"
            ):
                yield Finding(inputs.name, examples, f"It normalizes with the statistics of {examples} examples.")
