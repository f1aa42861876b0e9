"""Which ReLUs are active, and how much of the gradient reaches the first of them."""

from __future__ import annotations

import numpy as np

from nrm_keras.studies.probes.forward import Look
from nrm_keras.studies.probes.trained import Trained


def measure(trained: Trained, at: str, examples: int) -> dict[str, float]:
    """Shares on held-out examples, in training mode.

    `active` is the share of a layer's outputs above 0, averaged over the layers with a ReLU, `active_first` and
    `active_last` that of the first and the last of them. `dead` is the share of all channels with no output above 0.
    `gradient_ratio` is the root mean square of the loss's gradient at the first layer's outputs, over that at the last's.
    """
    x, y, *_ = trained.batch(examples)
    look = Look(trained.model_at(at), x, y)
    relus = look.relus
    positive = [look.rows(call.output) > 0 for call in relus]
    first, last = (_rms(look.rows(call.gradient)) for call in (relus[0], relus[-1]))
    return {
        "active": np.mean([outputs.mean() for outputs in positive]),
        "active_first": positive[0].mean(),
        "active_last": positive[-1].mean(),
        "dead": np.mean(np.concatenate([~outputs.any(0) for outputs in positive])),
        "gradient_ratio": first / last if last else np.nan,
    }


def _rms(values):
    return np.sqrt(np.mean(np.square(values)))
