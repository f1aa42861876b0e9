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
    """The batch normalization that an adaptive layer is whose gate is all but 1."""
    new = BatchNormalization(**options(layer, BatchNormalization) | {"scale": True, "center": True})
    new.build(input_shape(layer))
    carry(layer, new)
    _make_up(layer, new, 1 - gate(layer), _running(layer), _expected(layer))
    return new


def alternative(layer: AdaptiveNormalization) -> GroupNormalization:
    """The normalization of each example that an adaptive layer is whose gate is all but 0."""
    shared = options(layer, GroupNormalization) | {"scale": True, "center": True}
    new = GroupNormalization(**shared, groups=layer._resolved_groups, positions=_positions(layer))
    new.build(input_shape(layer))
    _make_up(layer, new, gate(layer), _expected(layer), _running(layer))
    return new


def is_alternative(layer) -> bool:
    """Whether it is a normalization of each example over its positions, and no subclass, which may mean something else."""
    return type(layer) is GroupNormalization and layer.positions == "pooled"


def fixed_mixture(layer: AdaptiveNormalization | GroupNormalization) -> FixedMixture:
    """The same mixture, with its gate and running statistics as constants."""
    new = FixedMixture(
        layer.axis, layer.epsilon, layer._resolved_groups, _positions(layer), name=layer.name, dtype=layer.dtype_policy
    )
    new.build(input_shape(layer))
    gamma, beta = _affine(layer)
    if isinstance(layer, GroupNormalization):
        new.set_constants(factor=np.zeros_like(gamma), offset=beta, share=gamma)
        return new
    lam = gate(layer)
    factor = lam * gamma / deviation(layer)
    new.set_constants(factor, offset=beta - array(layer.moving_mean) * factor, share=(1 - lam) * gamma)
    return new


def _positions(layer):
    if isinstance(layer, GroupNormalization):
        return layer.positions
    return "separate" if layer._separate else "pooled"


def _make_up(layer, new, rest, kept, other):
    """Sets gamma and beta of the normalizer that all but `rest` of a layer is, so that they make up for that rest.

    As if each example had the statistics that `kept` and `other`, each a mean and a deviation, expect.
    """
    gamma, beta = _affine(layer)
    (mean, spread), (other_mean, other_spread) = kept, other
    values = {
        "gamma": gamma * (1 - rest + rest * spread / other_spread),
        "beta": beta + gamma * rest * (mean - other_mean) / other_spread,
    }
    assign(new, values.items())


def _affine(layer):
    channels = (input_shape(layer)[layer.axis],)
    gamma = np.ones(channels) if layer.gamma is None else array(layer.gamma)
    return gamma, np.zeros(channels) if layer.beta is None else array(layer.beta)


def _running(layer):
    """Mean and deviation of each channel."""
    return array(layer.moving_mean), deviation(layer)


def _expected(layer):
    """Mean and deviation of each channel's group, as the running statistics expect them of an example."""
    mean, variance = array(layer.moving_mean), array(layer.moving_variance)
    groups = (layer._resolved_groups, -1)
    centre = mean.reshape(groups).mean(1, keepdims=True)
    # Law of total variance.
    spread = (variance.reshape(groups) + np.square(mean.reshape(groups) - centre)).mean(1, keepdims=True)
    centre, spread = (np.broadcast_to(v, mean.reshape(groups).shape).ravel() for v in (centre, spread))
    return centre, np.sqrt(spread + layer.epsilon)
