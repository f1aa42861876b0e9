"""Mixtures of normalizers whose weights are constants at inference, and what they are then."""

from __future__ import annotations

import keras
import numpy as np

from nrm_keras.layers import (
    AdaptiveNormalization,
    BatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    SwitchableNormalization,
)
from nrm_keras.serving.specialization.folding import array, assign, deviation, input_shape
from nrm_keras.serving.specialization.layers import FixedMixture
from nrm_keras.surgery.carrying import carry, options

_SOURCES = ("instance", "layer", "batch")


def gate(layer) -> np.ndarray | None:
    """lam of an adaptive layer at inference, one value or one per channel; None for any other layer."""
    return array(layer.batch_weight()) if type(layer) is AdaptiveNormalization else None


def source(layer, tolerance: float) -> str | None:
    """Whose statistics a switchable layer uses, if all of its weights are on one within the tolerance."""
    if type(layer) is not SwitchableNormalization:
        return None
    weights = np.stack([array(keras.ops.softmax(v)) for v in (layer.mean_logits, layer.variance_logits)])
    chosen = weights.min(0) >= 1 - tolerance
    return _SOURCES[chosen.argmax()] if chosen.any() else None


def of_source(layer: SwitchableNormalization, name: str):
    """The normalizer that uses these statistics only."""
    cls = {"instance": InstanceNormalization, "layer": GroupNormalization, "batch": BatchNormalization}[name]
    more = {"groups": 1} if name == "layer" else {}
    new = cls(**options(layer, cls), **more)
    new.build(input_shape(layer))
    carry(layer, new)
    return new


def batch_normalization(layer: AdaptiveNormalization) -> BatchNormalization:
    """The batch normalization that an adaptive layer is whose gate is all but 1.

    gamma and beta make up for the rest, as if each example had the mean and variance that the running statistics expect.
    """
    new = BatchNormalization(**options(layer, BatchNormalization) | {"scale": True, "center": True})
    new.build(input_shape(layer))
    carry(layer, new)
    rest, gamma, beta = 1 - gate(layer), *_affine(layer)
    mean, expected = _expected(layer)
    shift = array(layer.moving_mean) - mean
    values = {
        "gamma": gamma * (1 - rest + rest * deviation(layer) / expected),
        "beta": beta + gamma * rest * shift / expected,
    }
    assign(new, values.items())
    return new


def fixed_mixture(layer: AdaptiveNormalization) -> FixedMixture:
    """The same mixture, with its gate and running statistics as constants."""
    positions = "separate" if layer._separate else "pooled"
    new = FixedMixture(
        layer.axis, layer.epsilon, layer._resolved_groups, positions, name=layer.name, dtype=layer.dtype_policy
    )
    new.build(input_shape(layer))
    lam, gamma, beta = gate(layer), *_affine(layer)
    factor = lam * gamma / deviation(layer)
    offset = beta - array(layer.moving_mean) * factor
    assign(new, {"factor": factor, "offset": offset, "share": (1 - lam) * gamma}.items())
    return new


def _affine(layer):
    channels = layer.moving_mean.shape
    gamma = np.ones(channels) if layer.gamma is None else array(layer.gamma)
    return gamma, np.zeros(channels) if layer.beta is None else array(layer.beta)


def _expected(layer):
    """Mean and deviation of each channel's group, as the running statistics expect them of an example."""
    mean, variance = array(layer.moving_mean), array(layer.moving_variance)
    groups = (layer._resolved_groups, -1)
    centre = mean.reshape(groups).mean(1, keepdims=True)
    # Law of total variance.
    spread = (variance.reshape(groups) + np.square(mean.reshape(groups) - centre)).mean(1, keepdims=True)
    centre, spread = (np.broadcast_to(v, mean.reshape(groups).shape).ravel() for v in (centre, spread))
    return centre, np.sqrt(spread + layer.epsilon)
