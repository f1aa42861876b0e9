"""What running statistics cost, and what estimating them anew repairs."""

from __future__ import annotations

import numpy as np

from nrm_keras.diagnostics.gap_pass import Pass
from nrm_keras.studies.probes.trained import Trained
from nrm_keras.surgery import recalibrate
from nrm_keras.surgery.batches import Batches
from nrm_keras.surgery.meter import has_running_statistics
from nrm_keras.surgery.recalibration import running_layers


def measure(trained: Trained, examples: int, training_examples: int) -> dict[str, float]:
    """The recipe's first metric and the loss on held-out data in inference mode, before and after `recalibrate`.

    `gap` is the loss in inference mode minus that with the statistics of the held-out batches, of the recipe's size; all
    else, dropout above all, is as at inference in both. A model without running statistics is the same in both modes: its
    gap is 0, and there is nothing to recalibrate.
    """
    model = trained.model()
    held_out = trained.dataset(trained.some(trained.held_out, examples))
    found = _scores(trained, model, held_out)
    if not any(has_running_statistics(layer) for layer in model._flatten_layers()):
        return _row(found, 0.0) | _row(found, 0.0, "recalibrated_")
    before = _row(found, _gap(model, held_out))
    training = trained.dataset(trained.some(trained.examples.train, training_examples))
    # frozen ones too: a study that freezes normalizers asks what that costs
    recalibrate(model, training, evaluate=False, include_frozen=True, verbose=0)
    return before | _row(_scores(trained, model, held_out), _gap(model, held_out), "recalibrated_")


def _scores(trained, model, data):
    scores = model.evaluate(data, return_dict=True, verbose=0)
    return scores[trained.recipe.train.metrics[0]], scores["loss"]


def _gap(model, data):
    run = Pass(model, running_layers(model), keep=False)
    run.over(Batches(data, None, 1))
    weights, inference, training = np.array(run.losses, "float64").T
    return np.average(inference - training, weights=weights)


def _row(scores, gap, prefix=""):
    return {f"{prefix}metric": scores[0], f"{prefix}loss": scores[1], f"{prefix}gap": gap}
