"""How internal distributions move, and what that does to the loss and its gradient."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics.objective import Objective

Moments = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Drift:
    """How far each channel's distribution is from its reference; arrays of shape (channels,), float64."""

    mean_shift: np.ndarray
    log_variance_ratio: np.ndarray
    kl_divergence: np.ndarray
    wasserstein: np.ndarray


@dataclasses.dataclass(frozen=True)
class LayerShift:
    """Of one layer: |G - G'|, and the cosine of the angle between G and G' (NaN where either is 0)."""

    layer: str
    norm: float
    distance: float
    cosine: float


@dataclasses.dataclass(frozen=True)
class Landscape:
    """Loss and gradient along the negative gradient g, at theta - step * g for each step.

    Attributes:
        steps: shape (n,).
        loss, gradient_norm: at theta.
        losses: shape (n,), the loss at each step.
        gradient_changes: shape (n,), |gradient at theta - gradient at the step|.
        loss_range, predictiveness: least and largest of `losses` and of `gradient_changes`.
        effective_beta: the largest |change of the gradient| / |step * g|; NaN where g is 0.
    """

    steps: np.ndarray
    loss: float
    gradient_norm: float
    losses: np.ndarray
    gradient_changes: np.ndarray

    @property
    def loss_range(self) -> tuple[float, float]:
        return float(np.min(self.losses)), float(np.max(self.losses))

    @property
    def predictiveness(self) -> tuple[float, float]:
        return float(np.min(self.gradient_changes)), float(np.max(self.gradient_changes))

    @property
    def effective_beta(self) -> float:
        if self.gradient_norm == 0:
            return float("nan")
        return float(np.max(self.gradient_changes / (self.steps * self.gradient_norm)))


def drift(reference: Moments, current: Moments) -> Drift:
    """How far the moments (mean, variance) of each channel are from a reference's.

    Equation: with means m0, m and standard deviations s0, s of reference and present, the standardized mean shift
    `(m - m0) / s0`, `log(s^2 / s0^2)`, the Kullback-Leibler divergence of the present Gaussian from the reference
    `log(s0 / s) + (s^2 + (m - m0)^2) / (2 s0^2) - 1/2`, and the 2-Wasserstein distance `sqrt((m - m0)^2 + (s - s0)^2)`.

    Moments must be those of the same batch before and after: else it is sampling noise that is measured.

    Of a channel that is constant, variance 0: what did not move at all is at 0 by all measures. Otherwise a reference
    of variance 0 gives a mean shift of plus or minus infinity, if the mean moved, and the log variance ratio infinity,
    if it is no longer constant; a present variance of 0 gives minus infinity. The divergence is infinity in all these
    cases, and the distance is finite in every case.

    Args:
        reference, current: (mean, variance), arrays of shape (channels,) each; population variances.

    Raises:
        ValueError: shapes differ, or a variance is below 0.

    Example:

    >>> from nrm_keras.diagnostics.shift import drift
    >>> moved = drift(([0.0, 0.0], [4.0, 0.0]), ([3.0, 0.0], [4.0, 0.0]))
    >>> moved.mean_shift.tolist(), moved.kl_divergence.tolist(), moved.wasserstein.tolist()
    ([1.5, 0.0], [1.125, 0.0], [3.0, 0.0])

    Source: KL and Wasserstein distances of Gaussians are textbook; standardized moments on a fixed batch are
    Ioffe & Szegedy 2015 (arXiv:1502.03167), section 4.1 and figure 1, in numbers.
    """
    arrays = [np.asarray(array, "float64") for array in (*reference, *current)]
    _check_moments(arrays)
    mean0, variance0, mean, variance = arrays
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = mean - mean0
        mean_shift = np.where(moved == 0, 0.0, moved / np.sqrt(variance0))
        log_ratio = np.where(variance == variance0, 0.0, np.log(variance) - np.log(variance0))
        relative = np.where((variance == 0) & (variance0 == 0), 1.0, variance / variance0)
        divergence = (relative - 1 - log_ratio + np.square(mean_shift)) / 2
        # inf - inf: infinity on either side.
        distance = np.hypot(moved, np.sqrt(variance) - np.sqrt(variance0))
    divergence = np.where(np.isfinite(log_ratio), divergence, np.inf)
    return Drift(mean_shift, log_ratio, divergence, distance)


