"""The Hessian's spectrum, and smoothness along the gradient."""

from __future__ import annotations

import tensorflow as tf

from nrm_keras.diagnostics.curvature import curvature_of
from nrm_keras.diagnostics.deep import LENGTHS
from nrm_keras.diagnostics.objective import Objective
from nrm_keras.diagnostics.shift import landscape
from nrm_keras.studies.probes.trained import Trained


def measure(trained: Trained, at: str, examples: int, products: int, learning_rate: float | None) -> dict[str, float]:
    """See `nrm_keras.diagnostics.curvature.Curvature` and `Landscape`; in training mode, on held-out examples.

    The condition number is `first_to_fifth`, lambda_1 / lambda_5: the smallest eigenvalues are about 0 or negative.
    """
    objective = Objective(trained.model_at(at), *trained.batch(examples))
    # the fifth eigenvalue converges long after the first, which is what a tolerance would wait for
    found = curvature_of(objective, steps=products, tolerance=0.0, seed=trained.recipe.train.seed)
    rate = learning_rate or trained.recipe.optimizer.learning_rate
    start = found.loss, tf.convert_to_tensor(found.gradient)
    along = landscape(objective, [length * rate for length in LENGTHS], start=start)
    return {
        "loss": found.loss,
        "gradient_norm": found.gradient_norm,
        "largest": found.largest,
        "smallest": found.smallest,
        "trace": found.trace,
        "first_to_fifth": found.first_to_fifth,
        "effective_beta": along.effective_beta,
    }
