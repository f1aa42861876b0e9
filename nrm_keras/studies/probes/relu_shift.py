"""What linear layers and ReLUs do to means."""

from __future__ import annotations

import numpy as np

from nrm_keras.studies.probes.forward import Look
from nrm_keras.studies.probes.trained import Trained


def measure(trained: Trained, at: str, examples: int) -> dict[str, float]:
    """Means of units on held-out examples, in training mode.

    Equations, per unit over examples and positions: `relu_mean = mean(relu((a - mean(a)) / sd(a)))` of what ReLUs take
    (0.398942 if that is Gaussian), `mean_over_sd = |mean(h)| / sd(h)` of what they give (0.683 of a ReLU of N(0, 1)), and
    `linear_mean = |mean| / sd` of what hidden linear layers give. Each is averaged over a layer's units, without constant
    ones; relu_mean over the layers as well, of the others there are those of the first and the last layer.
    """
    look = Look(trained.model_at(at), trained.batch(examples)[0])
    relus, linear = look.relus, look.linear
    return {
        "relu_mean": np.mean([relu_mean(look.rows(call.input)) for call in relus]),
        "mean_over_sd_first": mean_over_sd(look.rows(relus[0].output)),
        "mean_over_sd_last": mean_over_sd(look.rows(relus[-1].output)),
        "linear_mean_first": mean_over_sd(look.rows(linear[0].output)),
        "linear_mean_last": mean_over_sd(look.rows(linear[-1].output)),
    }


def relu_mean(rows: np.ndarray) -> float:
    """Mean over the units of mean(relu(z)), z a unit's values minus their mean, over their standard deviation."""
    rows = _varying(rows)
    return float(np.maximum((rows - rows.mean(0)) / rows.std(0), 0).mean()) if rows.size else np.nan


def mean_over_sd(rows: np.ndarray) -> float:
    """Mean over the units of |mean| / standard deviation."""
    rows = _varying(rows)
    return float(np.mean(np.abs(rows.mean(0)) / rows.std(0))) if rows.size else np.nan


def _varying(rows):
    """Without units that are constant but for rounding, such as dead ones."""
    return rows[:, rows.std(0) > 1e-6 * np.abs(rows).max(0)]
