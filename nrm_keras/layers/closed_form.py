"""Whole normalizations with their gradients in closed form: what the layers use where speed counts.

With `t = x - shift`, moments of t for each row (a channel of an example, or of the batch) and statistics pooled from the
rows', a part of a mixture is `t * r + o`, r the reciprocal deviation and o = -mean * r, and the whole is

    y = t * (A * gamma) + (B * gamma + beta),    A = sum_i w_i r_i,    B = sum_i w_i o_i.

The backward pass needs two sums over the positions, `sum(dy)` and `sum(dy * t)`, from which everything but dx follows on
arrays as small as the rows, and one pass for dx:

    dx = dy * A * gamma - t * K - L,    K = sum_i r_i^2 M2_i,    L = sum_i r_i (M1_i + o_i M2_i),

M1_i and M2_i the means of g_i and g_i * (t * r_i + o_i) over those who share the statistics, g_i = w_i * gamma * dy.

Within this file arrays lack the axis for the positions behind where there are none: a last axis of size 1 is slow.
"""

import keras
from keras import ops

from nrm_keras.layers import backend
from nrm_keras.layers.kernel import Tensor, center, rsqrt, sum_like, total, with_gradient
from nrm_keras.layers.moments import (
    Pooled,
    Sums,
    number_of,
    over_batch,
    over_virtual_batches,
    pool_rows,
    reciprocal,
    reshape,
)

# The mean of any eighth of the values is within 3 standard deviations of the mean of all: near enough for a shift.
BLOCK = 8
# Below, a kernel for GPUs gives up.
SMALLEST_FUSED_EPSILON = 1.001e-5

_POSITIONS = (1, 3)


def mixture(
    x: Tensor,
    mask: Tensor | None,
    parts: tuple[Sums, ...],
    weights: tuple[Tensor, ...],
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
) -> tuple[Tensor, list[Pooled]]:
    """x normalized with a mixture of statistics, and the statistics of each part, which are constants.

    Args:
        x: (n, positions before, channels, positions behind), float32 or float64.
        mask: Boolean, broadcastable to x, or None. Padding in x must be finite.
        parts: for each part of the mixture, how the rows that share their statistics are summed.
        weights: one for each part, which add up to 1, broadcastable to (n, 1, channels, 1); none with one part.
        gamma, beta: broadcastable to (1, 1, channels, 1).
        epsilon: added to the variances.
    """
    shape, dynamic = tuple(x.shape), ops.shape(x)
    statistics: list[Pooled] = []
    if shape[3] == 1:
        x, gamma, beta, *weights = (ops.squeeze(tensor, 3) for tensor in (x, gamma, beta, *weights))
        mask = mask if mask is None else ops.squeeze(mask, 3)

    def function(x, gamma, beta, *weights):
        size = number_of(x, _POSITIONS[: len(x.shape) - 2]) if mask is None else _sum(ops.cast(mask, x.dtype))
        share = reciprocal(size)
        shift = _shift(x, mask)
        t = x - shift
        error = share * _sum(_valid(t, mask))
        variance = ops.maximum(share * _sum(_valid(ops.square(t), mask)) - ops.square(error), 0)
        scale, offset, shared = 0, 0, []
        for sums, weight in zip(parts, weights or (1,), strict=True):
            pooled = pool_rows(error, variance, shift, size, sums)
            r = rsqrt(pooled.variance + epsilon)
            o = ((shift - pooled.reference) - pooled.mean) * r
            scale, offset = scale + weight * r, offset + weight * o
            shared.append((sums, reciprocal(pooled.weight), r, o, weight))
            statistics.append(Pooled(*map(ops.stop_gradient, pooled[:4]), examples=None))
        y = t * (scale * gamma) + (offset * gamma + beta)

        def gradient(slope):
            db, da = _sum(slope), _sum(slope * t)
            k, l, weight_slopes = 0, 0, []
            for sums, part_share, r, o, weight in shared:
                g = db * gamma
                along = da * gamma * r + g * o
                m1, m2 = part_share * sums(weight * g), part_share * sums(weight * along)
                k, l = k + ops.square(r) * m2, l + r * (m1 + o * m2)
                weight_slopes.append(along)
            # A difference: TensorFlow rewrites a sum of large products into a slower one.
            dx = slope * (scale * gamma) - _valid(t * k + l, mask)
            dgamma, dbeta = sum_like(da * scale + db * offset, gamma), sum_like(db, beta)
            return dx, dgamma, dbeta, *(sum_like(s, w) for s, w in zip(weight_slopes, weights, strict=False))

        return y, gradient

    y = with_gradient(function)(x, gamma, beta, *weights)
    return reshape(y, shape, lambda: dynamic), statistics