def internal_covariate_shift(
    objective: Objective, before: Any, after: Any, layers: Sequence[str] | None = None
) -> list[LayerShift]:
    """How much the update of the layers in front of each changes the gradient that it gets.

    Equation: on one batch, with `G_i = grad_{W_i} L(W_1 .. W_k)` and
    `G'_i = grad_{W_i} L(W_1' .. W_{i-1}', W_i .. W_k)`, W before and W' after an update, `|G_i - G'_i|` and the cosine
    of the angle between them. It costs one gradient and one for each layer but the first, which has none below it.

    A layer here is a group of neighbours in `objective.variables` with one path but for the last name, in that order:
    for functional and Sequential models that of the forward pass.

    Args:
        objective: the loss on the batch.
        before, after: values of the variables, flat or lists.
        layers: paths of the layers to report, or their last names; None for all.

    Returns:
        A `LayerShift` for each layer.

    Raises:
        ValueError: one of `layers` is no layer of the objective.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.diagnostics.objective import Objective
    >>> from nrm_keras.diagnostics.shift import internal_covariate_shift
    >>> one = {"use_bias": False, "kernel_initializer": "ones"}
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, **one), keras.layers.Dense(1, **one)])
    >>> model.compile(loss="mse")
    >>> objective = Objective(model, np.ones((1, 1)), np.zeros((1, 1)))
    >>> [shift.distance for shift in internal_covariate_shift(objective, np.array([1.0, 1.0]), np.array([2.0, 1.0]))]
    [0.0, 6.0]

    Source: Santurkar et al. 2018 (arXiv:1805.11604), definition 2.1.
    """
    before, after = objective.flat(before), objective.flat(after)
    groups = _chosen(_layers(objective), layers)
    gradient = objective.gradient(before).numpy()
    shifts = []
    for path, start, stop in groups:
        mixed = tf.concat([after[:start], before[start:]], 0)
        changed = objective.gradient(mixed).numpy() if start else gradient
        shifts.append(_compare(path, gradient[start:stop], changed[start:stop]))
    return shifts


def landscape(
    objective: Objective, steps: Sequence[float], values: Any = None, start: tuple[Any, Any] | None = None
) -> Landscape:
    """Loss and gradient along the gradient: how far it can be trusted.

    Equation: with g = grad L(theta), `L(theta - step g)`, `|g - grad L(theta - step g)|`, and the effective smoothness
    `max over steps |g - grad L(theta - step g)| / |step g|`.

    Args:
        objective: the loss on the batch.
        steps: lengths in multiples of g, as learning rates are; not 0.
        values: theta; the model's present values by default.
        start: L(theta) and g, flat, where they are known; they save a pass.

    Raises:
        ValueError: no step, or one that is not above 0.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.diagnostics.objective import Objective
    >>> from nrm_keras.diagnostics.shift import landscape
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile(loss="mse")
    >>> along = landscape(Objective(model, np.ones((1, 1)), np.zeros((1, 1))), steps=(0.25, 0.5), values=np.ones(1))
    >>> along.losses.tolist(), along.predictiveness, along.effective_beta
    ([0.25, 0.0], (1.0, 2.0), 2.0)

    Source: Santurkar et al. 2018 (arXiv:1805.11604), section 3.1 and figure 4.
    """
    lengths = np.asarray(steps, "float64")
    if lengths.ndim != 1 or lengths.size == 0 or not np.all(lengths > 0):
        raise ValueError(
            f"`steps` must be numbers above 0. Received: steps={steps!r}. Pass learning rates, as (0.1, 1.0)."
        )
    theta = objective.values() if values is None else objective.flat(values)
    loss, gradient = objective.loss_and_gradient(theta) if start is None else start
    losses, changes = [], []
    for length in lengths:
        there, gradient_there = objective.loss_and_gradient(theta - tf.cast(length, theta.dtype) * gradient)
        losses.append(float(there))
        changes.append(_norm(gradient - gradient_there))
    return Landscape(lengths, float(loss), _norm(gradient), np.array(losses), np.array(changes))


def _layers(objective):
    """(path, first and last index in the flat vector) of each layer."""
    pairs = zip(objective.variables, objective.sizes, strict=True)
    groups, start = [], 0
    for path, members in itertools.groupby(pairs, key=lambda pair: pair[0].path.rpartition("/")[0]):
        stop = start + sum(size for _, size in members)
        groups.append((path, start, stop))
        start = stop
    return groups


def _chosen(groups, layers):
    if layers is None:
        return groups
    paths = [path for path, _, _ in groups]
    for layer in layers:
        if not any(_is_named(path, layer) for path in paths):
            raise ValueError(
                "`layers` must be layers with variables in the objective. "
                f"Received: {layer!r}. Known: {', '.join(paths)}."
            )
    return [group for group in groups if any(_is_named(group[0], layer) for layer in layers)]


def _is_named(path, layer):
    return f"/{path}".endswith(f"/{layer}")


def _compare(path, gradient, changed):
    norm, product = _norm(gradient), _norm(gradient) * _norm(changed)
    cosine = float(np.dot(gradient.astype("float64"), changed) / product) if product > 0 else float("nan")
    return LayerShift(path, norm, _norm(gradient - changed), cosine)


def _norm(vector):
    return float(np.linalg.norm(np.asarray(vector, "float64")))


def _check_moments(arrays):
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ValueError(
            "Means and variances of reference and present must have one shape, (channels,). "
            f"Received: {sorted(shapes)}. Take both from the same layer."
        )
    if np.any(arrays[1] < 0) or np.any(arrays[3] < 0):
        least = min(np.min(arrays[1]), np.min(arrays[3]))
        raise ValueError(f"A variance must not be below 0. Received: {least}. Pass (mean, variance), in this order.")
