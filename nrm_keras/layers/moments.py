"""The kernel of all layers: moments of each channel of each example, pooled over whom the layer likes.

Every tensor here has the four axes (example, positions before the channel axis, channel, positions behind it), so that
one reshape, which moves no data, serves every rank and every channel axis. Statistics keep all four axes and broadcast.

A mean is always measured from `shift`, a constant close to the data: y = (x - shift) * A + B loses no digits where the
data's offset is large against its spread. The shift never changes a result otherwise, so no derivative passes through it.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from nrm_keras.layers import backend, kernel
from nrm_keras.layers.kernel import Tensor

Sums = Callable[[Tensor], Tensor]


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


def without_padding(x: Tensor, mask: Tensor) -> Tensor:
    """x without what is not finite in its padding: times a gradient of zero, NaN and infinity would still be NaN."""
    return ops.where(ops.logical_or(mask, ops.isfinite(x)), x, 0)


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


def each_its_own(rows: Tensor) -> Tensor:
    """Sums nothing: every row has its own statistics."""
    return rows


def over_batch(rows: Tensor) -> Tensor:
    """Sums the rows of all examples."""
    return kernel.total(rows, (0,))


def over_groups(groups: int) -> Sums:
    """Sums the rows of the channels of each of some groups of neighbouring channels."""
    if groups == 1:
        return lambda rows: kernel.total(rows, (2,))

    def sums(rows):
        channels = rows.shape[2]
        split = ops.reshape(rows, (-1, 1, groups, channels // groups, 1))
        shared = ops.sum(split, 3, keepdims=True) + ops.zeros_like(split)
        return ops.reshape(shared, (-1, 1, channels, *rows.shape[3:]))

    return sums


def over_virtual_batches(size: int) -> Sums:
    """Sums the rows of each `size` examples in their order; the last ones may be fewer."""

    def sums(rows):
        count, rest = ops.shape(rows)[0], tuple(rows.shape[1:])
        batches = ops.reshape(ops.pad(rows, [[0, -count % size], *[[0, 0]] * len(rest)]), (-1, size, *rest))
        shared = ops.sum(batches, 1, keepdims=True) + ops.zeros_like(batches)
        return ops.reshape(shared, (-1, *rest))[:count]

    return sums


def pool_rows(mean: Tensor, variance: Tensor, shift: Tensor, weight: Tensor | None, sums: Sums) -> Pooled:
    """Law of total variance over the rows that `sums` adds up, each with its weight and mean measured from its shift.

    Without weights all rows weigh 1. Where all weights are zero the mean is 0 and the variance 1, so that whatever is
    normalized with it stays as it is.
    """
    weight = ops.ones_like(mean) if weight is None else weight + ops.zeros_like(mean)
    total = sums(weight)
    share = weight * reciprocal(total)
    reference = sums(share * shift)
    moved = (shift - reference) + mean
    pooled_mean = sums(share * moved)
    pooled_variance = sums(share * (variance + ops.square(moved - pooled_mean)))
    return Pooled(total, reference, pooled_mean, ops.where(total > 0, pooled_variance, 1), examples=None)


def average_rows(pooled: Pooled) -> Pooled:
    """One row for all from those of virtual batches, the mean over their examples; `examples` as its geometric mean."""
    share = ops.cast(pooled.weight > 0, pooled.mean.dtype)
    share = share * reciprocal(over_batch(share))
    means = (over_batch(share * values) for values in (pooled.reference, pooled.mean, pooled.variance))
    examples = pooled.examples
    if examples is not None:
        examples = ops.exp(over_batch(share * ops.log(ops.maximum(examples, 1))))
    return Pooled(over_batch(pooled.weight), *means, examples)


def reciprocal(count: Tensor) -> Tensor:
    """1 / count, or 1 where there is nothing to count."""
    # Weights count positions, so a total below 1 is 0: this divides by zero nowhere, not even in a gradient.
    return kernel.reciprocal(ops.maximum(count, 1))


def valid_examples(x: Tensor, mask: Tensor | None) -> Tensor:
    """1 for each example, or 0 where it is nothing but padding; shape (n, 1, 1, 1)."""
    if mask is None:
        return ops.ones((ops.shape(x)[0], 1, 1, 1), x.dtype)
    return ops.cast(ops.any(mask, axis=(1, 2, 3), keepdims=True), x.dtype)


class Moments:
    """Mean and variance of each channel of each example, and the ways to pool them.

    Shapes broadcast against x, which has shape (n, before, channels, behind) and is float32 or float64:
    `mean`, `variance` (population variance) and `weight` (number of valid positions; None where there is no mask, and
    all weigh the same) have one value per example and channel.
    Means are measured from `shift`, and `centered` is x - shift. Nothing else is computed before it is asked for.
    """

    def __init__(self, x: Tensor, mask: Tensor | None = None, shift: Tensor | None = None):
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
        return reciprocal(number_of(self._x, (1, 3)) if self._mask is None else self.weight)

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

    def relative(self, mean: Tensor) -> Tensor:
        """Measures a known mean per channel, of shape (channels,), from the shift."""
        return per_channel(mean, self._x.dtype) - self.shift

    def per_channel(self) -> tuple[Tensor, Tensor]:
        """(mean, variance) pooled over nobody: each channel of each example has its own."""
        return self._own

    def over_groups(self, groups: int) -> tuple[Tensor, Tensor]:
        """(mean, variance) pooled over `groups` groups of neighbouring channels of each example."""
        pooled = pool_rows(*self._own, self.shift, self.weight, over_groups(groups))
        return self.from_shift(pooled), pooled.variance

    def over_batch(self, synchronized: bool = False) -> tuple[Tensor, Tensor]:
        """(mean, variance) of each channel pooled over the batch; over all replicas' batches if `synchronized`."""
        pooled = self.batch(synchronized)
        return self.from_shift(pooled), pooled.variance

    def from_shift(self, pooled: Pooled) -> Tensor:
        """A pooled mean, measured from the shift."""
        return pooled.mean - (self.shift - pooled.reference)

    def batch(self, synchronized: bool = False, virtual_batch_size: int | None = None) -> Pooled:
        """The batch's statistics per channel, of shape (1, 1, channels, 1), and the number of its valid examples.

        With virtual batches each example has those of its own, in shape (n, 1, channels, 1).
        """
        sums = over_batch if virtual_batch_size is None else over_virtual_batches(virtual_batch_size)
        pooled = pool_rows(*self._own, self.shift, self.weight, sums)
        pooled = pooled._replace(examples=sums(valid_examples(self._x, self._mask)))
        return _over_replicas(pooled) if synchronized else pooled


def number_of(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The number of positions along the axes, in the dtype of x."""
    sizes = (x.shape[axis] if x.shape[axis] is not None else ops.shape(x)[axis] for axis in axes)
    return ops.cast(functools.reduce(operator.mul, sizes, 1), x.dtype)


def _over_replicas(pooled: Pooled) -> Pooled:
    # The replicas' statistics travel together: one collective per layer and step.
    shape = (1, 1, pooled.mean.shape[2], 1)
    rows = backend.gather(ops.concatenate([ops.broadcast_to(value, shape) for value in pooled], axis=1))
    # Gathered, the sizes are no longer known.
    rows = ops.reshape(rows, (-1, len(pooled), *shape[2:]))
    weight, reference, mean, variance, examples = (rows[:, i : i + 1] for i in range(len(pooled)))
    return pool_rows(mean, variance, reference, weight, over_batch)._replace(examples=over_batch(examples[:, :, :1]))