def batch(
    x: Tensor, mask: Tensor | None, gamma: Tensor, beta: Tensor, epsilon: float, virtual_batch_size: int | None = None
) -> tuple[Tensor, Pooled]:
    """x normalized with the statistics of its batch, or of each virtual batch, and these statistics.

    Arguments as for `mixture`. TensorFlow's own kernel does it where it can.
    """
    if virtual_batch_size is None and mask is None and fits_fused_kernel(x, epsilon):
        return _fused_batch(x, gamma, beta, epsilon)
    values, valid, part = x, mask, over_batch
    if virtual_batch_size is not None:
        part = over_virtual_batches(virtual_batch_size)
    elif x.shape[3] == 1:
        # Rows of the whole batch, of which there is one for each channel.
        values = ops.reshape(x, (1, -1, x.shape[2], 1))
        valid = mask if mask is None else ops.reshape(mask, (1, -1, mask.shape[2], 1))
    y, (statistics,) = mixture(values, valid, (part,), (), gamma, beta, epsilon)
    return reshape(y, tuple(x.shape), lambda: ops.shape(x)), statistics


def fits_fused_kernel(x: Tensor, epsilon: float) -> bool:
    """Whether TensorFlow's own kernel of batch normalization can take x, which is not masked."""
    return (
        x.shape[3] == 1
        and keras.backend.standardize_dtype(x.dtype) == "float32"
        and epsilon > SMALLEST_FUSED_EPSILON
        and backend.has_fused_batch_norm()
    )


