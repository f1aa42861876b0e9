"""The kernel of all layers: moments of each channel of each example, pooled over whom the layer likes.

Every tensor here has the four axes (example, positions before the channel axis, channel, positions behind it), so that
one reshape, which moves no data, serves every rank and every channel axis. Statistics keep all four axes and broadcast.

A mean is always measured from `shift`, a constant close to the data: y = (x - shift) * A + B loses no digits where the
data's offset is large against its spread. The shift never changes a result otherwise, so no derivative passes through it.
"""

import functools
import math
from typing import NamedTuple

from keras import ops

from nrm_keras.layers import backend, kernel
from nrm_keras.layers.kernel import Tensor


def four_axes(shape, axis: int) -> tuple:
    """Shape (example, positions before, channel, positions behind) of a tensor whose channel axis is `axis` > 0."""
    parts = shape[:1], shape[1:axis], shape[axis : axis + 1], shape[axis + 1 :]
    return tuple(None if None in part else math.prod(part) for part in parts)


def reshape(x: Tensor, static: tuple, dynamic) -> Tensor:
    """x in the shape `static`; where more than one size of that is unknown, in the one that `dynamic()` works out."""
    if static.count(None) > 1 or 0 in static:
        return ops.reshape(x, dynamic())
    return ops.reshape(x, [-1 if size is None else size for size in static])


def per_channel(values: Tensor, dtype: str) -> Tensor:
    """A variable of shape (channels,) on the four axes."""
    return ops.reshape(ops.cast(values, dtype), (1, 1, -1, 1))


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


def pool_rows(
    mean: Tensor, variance: Tensor, shift: Tensor, axis, weight: Tensor | None = None, examples=None
) -> Pooled:
    """Law of total variance over the rows along `axis`, each with its weight and a mean measured from its own shift.

    Without weights all rows weigh 1. Where all weights are zero the mean is 0 and the variance 1, so that whatever is
    normalized with it stays as it is.
    """
    axis = (axis,) if isinstance(axis, int) else axis
    shift = _spread(shift, mean)
    if weight is None:
        total = _count(mean, axis)
        share, total = _reciprocal(total, mean.dtype), ops.cast(total, mean.dtype)
    else:
        weight = _spread(weight, mean)
        total = ops.sum(weight, axis, keepdims=True)
        share = weight * _reciprocal(total, mean.dtype)

    def average(values):
        if weight is None:
            return share * kernel.total(values, axis)
        return kernel.total(share * values, axis)

    reference = average(shift)
    pooled_mean, pooled_variance = kernel.pool(mean, variance, shift - reference, average, share)
    if weight is not None:
        pooled_variance = ops.where(total > 0, pooled_variance, 1)
    return Pooled(total, reference, pooled_mean, pooled_variance, examples)


def _count(values, axes):
    """How many entries there are along the axes, a plain number if that is known."""
    if all(values.shape[axis] is not None for axis in axes):
        return math.prod(values.shape[axis] for axis in axes)
    sizes = ops.shape(values)
    return functools.reduce(lambda a, b: a * b, [sizes[axis] for axis in axes if values.shape[axis] != 1])


def _reciprocal(count, dtype):
    """1 / count, or 1 where there is nothing to count; a plain number if count is one."""
    if isinstance(count, int):
        return 1 / max(count, 1)
    # Weights count positions, so a total below 1 is 0: this divides by zero nowhere, not even in a gradient.
    return kernel.reciprocal(ops.maximum(ops.cast(count, dtype), 1))


def position_share(x: Tensor) -> Tensor | float:
    """The weight of a position in the mean of its example."""
    return _reciprocal(_count(x, (1, 3)), x.dtype)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values if tuple(values.shape) == tuple(like.shape) else ops.broadcast_to(values, ops.shape(like))


