"""Weights: how far an update moves them, which are scale-invariant, and where these come to rest."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics.objective import Objective

# The weights are multiplied by these: the first takes them out of the normalizer's epsilon, the second shows the 1/a.
SCALES = (8.0, 32.0)


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
    exact invariance, ||8 g(8w) - g(w)|| / ||g(w)||: what the normalizer's epsilon leaves, near 0 where it is small
    against the variance. `norm` is ||w||. `channel_axis` is the axis of the weight whose entries may each be scaled on
    their own, the output channels in front of a BatchNormalization; None if only the whole tensor may be.
    """

    cosine: float
    error: float
    norm: float
    channel_axis: int | None


def scale_invariant(objective: Objective, tolerance: float = 1e-2) -> dict[str, Invariance]:
    """The weights whose scale the loss doesn't see, as in front of a normalizer, found without knowing the layers.

    Equation: L(a w) = L(w) for a > 0, so `<w, g(w)> = 0` and `g(a w) = g(w) / a`, g the gradient.

    Normalizers have an epsilon, so that it holds up to epsilon / (variance + epsilon). Therefore both are held against
    `tolerance` at weights 8 times larger, where that share is 64 times smaller: the cosine at 8w, and the relative
    difference of 8 g(8w) and 32 g(32w). At the default 0.01 weights count as scale-invariant if the variance behind
    them is above about 1.5 epsilon; `error` tells what epsilon does at the present weights. The second condition is
    also what weights fail that are orthogonal by accident, and gradients of rounding errors. A gradient of 0 proves
    nothing: its weight is left out.

    All other weights are as they are, hence: a Dense layer in front of a LayerNormalization is in the list while its bias
    is 0. Vectors are not looked at, since gamma in front of another normalizer is invariant only while beta is 0. What
    weight regularizers add to the gradient is taken out. At most three gradients for each matrix or kernel.

    Args:
        objective: the loss on a batch, in the mode that is trained, as a rule.
        tolerance: relative. Layers computing in bfloat16 need about 0.05.

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
    if _radial(w, g) > 0.5:
        # No epsilon worth the name leaves so much.
        return None
    low, high = SCALES
    larger = probe.gradient(index, np.full_like(w, low))
    if not _radial(w, larger) <= tolerance:
        return None
    axis = _channel_axis(probe, index, w, larger, tolerance)
    if axis is None and not _difference(probe.gradient(index, np.full_like(w, high)), larger) <= tolerance:
        return None
    return Invariance(_radial(w, g), _difference(larger, g), float(np.linalg.norm(w)), axis)


def _channel_axis(probe, index, w, larger, tolerance):
    """The axis with most channels whose weights are orthogonal to their gradients, and stay so at mixed scales."""
    axes = [axis for axis in range(w.ndim) if w.shape[axis] > 1 and _radial(w, larger, axis) <= tolerance]
    for axis in sorted(axes, key=lambda axis: (-w.shape[axis], -axis)):
        shape = [-1 if other == axis else 1 for other in range(w.ndim)]
        mixed = np.reshape(np.where(np.arange(w.shape[axis]) % 2, *SCALES), shape) * np.ones_like(w)
        if _difference(probe.gradient(index, mixed), larger) <= tolerance:
            return axis
    return None


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
