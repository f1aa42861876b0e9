"""Weights: how far an update moves them, which are scale-invariant, and where these come to rest."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics.objective import Objective

# The weights are multiplied by these, powers of 2 since these round nothing: LARGE takes them out of the normalizer's
# epsilon, LARGER shows the 1/a, and MIXED, over the channels in turn, that each may have a scale of its own.
LARGE, LARGER, MIXED = 32.0, 128.0, (8.0, 128.0)
# What rounding may leave of the cosine, by the least precise dtype that a layer computes in.
ROUNDING = {"bfloat16": 2e-2, "float16": 3e-3, "float32": 3e-5, "float64": 1e-9}
# What may be left at LARGE of the cosine at the present weights: about 1/1000 of what is due to epsilon, but 1/32 of what a
# bias makes in front of a normalizer across channels.
_LEFT = 0.01
# Loose, for the gradient jumps where a ReLU changes sides. It keeps out what is orthogonal by accident or rounding.
_SAME = 0.1
# How far the present gradient may be from that at LARGE. A saturated tanh is invariant too, but only there.
_PRESENT = 0.7


def update_ratio(before: Any, after: Any) -> float:
    """`||after - before|| / ||before||` of one tensor; about 1e-3 is healthy.

    Computed in float64. 0 if nothing moved, infinite if a tensor of zeros did, NaN if a value is.

    >>> from nrm_keras.diagnostics.weights import update_ratio
    >>> update_ratio([3.0, 4.0], [3.0, 4.5])
    0.1
    """
    before, after = np.asarray(before, "float64"), np.asarray(after, "float64")
    moved, norm = np.linalg.norm(after - before), np.linalg.norm(before)
    if moved == 0:
        return 0.0
    return float(moved / norm) if norm > 0 else float("nan" if np.isnan(norm) else "inf")


@dataclasses.dataclass(frozen=True)
class Invariance:
    """A scale-invariant weight.

    `cosine` is |<w, g>| / (||w|| ||g||) at the present weights. `error` is how far the present gradient is from that of
    exact invariance, ||32 g(32w) - g(w)|| / ||g(w)||: what the normalizer's epsilon leaves, with ReLUs that change sides
    for it; near 0 where epsilon is small against the variance. `norm` is ||w||. `channel_axis` is the axis of the weight whose entries may each be scaled on
    their own, the output channels in front of a BatchNormalization; None if only the whole tensor may be.
    """

    cosine: float
    error: float
    norm: float
    channel_axis: int | None


def scale_invariant(objective: Objective, tolerance: float | None = None) -> dict[str, Invariance]:
    """The weights whose scale the loss doesn't see, as in front of a normalizer, found without knowing the layers.

    Equation: L(a w) = L(w) for a > 0, so `<w, g(w)> = 0` and `g(a w) = g(w) / a`, g the gradient.

    Normalizers have an epsilon, so that both hold up to a share of about epsilon / (variance + epsilon). Therefore they
    are held at weights 32 times larger, where that share is 1,000 times smaller: the cosine of 32w and g(32w) is at most
    `tolerance`, or 1% of the present one, and 32 g(32w) and 128 g(128w) differ by at most 10%. The second condition is
    what weights fail that are orthogonal by accident, and gradients of rounding errors. Last, g(w) and 32 g(32w) differ
    by at most 70%, so that weights count where the variance behind them is above about half of epsilon; `error` tells
    how much that is. A gradient of 0 proves nothing: its weight is left out.

    All other weights are as they are, hence: a Dense layer in front of a LayerNormalization is in the list while its bias
    is 0. Vectors are not looked at, since gamma in front of another normalizer is invariant only while beta is 0. What
    weight regularizers add to the gradient is taken out. At most three gradients for each matrix or kernel.

    Args:
        objective: the loss on a batch, in the mode that is trained, as a rule.
        tolerance: what rounding may leave of a cosine of 0; None for 3e-5, or 1e-9 with layers in float64, 3e-3 in
            float16, 2e-2 in bfloat16.

    Returns:
        {variable's path: `Invariance`} of the scale-invariant ones, in the order of the model's.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.diagnostics.objective import Objective
    >>> from nrm_keras.diagnostics.weights import scale_invariant
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, name="first"),
    ...     keras.layers.BatchNormalization(), keras.layers.ReLU(), keras.layers.Dense(1, name="last")], name="net")
    >>> model.compile(loss="mse")
    >>> x = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    >>> found = scale_invariant(Objective(model, x, x[:, :1]))
    >>> [(path, invariance.channel_axis) for path, invariance in found.items()]
    [('net/first/kernel', 1)]

    Source: van Laarhoven 2017 (arXiv:1706.05350), section 2.
    """
    if tolerance is None:
        tolerance = max(ROUNDING[dtype] for dtype in objective.compute_dtypes)
    probe = _Probe(objective)
    found = {}
    for index, variable in enumerate(objective.variables):
        if len(variable.shape) > 1 and (invariance := _invariance(probe, index, tolerance)) is not None:
            found[variable.path] = invariance
    return found


class _Probe:
    """Weights and gradients of the data's loss in float64, one weight scaled."""

    def __init__(self, objective):
        self._objective = objective
        self._values = [tf.identity(variable.value) for variable in objective.variables]
        self.weights = [value.numpy().astype("float64") for value in self._values]
        self._gradients = objective.gradient(self._values)

    def gradient(self, index, scale=None):
        """That of one weight with this weight times `scale`; a times it is what exact invariance leaves the same."""
        if scale is None:
            return self._data_only(index, self._values[index], self._gradients[index])
        values = list(self._values)
        values[index] *= tf.cast(scale, values[index].dtype)
        return scale * self._data_only(index, values[index], self._objective.gradient(values)[index])

    def _data_only(self, index, value, gradient):
        regularizer = self._objective.variables[index].regularizer
        gradient = gradient.numpy().astype("float64")
        if regularizer is None or not self._objective.regularized:
            return gradient
        with tf.GradientTape() as tape:
            tape.watch(value)
            penalty = regularizer(value)
        return gradient - tape.gradient(penalty, value).numpy()


