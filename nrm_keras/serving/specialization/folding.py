"""Batch normalization at inference as an affine map of each channel, and the layers that take such a map over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from nrm_keras.layers import BatchNormalization
from nrm_keras.serving.specialization.layers import Affine

# x * factor + offset loses as many digits as the mean of x is powers of ten above its deviation.
LARGEST_MEAN = 100.0


class ChannelMap(NamedTuple):
    """`y = x * factor + offset` of each channel, in float64."""

    factor: np.ndarray
    offset: np.ndarray


def is_batch_normalization(layer) -> bool:
    """Whether it is batch normalization, Keras' or ours, and no subclass, which may mean something else."""
    return type(layer) in (BatchNormalization, layers.BatchNormalization)


def map_of(layer) -> ChannelMap:
    """What batch normalization does at inference."""
    factor = (1.0 if layer.gamma is None else array(layer.gamma)) / deviation(layer)
    beta = 0.0 if layer.beta is None else array(layer.beta)
    return ChannelMap(factor, beta - array(layer.moving_mean) * factor)


def deviation(layer) -> np.ndarray:
    """By what batch normalization divides at inference."""
    return np.sqrt(array(layer.moving_variance) + layer.epsilon)


def has_large_mean(layer) -> bool:
    """Whether some channel's running mean is so far from 0 that an affine map would lose digits."""
    return bool(np.any(np.abs(array(layer.moving_mean)) > LARGEST_MEAN * deviation(layer)))


def affine(layer) -> Affine:
    """The layer that does what batch normalization does at inference."""
    new = Affine(layer.axis, name=layer.name, dtype=layer.dtype_policy)
    new.build(input_shape(layer))
    assign(new, zip(("factor", "offset"), map_of(layer), strict=True))
    return new


def takes_over(layer, axis: int, rank: int) -> bool:
    """Whether a map of the channels along `axis` of the layer's output, which has that rank, can become part of it."""
    if type(layer) not in _LINEAR or getattr(layer, "activation", None) not in (None, keras.activations.linear):
        return False
    if getattr(layer, "lora_enabled", False) or layer.quantization_mode is not None:
        return False
    if isinstance(layer, layers.EinsumDense) and not _has_channels(layer):
        return False
    if isinstance(layer, Affine):
        return layer.axis % rank == axis
    return axis == (1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1)


def taking_over(layer, channel_map: ChannelMap) -> layers.Layer:
    """A new layer that does what `layer`, which `takes_over` the map, and then the map do."""
    kernel, multiply, bias, with_bias = _LINEAR[type(layer)]
    new = type(layer).from_config(layer.get_config() | with_bias(layer))
    new.build(input_shape(layer))
    values = {variable.name: array(variable) for variable in layer.weights}
    values[kernel] = multiply(layer, values[kernel], channel_map.factor)
    values[bias] = values.get(bias, 0.0) * channel_map.factor + channel_map.offset
    assign(new, values.items())
    return new


class _Linear(NamedTuple):
    """Names of the weights of a linear layer, how its kernel is multiplied by a factor of each output channel, and the
    arguments that give it a bias."""

    kernel: str
    multiply: Callable[[layers.Layer, np.ndarray, np.ndarray], np.ndarray]
    bias: str = "bias"
    with_bias: Callable[[layers.Layer], dict] = lambda layer: {"use_bias": True}


def _last(layer, kernel, factor):
    return kernel * factor


def _before_last(layer, kernel, factor):
    return kernel * factor[:, None]


def _depthwise(layer, kernel, factor):
    return kernel * factor.reshape(kernel.shape[-2:])


def _einsum(layer, kernel, factor):
    axes = _kernel_axes(layer)
    return kernel * factor.reshape([-1 if axis == _channel(layer) else 1 for axis in axes])


def _kernel_axes(layer):
    return layer.equation.replace(" ", "").split("->")[0].split(",")[1]


def _channel(layer):
    return layer.equation.strip()[-1]


def _has_channels(layer):
    """Whether the last axis of the output is one of the kernel's, and the bias has no other."""
    return _channel(layer) in _kernel_axes(layer) and layer.bias_axes in (None, _channel(layer))


_LINEAR = {
    Affine: _Linear("factor", _last, "offset", lambda layer: {}),
    layers.Dense: _Linear("kernel", _last),
    layers.EinsumDense: _Linear("kernel", _einsum, with_bias=lambda layer: {"bias_axes": _channel(layer)}),
    layers.Conv1D: _Linear("kernel", _last),
    layers.Conv2D: _Linear("kernel", _last),
    layers.Conv3D: _Linear("kernel", _last),
    layers.Conv1DTranspose: _Linear("kernel", _before_last),
    layers.Conv2DTranspose: _Linear("kernel", _before_last),
    layers.Conv3DTranspose: _Linear("kernel", _before_last),
    layers.DepthwiseConv1D: _Linear("kernel", _depthwise),
    layers.DepthwiseConv2D: _Linear("kernel", _depthwise),
    layers.SeparableConv1D: _Linear("pointwise_kernel", _last),
    layers.SeparableConv2D: _Linear("pointwise_kernel", _last),
}


def array(variable) -> np.ndarray:
    """The variable's value in float64."""
    return keras.ops.convert_to_numpy(variable).astype("float64")


def assign(layer: layers.Layer, values: Iterable[tuple[str, np.ndarray]]) -> None:
    """Sets the weights of these names."""
    variables = {variable.name: variable for variable in layer.weights}
    for name, value in values:
        variables[name].assign(value)


def input_shape(layer: layers.Layer) -> tuple:
    """The shape that the layer was built for."""
    return layer.get_build_config()["input_shape"]
