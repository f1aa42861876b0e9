"""The arithmetic of the layers, with gradients in closed form.

TensorFlow's own gradient of a product of two arrays that broadcast is nine operations, most of them about shapes, and a
layer has dozens of such products on arrays of a few hundred numbers: they, not the large tensor, cost the time to trace
a model. The gradients here know the shapes, and read the large tensor as often as they must. They are written in
differentiable operations themselves, so that second derivatives are exact. Other backends differentiate on their own.
"""

from typing import Any

import keras
from keras import ops

Tensor = Any


def with_gradient(function):
    """From `function(*tensors) -> (outputs, gradient)` the function of outputs that has this gradient on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return lambda *tensors: function(*tensors)[0]
    import tensorflow as tf

    return tf.custom_gradient(function)


def total(values: Tensor, axes: tuple) -> Tensor:
    """The sum along `axes`, which stay with size 1."""
    shape = tuple(values.shape)
    if len(shape) < 4 or shape[1] == 1 or shape[3] != 1 or shape.count(None) > 1 or 0 in shape:
        return ops.sum(values, axes, keepdims=True)
    # With the channels last it is twice as fast on the CPU.
    rows = ops.reshape(values, [-1 if size is None else size for size in shape[:3]])
    return ops.expand_dims(ops.sum(rows, [axis for axis in axes if axis != 3], keepdims=True), -1)


def sum_like(values: Tensor, like: Tensor) -> Tensor:
    """The sum along the axes that broadcasting `like` made: those where `like` is known to have size 1."""
    new = len(values.shape) - len(like.shape)
    values = ops.sum(values, tuple(range(new))) if new else values
    sizes = zip(values.shape, like.shape, strict=True)
    axes = tuple(axis for axis, (size, one) in enumerate(sizes) if one == 1 and size != 1)
    return total(values, axes) if axes else values


def center(x: Tensor, shift: Tensor) -> Tensor:
    """x - shift, for a shift that is a constant as large as x or smaller."""
    return with_gradient(lambda x: (x - shift, lambda slope: slope))(x)


def remeasure(mean: Tensor, change: Tensor) -> Tensor:
    """mean - change, for a change that is a constant as large as the mean or larger."""
    return with_gradient(lambda mean: (mean - change, lambda slope: sum_like(slope, mean)))(mean)


def moments(centered: Tensor, mask: Tensor | None, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance over the positions, of which `count` are valid; 0 and 1 where none is."""

    def average(values):
        values = values if mask is None else ops.where(mask, values, 0)
        return total(values, (1, 3)) / ops.maximum(count, 1)

    @with_gradient
    def function(centered):
        mean = average(centered)
        variance = average(ops.square(centered - mean))

        def gradient(mean_slope, variance_slope):
            share = 1 / ops.maximum(count, 1)
            variance_slope = 2 * share * variance_slope
            slope = centered * variance_slope + (share * mean_slope - mean * variance_slope)
            return slope if mask is None else ops.where(mask, slope, 0)

        return (mean, variance if mask is None else ops.where(count > 0, variance, 1)), gradient

    return function(centered)


def pool(mean: Tensor, variance: Tensor, change: Tensor, average, share) -> tuple[Tensor, Tensor]:
    """Law of total variance: mean and variance of rows together, each with its mean measured from its own origin.

    `change` is how far each origin is from the common one, `average` the weighted mean over the rows, and `share` what
    a row weighs in it.
    """

    @with_gradient
    def function(mean, variance):
        moved = mean + change
        pooled_mean = average(moved)
        deviation = moved - pooled_mean
        pooled_variance = average(variance + ops.square(deviation))

        def gradient(mean_slope, variance_slope):
            variance_slope = ops.broadcast_to(share * variance_slope, ops.shape(variance))
            return share * mean_slope + 2 * deviation * variance_slope, variance_slope

        return (pooled_mean, pooled_variance), gradient

    return function(mean, variance)


def standardize(mean: Tensor, variance: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(scale, offset) that make the mean 0 and the variance 1, up to epsilon."""

    @with_gradient
    def function(mean, variance):
        scale = ops.rsqrt(variance + epsilon)

        def gradient(scale_slope, offset_slope):
            scale_slope = scale_slope - sum_like(offset_slope * mean, scale)
            return -sum_like(offset_slope * scale, mean), -0.5 * scale_slope * scale * ops.square(scale)

        return (scale, -mean * scale), gradient

    return function(mean, variance)


def blend(weight: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """weight * one + (1 - weight) * other."""

    @with_gradient
    def function(weight, one, other):
        rest = 1 - weight

        def gradient(slope):
            weight_slope = sum_like(slope * (one - other), weight)
            return weight_slope, sum_like(slope * weight, one), sum_like(slope * rest, other)

        return weight * one + rest * other, gradient

    return function(weight, one, other)


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