def batch_known(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    """x normalized with known statistics of shape (channels,) by TensorFlow's kernel, where `fits_fused_kernel`."""
    images = ops.reshape(x, (-1, x.shape[1] or 1, 1, x.shape[2]))
    y, *_ = backend.fused_batch_norm(images, _per_channel(x, gamma), _per_channel(x, beta), epsilon, (mean, variance))
    return reshape(y, tuple(x.shape), lambda: ops.shape(x))


def positions(x: Tensor, gamma: Tensor, beta: Tensor | None, epsilon: float, groups: int = 1) -> Tensor:
    """x with each group of channels of each position normalized on its own; arguments as for `mixture`."""
    first = x.shape[3] != 1
    last = ops.transpose(x, (0, 1, 3, 2)) if first else x
    shape = (-1,) if groups == 1 else (groups, x.shape[2] // groups)
    gamma, beta = (None if v is None else ops.reshape(_per_channel(x, v), shape) for v in (gamma, beta))
    y = rows(ops.reshape(last, (-1, *gamma.shape)), None, gamma, beta, epsilon)
    y = reshape(y, tuple(last.shape), lambda: ops.shape(last))
    return ops.transpose(y, (0, 1, 3, 2)) if first else y


def rows(x: Tensor, mask: Tensor | None, gamma: Tensor, beta: Tensor | None, epsilon: float) -> Tensor:
    """x of shape (n, channels) or (n, groups, channels), each row of channels normalized over the valid ones.

    gamma and beta have the shape of x without its first axis; without a beta, nothing is added.
    """

    @with_gradient
    def function(x, gamma, *beta):
        count = ops.full((1, 1), x.shape[-1], x.dtype) if mask is None else _total(ops.cast(mask, x.dtype))
        share = reciprocal(count)
        t = x - share * _total(_valid(x, mask))
        # Of a large mean, rounding leaves something.
        error = share * _total(_valid(t, mask))
        variance = ops.maximum(share * _total(_valid(ops.square(t), mask)) - ops.square(error), 0)
        r = rsqrt(ops.where(count > 0, variance, 1) + epsilon)
        normalized = t * r - error * r
        y = normalized * gamma + beta[0] if beta else normalized * gamma

        def gradient(slope):
            along = slope * normalized
            g = slope * gamma
            common = normalized * (share * _total(along, gamma)) + share * _total(g)
            return (g - _valid(common, mask)) * r, _like(along, gamma), *(_like(slope, b) for b in beta)

        return y, gradient

    return function(x, gamma, *(() if beta is None else (beta,)))


def _fused_batch(x, gamma, beta, epsilon):
    # The kernel loses digits to a large mean. Of n examples, one alone can be sqrt(n) standard deviations from it.
    sample = _sample(ops.squeeze(x[: (ops.shape(x)[0] + BLOCK - 1) // BLOCK], 3))
    shift = ops.squeeze(_finite_mean(ops.reshape(sample, (1, -1, x.shape[2])), None), (0, 1))
    # Positions stay an axis of their own: kernels of GPUs bound the first one.
    images = ops.reshape(x, (-1, x.shape[1] or 1, 1, x.shape[2]))
    y, mean, variance = backend.fused_batch_norm(
        center(images, shift), _per_channel(x, gamma), _per_channel(x, beta), epsilon
    )
    statistics = (ops.reshape(ops.stop_gradient(v), (1, 1, -1, 1)) for v in (shift, mean, variance))
    return reshape(y, tuple(x.shape), lambda: ops.shape(x)), Pooled(ops.ones(()), *statistics, examples=None)


def _per_channel(x, parameter):
    return ops.reshape(ops.broadcast_to(parameter, (1, 1, x.shape[2], 1)), (-1,))


def _shift(x, mask):
    """A finite constant near the data: of x - shift no digits are lost to a large mean."""
    return _finite_mean(_sample(x) if mask is None else x, mask)


def _sample(x):
    """An eighth of the positions, where there are many."""
    for axis in _POSITIONS[: len(x.shape) - 2]:
        size = x.shape[axis]
        if size is not None and size >= BLOCK**2:
            return x[(slice(None),) * axis + (slice(size // BLOCK),)]
    return x


def _finite_mean(x, mask):
    axes = _POSITIONS[: len(x.shape) - 2]
    count = number_of(x, axes) if mask is None else _sum(ops.cast(mask, x.dtype))
    shift = reciprocal(count) * _sum(_valid(x, mask))
    return ops.stop_gradient(ops.where(ops.isfinite(shift), shift, 0))


def _valid(values, mask):
    return values if mask is None else ops.where(mask, values, 0)


def _sum(values):
    """The sum over the positions."""
    if len(values.shape) == 3 and values.shape[1] != 1 and backend.on_cpu() and not backend.compiled_by_xla():
        return ops.matmul(ops.ones((1, ops.shape(values)[1]), values.dtype), values)
    return total(values, _POSITIONS[: len(values.shape) - 2])


def _like(values, parameter):
    """The sum over all rows, for a parameter of the shape of one."""
    if len(values.shape) > 2 or not backend.on_cpu() or backend.compiled_by_xla():
        return sum_like(values, parameter)
    return ops.reshape(ops.matmul(ops.ones((1, ops.shape(values)[0]), values.dtype), values), (-1,))


def _total(values, weights=None):
    """The sum over the last axis, of values * weights."""
    if backend.on_cpu() and weights is not None and len(values.shape) == 2:
        return ops.matmul(values, ops.reshape(weights, (-1, 1)))
    values = values if weights is None else values * weights
    if backend.on_cpu() and backend.compiled_by_xla():
        # XLA adds along the last axis of an array one number after the other.
        return ops.matmul(values, ops.ones((values.shape[-1], 1), values.dtype))
    return ops.sum(values, -1, keepdims=True)
