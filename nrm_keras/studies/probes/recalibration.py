"""What running statistics cost, and what estimating them anew repairs."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.studies.probes.trained import Trained
from nrm_keras.surgery import recalibrate
from nrm_keras.surgery.meter import calling, has_running_statistics


def measure(trained: Trained, examples: int, training_examples: int) -> dict[str, float]:
    """The recipe's first metric and the loss on held-out data in inference mode, before and after `recalibrate`.

    `gap` is the loss in inference mode minus that with the statistics of the held-out batches, of the recipe's size; all
    else, dropout above all, is as at inference in both. A model without running statistics is the same in both modes: its
    gap is 0, and there is nothing to recalibrate.
    """
    model = trained.model()
    held_out = trained.dataset(trained.some(trained.held_out, examples))
    metric, loss = _scores(trained, model, held_out)
    running = [layer for layer in model._flatten_layers() if has_running_statistics(layer)]
    if not running:
        return _row(metric, loss, loss) | _row(metric, loss, loss, "recalibrated_")
    # frozen layers use running statistics in training too
    of_batches = _loss_with_batch_statistics(model, [layer for layer in running if layer.trainable], held_out)
    training = trained.dataset(trained.some(trained.examples.train, training_examples))
    recalibrate(model, training, evaluate=False, include_frozen=True, verbose=0)
    return _row(metric, loss, of_batches) | _row(*_scores(trained, model, held_out), of_batches, "recalibrated_")


def _scores(trained, model, data):
    scores = model.evaluate(data, return_dict=True, verbose=0)
    return scores[trained.recipe.train.metrics[0]], scores["loss"]


def _loss_with_batch_statistics(model, layers, data):
    """The loss as at inference, but for these layers, which normalize as in training."""

    def loss_of(x, y):
        with keras.StatelessScope([(v, v.value) for v in model.trainable_variables]):
            return model.compute_loss(x=x, y=y, y_pred=model(x, training=False), training=False)

    function = tf.function(loss_of, autograph=False, reduce_retracing=True)
    with contextlib.ExitStack() as undo:
        for layer in layers:
            undo.enter_context(calling(layer, _as_in_training(layer.call)))
        losses = [(len(y), float(function(x, y))) for x, y in data]
    weights, values = zip(*losses, strict=True)
    return np.average(values, weights=weights)


def _as_in_training(original):
    return lambda inputs, *args, **kwargs: original(inputs, *args, **kwargs | {"training": True})


def _row(metric, loss, of_batches, prefix=""):
    return {f"{prefix}metric": metric, f"{prefix}loss": loss, f"{prefix}gap": loss - of_batches}