def _invariance(probe, index, tolerance):
    w, g = probe.weights[index], probe.gradient(index)
    if not (np.any(w) and np.any(g)) or not np.all(np.isfinite(g)):
        return None
    larger = probe.gradient(index, np.full_like(w, LARGE))
    error = _difference(larger, g)
    if not (_orthogonal(w, g, larger, tolerance) and error <= _PRESENT):
        return None
    axis = _channel_axis(probe, index, g, larger, tolerance)
    if axis is None and not _difference(probe.gradient(index, np.full_like(w, LARGER)), larger) <= _SAME:
        return None
    return Invariance(_radial(w, g), error, float(np.linalg.norm(w)), axis)


def _channel_axis(probe, index, g, larger, tolerance):
    """The axis with most channels whose weights are orthogonal to their gradients, and stay so at mixed scales."""
    w = probe.weights[index]
    axes = [axis for axis in range(w.ndim) if w.shape[axis] > 1 and _orthogonal(w, g, larger, tolerance, axis)]
    for axis in sorted(axes, key=lambda axis: (-w.shape[axis], -axis)):
        shape = [-1 if other == axis else 1 for other in range(w.ndim)]
        mixed = np.reshape(np.where(np.arange(w.shape[axis]) % 2, *MIXED), shape) * np.ones_like(w)
        if _difference(probe.gradient(index, mixed), larger) <= _SAME:
            return axis
    return None


def _orthogonal(w, g, larger, tolerance, axis=None):
    return _radial(w, larger, axis) <= max(tolerance, _LEFT * _radial(w, g, axis))


def _radial(w, g, axis=None):
    """The share of the gradient along the weights, of each channel if there is an axis: |cosine| of w and g."""
    others = None if axis is None else tuple(other for other in range(w.ndim) if other != axis)
    norm = np.sqrt(np.sum(w * w, axis=others))
    along = np.sum(w * g, axis=others) / np.where(norm > 0, norm, 1.0)
    return _relative(np.linalg.norm(along), g)


