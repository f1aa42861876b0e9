"""The kernel of all layers: moments of each channel of each example, pooled over whom the layer likes.

Every tensor here has the four axes (example, positions before the channel axis, channel, positions behind it), so that
one reshape, which moves no data, serves every rank and every channel axis. Statistics keep all four axes and broadcast.

A mean is always measured from `shift`, a constant close to the data: y = (x - shift) * A + B loses no digits where the
data's offset is large against its spread. The shift never changes a result otherwise, so no derivative passes through it.
"""

import functools
import math
from typing import Any, NamedTuple

from keras import ops

from nrm_keras.layers import replicas

Tensor = Any


def four_axes(shape, axis: int) -> tuple:
    """Shape (example, positions before, channel, positions behind) of a tensor whose channel axis is `axis` > 0."""
    return shape[0], math.prod(shape[1:axis]), shape[axis], math.prod(shape[axis + 1 :])


def expand_mask(mask: Tensor, x: Tensor, axis: int) -> Tensor:
    """Boolean mask on the four axes of x from one that follows x's leading axes, its channel axis left out.

    Keras' own masks follow x.shape[:-1] wherever the channels are; one that fits in no other way is taken like that.
    """
    rank, static = len(mask.shape), tuple(x.shape)
    if 1 <= rank < len(static) and _fits(mask.shape, static[:axis] + static[axis + 1 :]):
        lengths = list(ops.shape(mask)) + [1] * (len(static) - 1 - rank)
        lengths.insert(axis, 1)
    elif 1 <= rank < len(static) and _fits(mask.shape, static):
        lengths = list(ops.shape(mask)) + [1] * (len(static) - rank)
    else:
        raise ValueError(
            "A mask must have the leading dimensions of the inputs, without the channel axis. "
            f"Received: mask.shape={tuple(mask.shape)}, inputs.shape={static}, axis={axis}. "
            "Pass a mask of shape (batch,) or (batch, positions...)."
        )
    mask = ops.reshape(ops.cast(mask, "bool"), lengths)
    full = list(ops.shape(x))
    full[axis] = lengths[axis]
    return ops.reshape(ops.broadcast_to(mask, full), four_axes(full, axis))


def _fits(mask_shape, shape) -> bool:
    leading = zip(mask_shape, shape, strict=False)
    return all(m in (None, 1) or d is None or m == d for m, d in leading)


class Pooled(NamedTuple):
    """Statistics of many rows together. `mean` is measured from `reference`; `examples` counts those really pooled."""

    weight: Tensor
    reference: Tensor
    mean: Tensor
    variance: Tensor
    examples: Tensor | None


def pool_rows(weight: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, axis, examples=None) -> Pooled:
    """Law of total variance over the rows along `axis`, each with its weight and a mean measured from its own shift.

    Where all weights are zero the mean is 0 and the variance 1, so that whatever is normalized with it stays as it is.
    """
    total = ops.sum(weight, axis, keepdims=True)

    def average(values):
        # Weights count positions, so a total below 1 is 0: this divides by zero nowhere, not even in a gradient.
        return ops.sum(weight * values, axis, keepdims=True) / ops.maximum(total, 1)

    reference = average(shift)
    from_reference = mean + (shift - reference)
    pooled_mean = average(from_reference)
    pooled_variance = average(variance + ops.square(from_reference - pooled_mean))
    return Pooled(total, reference, pooled_mean, ops.where(total > 0, pooled_variance, 1), examples)


