"""The arithmetic of the layers, with gradients in closed form.

TensorFlow's own gradient of a product of two arrays that broadcast is nine operations, most of them about shapes, and a
layer has dozens of such products on arrays of a few hundred numbers: they, not the large tensor, cost the time to trace
a model. The gradients here know the shapes, and read the large tensor as often as they must. They are written in
differentiable operations themselves, so that second derivatives are exact. Other backends differentiate on their own.
"""

from typing import Any

import keras
from keras import ops

from nrm_keras.layers import backend

Tensor = Any


def with_gradient(function):
    """From `function(*tensors) -> (outputs, gradient)` the function of outputs that has this gradient on TensorFlow."""

    def differentiable(*tensors):
        if not backend.gradients_recorded():
            return function(*tensors)[0]
        import tensorflow as tf

        return tf.custom_gradient(function)(*tensors)

    return differentiable


def total(values: Tensor, axes: tuple) -> Tensor:
    """The sum along `axes`, which stay with size 1."""
    # A last axis of size 1 among those that are summed over makes TensorFlow transpose: twice as slow.
    axes = tuple(axis for axis in axes if values.shape[axis] != 1)
    return ops.sum(values, axes, keepdims=True) if axes else values


def sum_like(values: Tensor, like: Tensor) -> Tensor:
    """The sum along the axes that broadcasting `like` made: those where `like` is known to have size 1."""
    new = len(values.shape) - len(like.shape)
    values = ops.sum(values, tuple(range(new))) if new else values
    sizes = zip(values.shape, like.shape, strict=True)
    axes = tuple(axis for axis, (size, one) in enumerate(sizes) if one == 1 and size != 1)
    return total(values, axes)


def center(x: Tensor, shift: Tensor) -> Tensor:
    """x - shift, for a shift that is a constant as large as x or smaller."""
    return with_gradient(lambda x: (x - shift, lambda slope: slope))(x)


def average(values: Tensor, mask: Tensor | None, share: Tensor | float) -> Tensor:
    """The mean over the valid positions, each of which has the weight `share`."""
    return share * total(values if mask is None else ops.where(mask, values, 0), (1, 3))


def moments(centered: Tensor, mask: Tensor | None, share: Tensor | float) -> tuple[Tensor, Tensor]:
    """Mean and population variance over the valid positions, of values whose mean is 0 but for a rounding."""

    @with_gradient
    def function(centered):
        mean = average(centered, mask, share)
        # Where the mean is as good as 0 there is nothing to cancel.
        variance = ops.maximum(average(ops.square(centered), mask, share) - ops.square(mean), 0)

        def gradient(mean_slope, variance_slope):
            variance_slope = 2 * share * variance_slope
            slope = centered * variance_slope + (share * mean_slope - mean * variance_slope)
            return slope if mask is None else ops.where(mask, slope, 0)

        return (mean, variance), gradient

    return function(centered)


def reciprocal(values: Tensor) -> Tensor:
    """1 / values for values above 0, rounded alike wherever in the array a value is."""
    if keras.backend.backend() != "tensorflow":
        return ops.reciprocal(values)
    # On a CPU, TensorFlow's Reciprocal and Rsqrt round in another way at an array's end, so that an example's result would
    # depend on the batch it comes in; and its optimizer makes them of divisions whose numerator it knows to be 1.
    return ops.sign(values) / values


def rsqrt(values: Tensor) -> Tensor:
    """1 / sqrt(values), rounded alike wherever in the array a value is."""
    return ops.sqrt(reciprocal(values)) if keras.backend.backend() == "tensorflow" else ops.rsqrt(values)


def affine(centered: Tensor, scale: Tensor, offset: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """gamma * (centered * scale + offset) + beta; gamma and beta meet the small arrays, not the large one."""

    @with_gradient
    def function(centered, scale, offset, gamma, beta):
        full_scale, full_offset = scale * gamma, offset * gamma + beta

        def gradient(slope):
            scale_slope, offset_slope = sum_like(slope * centered, full_scale), sum_like(slope, full_offset)
            return (
                slope * full_scale,
                sum_like(scale_slope * gamma, scale),
                sum_like(offset_slope * gamma, offset),
                sum_like(scale_slope * scale, gamma) + sum_like(offset_slope * offset, gamma),
                sum_like(offset_slope, beta),
            )

        return centered * full_scale + full_offset, gradient

    return function(centered, scale, offset, gamma, beta)
