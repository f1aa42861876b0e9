"""The highest learning rate with which a training goes well."""

from __future__ import annotations

import itertools
import math

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.studies.probes.trained import Trained
from nrm_keras.training import optimizers


def measure(
    trained: Trained, steps: int, start: float, factor: float, lowest: float, highest: float, optimizer: str
) -> dict[str, float]:
    """The highest stable rate on the grid `start * factor^k`, found from `start` on: upward until one is not stable, or,
    where `start` is not, downward until one is.

    Rule: a rate is stable if every loss of `steps` steps on the recipe's batches, from the initial weights, is finite, and
    the mean of the last quarter is below both the first loss and that of the best constant answer to these batches:
    a network whose units all died gives a constant answer, and its loss does not grow.

    `at_limit` is 1 where the next rate would be above `highest`; where none is stable down to `lowest`, rate is NaN.
    """
    training = Training(trained, steps, optimizer)
    rate, at_limit = search(training.is_stable, start, factor, lowest, highest)
    return {"rate": rate, "log2_rate": math.log2(rate), "at_limit": at_limit}


def search(is_stable, start: float, factor: float, lowest: float, highest: float) -> tuple[float, bool]:
    """(rate, whether the limit was reached), see `measure`."""
    if not is_stable(start):
        lower = (start / factor**k for k in itertools.count(1))
        tried = itertools.takewhile(lambda rate: rate >= lowest, lower)
        return next((rate for rate in tried if is_stable(rate)), math.nan), False
    for k in itertools.count(1):
        rate = start * factor**k
        if rate > highest:
            return start * factor ** (k - 1), True
        if not is_stable(rate):
            return start * factor ** (k - 1), False


class Training:
    """So many steps of a fresh model at any rate, traced once."""

    def __init__(self, trained: Trained, steps: int, optimizer: str):
        self._model = model = trained.fresh_model()
        self._batches = list(itertools.islice(_batches(trained), steps))
        self._optimizer = _optimizer(trained, model, optimizer)
        self._optimizer.build(model.trainable_variables)
        self._state = [*model.variables, *self._optimizer.variables]
        self._initial = [tf.identity(v.value) for v in self._state]
        self._step = tf.function(self._make_step, autograph=False, reduce_retracing=True)
        self._constant = _constant_loss(trained, model, self._batches)

    def is_stable(self, rate: float) -> bool:
        losses = self.losses(rate)
        last = losses[-(len(self._batches) // 4) :]
        return bool(np.isfinite(losses).all() and np.mean(last) < min(losses[0], self._constant))

    def losses(self, rate: float) -> np.ndarray:
        """The loss of each step; up to the first that is not finite."""
        for variable, value in zip(self._state, self._initial, strict=True):
            variable.assign(value)
        self._optimizer.learning_rate = rate
        found = []
        for batch in self._batches:
            found.append(float(self._step(*batch)))
            if not math.isfinite(found[-1]):
                break
        return np.array(found)

    def _make_step(self, x, y, sample_weight):
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            outputs = self._model(x, training=True)
            loss = self._model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=True)
        self._optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss


def _batches(trained):
    for epoch in itertools.count():
        for batch in trained.batches(epoch):
            yield keras.utils.unpack_x_y_sample_weight(batch)


def _optimizer(trained, model, kind):
    if kind == "sgd":
        return keras.optimizers.SGD(0.1)
    schedule = {"type": "constant", "warmup_epochs": 0.0}
    recipe = trained.recipe.model_validate(trained.recipe.model_dump() | {"schedule": schedule, "callbacks": ()})
    return optimizers.build(recipe, model, trained.batches.steps_per_epoch)


def _constant_loss(trained, model, batches):
    """The mean loss of the answer that is the same for every example, the best there is: logarithms of the classes'
    frequencies, or the mean of the targets."""
    labels = np.concatenate([np.asarray(y).reshape(-1, *y.shape[1:][-1:]) for _, y, _ in batches])
    if trained.recipe.task == "regression":
        best = labels.mean(0)
    else:
        counts = np.bincount(labels.ravel(), minlength=model.output.shape[-1])
        best = np.log(np.maximum(counts, 1e-3) / counts.sum())
    losses = []
    for x, y, sample_weight in batches:
        shape = (*y.shape[: 1 if trained.recipe.task == "regression" else None], len(best))
        answer = tf.cast(tf.broadcast_to(best, shape), "float32")
        losses.append(float(model.compute_loss(x=x, y=y, y_pred=answer, sample_weight=sample_weight, training=False)))
    return float(np.mean(losses))