def _difference(a, b):
    return _relative(np.linalg.norm(a - b), b)


def _relative(part, whole):
    norm = np.linalg.norm(whole)
    return float(part / norm) if norm > 0 else float("inf")


def effective_learning_rate(weight_norm: float, learning_rate: float, optimizer: str = "sgd") -> float:
    """The learning rate of a scale-invariant weight's direction: `eta / ||w||^2` for SGD, `eta / ||w||` for Adam.

    Momentum does not count: with SGD's momentum beta the direction moves 1 / (1 - beta) times as far.

    Args:
        weight_norm: ||w|| > 0, of the whole tensor.
        learning_rate: eta.
        optimizer: "sgd", with or without momentum, or "adam", any whose step does not grow with the gradient.

    Raises:
        ValueError: another optimizer.

    >>> from nrm_keras.diagnostics.weights import effective_learning_rate
    >>> effective_learning_rate(2.0, 0.1), effective_learning_rate(2.0, 0.1, "adam")
    (0.025, 0.05)

    Source: van Laarhoven 2017 (arXiv:1706.05350), section 3.
    """
    if optimizer not in ("sgd", "adam"):
        raise ValueError(
            f"`optimizer` must be 'sgd' or 'adam'. Received: {optimizer!r}. "
            "Take 'adam' for all that divide by the gradient's size."
        )
    return learning_rate / weight_norm ** (2 if optimizer == "sgd" else 1)


def equilibrium_norm(
    learning_rate: float,
    weight_decay: float,
    momentum: float,
    gradient_norm_at_unit_norm: float,
    decoupled: bool = True,
) -> float:
    """The norm at which SGD's steps and weight decay balance, of a scale-invariant weight.

    Equation: `||w||^4 = eta ||g~||^2 / (2 lambda (1 - beta))`, where the decoupled decay counts as lambda (1 - beta).
    Infinite without decay: the norm only grows. Holds after about 1 / (eta lambda) steps, for gradients that change
    from step to step more than they agree.

    Args:
        learning_rate: eta.
        weight_decay: lambda.
        momentum: beta, 0 for none.
        gradient_norm_at_unit_norm: ||g~|| = ||g|| ||w||, root mean square over batches.
        decoupled: whether `w -= eta lambda w`, Keras' `weight_decay`, or the L2 term lambda ||w||^2 / 2 in the loss.

    >>> from nrm_keras.diagnostics.weights import equilibrium_norm
    >>> round(equilibrium_norm(0.1, 5e-4, 0.9, 0.2, decoupled=False), 4)
    2.5149

    Source: van Laarhoven 2017 (arXiv:1706.05350), section 3; momentum: Wan et al. 2021 (arXiv:2006.08419).
    """
    decay = _coupled(weight_decay, momentum, decoupled)
    if decay == 0:
        return float("inf")
    return float((learning_rate * gradient_norm_at_unit_norm**2 / (2 * decay * (1 - momentum))) ** 0.25)


def angular_update(learning_rate: float, weight_decay: float, momentum: float, decoupled: bool = True) -> float:
    """The angle in radians by which a step turns a scale-invariant weight at equilibrium, whatever its gradient.

    Equation: `sqrt(2 eta lambda / (1 + beta))`, where the decoupled decay counts as lambda (1 - beta). Root mean square;
    the angle is small. Arguments and source as for `equilibrium_norm`.

    >>> from nrm_keras.diagnostics.weights import angular_update
    >>> round(angular_update(0.1, 5e-4, 0.9, decoupled=False), 5)
    0.00725
    """
    return float(np.sqrt(2 * learning_rate * _coupled(weight_decay, momentum, decoupled) / (1 + momentum)))


def _coupled(weight_decay, momentum, decoupled):
    return weight_decay * (1 - momentum) if decoupled else weight_decay
