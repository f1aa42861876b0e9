"""Plain NumPy float64 references. They loop and index as the definitions read; none shares code with the package."""

import numpy as np


def _statistics(values):
    """Mean and population variance in two passes; 0 and 1 of no values."""
    if values.size == 0:
        return 0.0, 1.0
    mean = np.sum(values) / values.size
    return mean, np.sum((values - mean) ** 2) / values.size


def _affine(x, gamma, beta, axis):
    shape = [1] * x.ndim
    shape[axis] = -1
    return x * np.reshape(gamma, shape) + np.reshape(beta, shape)


def batch_statistics(x, axis=-1, mask=None):
    """Mean and variance of each channel over all valid examples and positions; `mask` lacks the channel axis."""
    x = np.moveaxis(np.asarray(x, "float64"), axis, -1)
    mask = np.ones(x.shape[:-1], bool) if mask is None else np.asarray(mask, bool)
    pairs = [_statistics(x[..., c][mask]) for c in range(x.shape[-1])]
    return np.array([mean for mean, _ in pairs]), np.array([variance for _, variance in pairs])


def standardize(x, mean, variance, epsilon, axis=-1):
    """x with each channel's given mean and variance taken out."""
    rows = np.moveaxis(np.asarray(x, "float64"), axis, -1)
    return np.moveaxis((rows - mean) / np.sqrt(variance + epsilon), -1, axis)


def batch_normalization(x, gamma, beta, epsilon, axis=-1, mask=None):
    """Ioffe & Szegedy 2015, algorithm 1."""
    return _affine(standardize(x, *batch_statistics(x, axis, mask), epsilon, axis), gamma, beta, axis)


def inference(x, gamma, beta, moving_mean, moving_variance, epsilon, axis=-1):
    """Ioffe & Szegedy 2015, algorithm 2."""
    return _affine(standardize(x, moving_mean, moving_variance, epsilon, axis), gamma, beta, axis)


def group_normalization(x, gamma, beta, epsilon, groups, axis=-1, mask=None, positions="pooled"):
    """Wu & He 2018, equations 1 to 7; groups=-1 gives each channel its own group."""
    x = np.moveaxis(np.asarray(x, "float64"), axis, -1)
    mask = np.ones(x.shape[:-1], bool) if mask is None else np.asarray(mask, bool)
    size = 1 if groups == -1 else x.shape[-1] // groups
    y = np.empty_like(x)
    for n in range(x.shape[0]):
        for first in range(0, x.shape[-1], size):
            block = x[n, ..., first : first + size]
            if positions == "pooled":
                mean, variance = _statistics(block[mask[n]])
                y[n, ..., first : first + size] = (block - mean) / np.sqrt(variance + epsilon)
                continue
            for position in np.ndindex(block.shape[:-1]):
                mean, variance = _statistics(block[position])
                y[n][position][first : first + size] = (block[position] - mean) / np.sqrt(variance + epsilon)
    return _affine(np.moveaxis(y, -1, axis), gamma, beta, axis)


def domain_statistics(x, domain, domains, mask=None, axis=-1):
    """Chang et al. 2019, equations 4 and 5: (mean, variance) for each example, unknown domains from all examples."""
    x, mask = np.asarray(x, "float64"), np.ones(np.delete(np.shape(x), axis), bool) if mask is None else mask
    pairs = []
    for d in domain:
        chosen = [n for n in range(len(x)) if domain[n] == d or not 0 <= d < domains]
        pairs.append(batch_statistics(x[chosen], axis, mask[chosen]))
    return pairs


def domain_batch_normalization(x, gamma, beta, pairs, epsilon, axis=-1):
    """Each example with its own pair of statistics."""
    rows = [
        inference(example[None], gamma, beta, mean, variance, epsilon, axis)
        for example, (mean, variance) in zip(np.asarray(x, "float64"), pairs, strict=True)
    ]
    return np.concatenate(rows) if rows else np.zeros(np.shape(x))


def layer_normalization(x, gamma, beta, epsilon, axes, mask=None):
    """Ba et al. 2016, equations 3 and 4, over `axes`; `mask` has the leading dimensions of x."""
    x, axes = np.asarray(x, "float64"), sorted(axis % np.ndim(x) for axis in axes)
    valid = np.ones(x.shape, bool)
    if mask is not None:
        valid &= np.reshape(mask, np.shape(mask) + (1,) * (x.ndim - np.ndim(mask))).astype(bool)
    y = np.empty_like(x)
    for kept in np.ndindex(*(1 if axis in axes else size for axis, size in enumerate(x.shape))):
        where = tuple(slice(None) if axis in axes else kept[axis] for axis in range(x.ndim))
        mean, variance = _statistics(x[where][valid[where]])
        y[where] = (x[where] - mean) / np.sqrt(variance + epsilon) * gamma + beta
    return y


def switchable_normalization(x, gamma, beta, mean_logits, variance_logits, batch, epsilon, axis=-1, mask=None):
    """Luo et al. 2019, equation 3; `batch` is (mean, variance) of each channel over the batch, or running ones."""
    x = np.moveaxis(np.asarray(x, "float64"), axis, -1)
    mask = np.ones(x.shape[:-1], bool) if mask is None else np.asarray(mask, bool)
    w, u = (np.exp(logits) / np.sum(np.exp(logits)) for logits in (mean_logits, variance_logits))
    y = np.empty_like(x)
    for n in range(x.shape[0]):
        layer_mean, layer_variance = _statistics(x[n][mask[n]])
        for c in range(x.shape[-1]):
            mean, variance = _statistics(x[n, ..., c][mask[n]])
            mean = w[0] * mean + w[1] * layer_mean + w[2] * batch[0][c]
            variance = u[0] * variance + u[1] * layer_variance + u[2] * batch[1][c]
            y[n, ..., c] = (x[n, ..., c] - mean) / np.sqrt(variance + epsilon)
    return _affine(np.moveaxis(y, -1, axis), gamma, beta, axis)


def batch_weight(examples, balance, gate_scale, delta, phi):
    """Weight of the adaptive mixer on batch statistics."""
    if examples <= 1:
        return np.zeros_like(np.asarray(delta, "float64"))
    alpha = np.log(1 + np.exp(phi))
    odds = ((examples - 1) / (balance - 1)) ** alpha * np.exp(-alpha * gate_scale * np.asarray(delta, "float64"))
    return odds / (1 + odds)


def mixture(weight, first, second, axis=-1):
    """weight * first + (1 - weight) * second, with one weight or one per channel."""
    return _affine(first, weight, 0.0, axis) + _affine(second, 1 - np.asarray(weight), 0.0, axis)


def gradient(function, x, step=1e-6):
    """Central differences of a scalar function of an array."""
    x = np.array(x, "float64")
    result = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = function(x)
        x[index] = kept - step
        result[index] = (above - function(x)) / (2 * step)
        x[index] = kept
    return result
