"""Whether what stands behind a normalizer is insulated from what is below it."""

from __future__ import annotations

import keras
import numpy as np

from nrm_keras.studies.probes.forward import Look
from nrm_keras.studies.probes.trained import Trained
from nrm_keras.surgery.structure import is_normalizer


def measure(trained: Trained, at: str, examples: int, disturbance: float) -> dict[str, float]:
    """Output means of normalizers before and after the weights below are changed, and the gradient of beta.

    In training mode, with the examples as one batch. `mean_minus_beta` is the largest |output mean - beta| of a channel
    over all normalizers, in units of the root mean square of gamma; `mean_minus_beta_disturbed` the same after every
    hidden kernel and bias has become `w + disturbance rms(w) (1 + noise)`, noise N(0, 1). `mean_moved` is how far means went:
    the root mean square over a normalizer's channels of the difference, over that of their standard deviations before;
    averaged over the normalizers. `beta_gradient_error` is the largest |gradient of beta - sum of error signals| / |sum|
    of a normalizer.

    Of a model without normalizers the same is said of its hidden linear layers: beta is the bias, and gamma the standard
    deviation of the outputs.
    """
    model = trained.model_at(at)
    x, y, *_ = trained.batch(examples)
    before = _moments(look := _look(model, x, y))
    error = _beta_gradient_error(look)
    _disturb(model, disturbance, trained.recipe.train.seed)
    after = _moments(_look(model, x))
    return {
        "mean_minus_beta": max(distance for distance, *_ in before),
        "mean_minus_beta_disturbed": max(distance for distance, *_ in after),
        "mean_moved": np.mean([_rms(b - a) / _rms(sd) for (_, a, sd), (_, b, _) in zip(before, after, strict=True)]),
        "beta_gradient_error": error,
    }


def _look(model, x, y=None):
    return Look(
        model, x, y, variables=[beta for layer in model._flatten_layers() if (beta := _beta(layer)) is not None]
    )


def _beta(layer):
    return getattr(layer, "beta" if is_normalizer(layer) else "bias", None)


def _moments(look):
    """(largest distance of a mean from beta, means, standard deviations) of the channels at each place."""
    found = []
    for call in look.normalized:
        rows = look.rows(call.output)
        mean, sd = rows.mean(0), rows.std(0)
        beta, gamma = (_value(v) for v in (_beta(call.layer), getattr(call.layer, "gamma", None)))
        unit = (1.0 if gamma is None else _rms(gamma)) if is_normalizer(call.layer) else _rms(sd)
        found.append((np.max(np.abs(mean - (0.0 if beta is None else beta))) / unit, mean, sd))
    return found


def _beta_gradient_error(look):
    sums: dict[int, tuple] = {}
    for call in look.normalized:
        beta = _beta(call.layer)
        if beta is None or call.gradient is None:
            continue
        signals = call.gradient.numpy().astype("float64")
        total = signals.reshape(-1, signals.shape[-1]).sum(0)
        sums[id(beta)] = (beta, total + sums[id(beta)][1] if id(beta) in sums else total)
    errors = [
        np.linalg.norm(look.gradients[key].numpy() - total) / np.linalg.norm(total)
        for key, (_, total) in sums.items()
        if np.any(total)
    ]
    return max(errors, default=np.nan)


def _disturb(model, disturbance, seed):
    """Changes the weights of all layers but normalizers and the last one with a kernel."""
    rng = np.random.default_rng(seed)
    layers = [layer for layer in model._flatten_layers() if hasattr(layer, "kernel") and not is_normalizer(layer)]
    for layer in layers[:-1]:
        size = _rms(_value(layer.kernel))
        for variable in layer.trainable_variables:
            change = disturbance * size * (1 + rng.normal(size=variable.shape))
            variable.assign(_value(variable) + change)


def _value(variable):
    return None if variable is None else keras.ops.convert_to_numpy(variable).astype("float64")


def _rms(values):
    return np.sqrt(np.mean(np.square(values)))