class Moments:
    """Mean and variance of each channel of each example, and the ways to pool them.

    Shapes broadcast against x, which has shape (n, before, channels, behind) and is float32 or float64:
    `mean`, `variance` (population variance) and `weight` (number of valid positions; None where there is no mask, and
    all weigh the same) have one value per example and channel.
    Means are measured from `shift`, and `centered` is x - shift. Nothing else is computed before it is asked for.
    """

    def __init__(self, x: Tensor, mask: Tensor | None = None, shift: Tensor | None = None):
        if mask is not None:
            # Padding may hold anything. Times a gradient of zero, NaN and infinity would still be NaN.
            x = ops.where(ops.logical_or(mask, ops.isfinite(x)), x, 0)
        self._x = x
        self._mask = mask
        self._foreign = shift is not None
        self.shift = ops.stop_gradient(self._own_shift() if shift is None else shift)
        self.centered = kernel.center(x, self.shift)

    def _own_shift(self):
        """The example's mean, rounded: neither another example nor padding may change a result, not by a rounding."""
        shift = kernel.average(self._x, self._mask, self._share)
        return ops.where(ops.isfinite(shift), shift, 0)

    @functools.cached_property
    def weight(self) -> Tensor | None:
        if self._mask is None:
            return None
        return ops.sum(ops.cast(self._mask, self._x.dtype), (1, 3), keepdims=True)

    @functools.cached_property
    def _share(self):
        """The weight of a position in the mean of its example."""
        return position_share(self._x) if self._mask is None else _reciprocal(self.weight, self._x.dtype)

    @functools.cached_property
    def _own(self):
        if self._foreign:
            # Far from the example's mean its variance would lose digits.
            own = Moments(self._x, self._mask)
            return own.mean + (own.shift - self.shift), own.variance
        mean, variance = kernel.moments(self.centered, self._mask, self._share)
        return mean, variance if self._mask is None else ops.where(self.weight > 0, variance, 1)

    @property
    def mean(self) -> Tensor:
        return self._own[0]

    @property
    def variance(self) -> Tensor:
        return self._own[1]

    def positions_of_groups(self, groups: int) -> "Moments":
        """Moments of the same x with each group of channels of each position as a channel of an example of its own."""
        x = ops.transpose(self._x, (0, 1, 3, 2)) if self._x.shape[3] != 1 else self._x
        return Moments(ops.reshape(x, (-1, 1, groups, self._x.shape[2] // groups)))

    def like_x(self, values: Tensor) -> Tensor:
        """Values of `positions_of_groups` back in the shape of x."""
        if self._x.shape[3] == 1:
            return reshape(values, tuple(self._x.shape), lambda: ops.shape(self._x))
        examples, before, channels, behind = ops.shape(self._x)
        return ops.transpose(ops.reshape(values, (examples, before, behind, channels)), (0, 1, 3, 2))

    def relative(self, mean: Tensor) -> Tensor:
        """Measures a known mean per channel, of shape (channels,), from the shift."""
        return per_channel(mean, self._x.dtype) - self.shift

    def per_channel(self) -> tuple[Tensor, Tensor]:
        """(mean, variance) pooled over nobody: each channel of each example has its own."""
        return self._own

    def over_groups(self, groups: int) -> tuple[Tensor, Tensor]:
        """(mean, variance) pooled over `groups` groups of neighbouring channels of each example."""
        if groups == 1:
            pooled = pool_rows(*self._own, self.shift, 2, self.weight)
            return self.from_shift(pooled), pooled.variance
        channels = self._x.shape[2]
        full = tuple(self.mean.shape)
        split = (*full[:2], groups, channels // groups, full[3])

        def grouped(values):
            values = _spread(values, self.mean)
            return reshape(values, split, lambda: (*ops.shape(values)[:2], *split[2:4], ops.shape(values)[3]))

        def ungrouped(values):
            return reshape(values, full, lambda: ops.shape(self.mean))

        shift, mean, variance = grouped(self.shift), grouped(self.mean), grouped(self.variance)
        pooled = pool_rows(mean, variance, shift, 3, None if self.weight is None else grouped(self.weight))
        mean = kernel.remeasure(pooled.mean, shift - pooled.reference)
        return ungrouped(mean), ungrouped(_spread(pooled.variance, mean))

    def over_batch(self, synchronized: bool = False) -> tuple[Tensor, Tensor]:
        """(mean, variance) of each channel pooled over the batch; over all replicas' batches if `synchronized`."""
        pooled = self.batch(synchronized)
        return self.from_shift(pooled), pooled.variance

    def from_shift(self, pooled: Pooled) -> Tensor:
        """A pooled mean, measured from the shift."""
        return kernel.remeasure(pooled.mean, self.shift - pooled.reference)

    def batch(self, synchronized: bool = False) -> Pooled:
        """The batch's statistics per channel, of shape (1, 1, channels, 1), and the number of its valid examples."""
        if self._mask is None:
            examples = ops.cast(_count(self._x, (0,)), self._x.dtype)
        else:
            valid = ops.any(self.weight > 0, axis=(1, 2, 3))
            examples = ops.sum(ops.cast(valid, self._x.dtype))
        pooled = pool_rows(*self._own, self.shift, (0, 1, 3), self.weight, examples)
        return _over_replicas(pooled) if synchronized else pooled


def _over_replicas(pooled: Pooled) -> Pooled:
    # The replicas' statistics travel together: one collective per layer and step.
    shape = (1, 1, pooled.mean.shape[2], 1)
    rows = backend.gather(ops.concatenate([ops.broadcast_to(value, shape) for value in pooled], axis=1))
    # Gathered, the sizes are no longer known.
    rows = ops.reshape(rows, (-1, len(pooled), *shape[2:]))
    weight, reference, mean, variance, examples = (rows[:, i : i + 1] for i in range(len(pooled)))
    return pool_rows(mean, variance, reference, 0, weight, ops.sum(examples[:, 0, 0, 0]))