class Moments:
    """Mean and variance of each channel of each example, and the ways to pool them.

    Shapes broadcast against x, which has shape (n, before, channels, behind) and is float32 or float64:
    `mean`, `variance` (population variance) and `weight` (number of valid positions) have one value per example and
    channel, or per position too if `separate`, where every position counts as an example of its own.
    Means are measured from `shift`, and `centered` is x - shift. Nothing is computed before it is asked for.
    """

    def __init__(self, x: Tensor, mask: Tensor | None = None, shift: Tensor | None = None, separate: bool = False):
        if mask is not None:
            # Padding may hold anything. Times a gradient of zero, NaN and infinity would still be NaN.
            x = ops.where(ops.logical_or(mask, ops.isfinite(x)), x, 0)
        self._x = x
        self._mask = mask
        self._separate = separate
        self.shift = ops.stop_gradient(self._own_shift() if shift is None else shift)
        self.centered = x - self.shift

    def _own_shift(self):
        """A value of the example's own: neither another example nor padding may change a result, not by a rounding.

        Any value of a sample of P is within sqrt(P) standard deviations of its mean, which bounds the loss of digits.
        """
        if self._separate:
            shift = self._x
        elif self._mask is None:
            shift = self._x[:, :1, :, :1]
        else:
            shift = self._average(self._x)
        return ops.where(ops.isfinite(shift), shift, 0)

    def _average(self, values):
        if self._mask is not None:
            values = ops.where(self._mask, values, 0)
        return ops.sum(values, (1, 3), keepdims=True) / ops.maximum(self.weight, 1)

    @functools.cached_property
    def weight(self) -> Tensor:
        if self._mask is not None:
            weight = ops.cast(self._mask, self._x.dtype)
            return weight if self._separate else ops.sum(weight, (1, 3), keepdims=True)
        examples, before, _, behind = ops.shape(self._x)
        shape = (examples, before, 1, behind) if self._separate else (examples, 1, 1, 1)
        positions = 1 if self._separate else before * behind
        return ops.broadcast_to(ops.cast(ops.convert_to_tensor(positions), self._x.dtype), shape)

    @functools.cached_property
    def mean(self) -> Tensor:
        return self.centered if self._separate else self._average(self.centered)

    @functools.cached_property
    def variance(self) -> Tensor:
        if self._separate:
            return ops.zeros_like(self.centered)
        variance = self._average(ops.square(self.centered - self.mean))
        return ops.where(self.weight > 0, variance, 1)

    def separated(self) -> "Moments":
        """Moments of the same x in which every position counts as an example of its own."""
        return Moments(self._x, self._mask, separate=True)

    def relative(self, mean: Tensor) -> Tensor:
        """Measures a known mean per channel, of shape (channels,), from the shift."""
        return ops.reshape(ops.cast(mean, self._x.dtype), (1, 1, -1, 1)) - self.shift

    def per_channel(self) -> tuple[Tensor, Tensor]:
        """(mean, variance) pooled over nobody: each channel of each example has its own."""
        return self.mean, self.variance

    def over_groups(self, groups: int) -> tuple[Tensor, Tensor]:
        """(mean, variance) pooled over `groups` groups of neighbouring channels of each example."""
        shape = ops.shape(self.mean)
        channels = self._x.shape[2]
        split = (shape[0], shape[1], groups, channels // groups, shape[3])
        # A position that stands alone has its statistics even where it is padding.
        weight = ops.ones_like(self.mean) if self._separate else self.weight
        weight, shift, mean, variance = (
            ops.reshape(ops.broadcast_to(row, shape), split) for row in (weight, self.shift, self.mean, self.variance)
        )
        pooled = pool_rows(weight, shift, mean, variance, axis=3)
        mean = pooled.mean - (shift - pooled.reference)
        return ops.reshape(mean, shape), ops.reshape(ops.broadcast_to(pooled.variance, split), shape)

    def over_batch(self, synchronized: bool = False) -> tuple[Tensor, Tensor]:
        """(mean, variance) of each channel pooled over the batch; over all replicas' batches if `synchronized`."""
        pooled = self.batch(synchronized)
        return self.from_shift(pooled), pooled.variance

    def from_shift(self, pooled: Pooled) -> Tensor:
        """The mean of the batch's statistics, measured from the shift."""
        return pooled.mean - (self.shift - pooled.reference)

    def batch(self, synchronized: bool = False) -> Pooled:
        """The batch's statistics per channel, of shape (1, 1, channels, 1), and the number of its valid examples."""
        valid = ops.any(self.weight > 0, axis=(1, 2, 3), keepdims=True)
        examples = ops.sum(ops.cast(valid, self._x.dtype), axis=0, keepdims=True)
        pooled = pool_rows(self.weight, self.shift, self.mean, self.variance, axis=(0, 1, 3), examples=examples)
        return _over_replicas(pooled) if synchronized else pooled


def _over_replicas(pooled: Pooled) -> Pooled:
    # The replicas' statistics travel together: one collective per layer and step.
    shape = ops.shape(pooled.mean)
    rows = replicas.gather(ops.concatenate([ops.broadcast_to(value, shape) for value in pooled], axis=1))
    weight, reference, mean, variance, examples = (rows[:, i : i + 1] for i in range(len(pooled)))
    examples = ops.sum(examples[:, :, :1], axis=0, keepdims=True)
    return pool_rows(weight, reference, mean, variance, axis=0, examples=examples)
