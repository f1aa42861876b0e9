"""What a probed step showed, on the host."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import keras
import numpy as np

# How many values of a layer are kept.
SAMPLE = 1024


@dataclasses.dataclass(frozen=True)
class Activation:
    """The first output of one call of a layer, over one batch.

    Attributes:
        layer, type: the layer's name and class; a second call in the step is `name#2`.
        kind: what the values have gone through: "relu", "tanh", ..., or None.
        values: how many values a channel had.
        mean, variance: per channel, float64.
        sample: at most 1,024 values, the same places in each step.
        gradient_norm, gradient_rms: of the loss with respect to the activation, without loss scale; None where none came.
    """

    layer: str
    type: str
    kind: str | None
    values: float
    mean: np.ndarray
    variance: np.ndarray
    sample: np.ndarray
    gradient_norm: float | None
    gradient_rms: float | None

    @functools.cached_property
    def total_mean(self) -> float:
        with np.errstate(all="ignore"):
            return float(self.mean.mean())

    @functools.cached_property
    def total_variance(self) -> float:
        """Variance of all values, whatever their channel."""
        with np.errstate(all="ignore"):  # of values that are not finite it is not, either
            return float(self.variance.mean() + self.mean.var())

    @functools.cached_property
    def finite(self) -> bool:
        # a sum of finite values is not NaN, and squares that overflow are as good as infinite
        return math.isfinite(self.total_mean) and math.isfinite(self.total_variance)


@dataclasses.dataclass(frozen=True)
class Weight:
    """A variable in one update: how many numbers it has; norms of its value before, of its gradient and of what the
    update changed; `inner` is the inner product of value and gradient, `values` are all values after the update where
    they are few, else None."""

    variable: keras.Variable
    size: int
    norm: float
    gradient_norm: float
    update_norm: float
    inner: float
    values: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Moments per channel of what a layer with running statistics got, and those statistics behind the step."""

    layer: keras.layers.Layer
    name: str
    values: float
    mean: np.ndarray
    variance: np.ndarray
    moving_mean: np.ndarray
    moving_variance: np.ndarray


@dataclasses.dataclass(frozen=True)
class Reading:
    """What one step showed.

    `ends` are the names of those activations that are outputs of the model, or of a model in it. `first_inputs` are mean
    and variance of what the first layer with weights got, per channel; None if these are not floating-point numbers.
    """

    loss: float | None
    activations: list[Activation]
    weights: list[Weight]
    inputs: list[Inputs]
    batch: tuple
    ends: frozenset[str] = frozenset()
    first_inputs: tuple[keras.layers.Layer, np.ndarray, np.ndarray] | None = None


def pooled(parts: Sequence[tuple]) -> tuple[float, np.ndarray, np.ndarray]:
    """(number, mean, variance) of all values together, from those of the parts: the law of total variance."""
    if len(parts) == 1:
        return float(parts[0][0]), *parts[0][1:]
    counts, means, variances = (np.array(values) for values in zip(*parts, strict=True))
    total = counts.sum()
    shares = (counts / max(total, 1))[:, None]
    mean = (shares * means).sum(0)
    return float(total), mean, (shares * (variances + np.square(means - mean))).sum(0)


def _moments_of(replicas, key):
    return pooled([(r[key, "values"][0], r[key, "mean"], r[key, "variance"]) for r in replicas])


def activations_of(described: list[tuple], replicas: list[dict]) -> list[Activation]:
    """From what `summaries.summarize` described, and each replica's numbers."""
    return [_activation(number, *names, replicas) for number, names in enumerate(described)]


def _activation(number, name, type_, kind, replicas):
    values, mean, variance = _moments_of(replicas, number)
    sample = np.concatenate([r[number, "sample"][: SAMPLE // len(replicas)] for r in replicas])
    norm = rms = None
    if (number, "gradient") in replicas[0]:
        norm = float(np.sqrt(2 * sum(r[number, "gradient"][0] for r in replicas)) / replicas[0]["factor"][0])
        rms = norm / max(values * len(mean), 1) ** 0.5
    return Activation(name, type_, kind, values, mean, variance, sample[~np.isnan(sample)], norm, rms)


def inputs_of(described: list[tuple], replicas: list[dict]) -> list[Inputs]:
    """Likewise of `summaries.summarize_inputs`."""
    first = replicas[0]
    return [
        Inputs(layer, name, *_moments_of(replicas, key), first[number, "moving_mean"], first[number, "moving_variance"])
        for key, number, layer, name in described
    ]


def first_inputs_of(layer: keras.layers.Layer | None, replicas: list[dict]) -> tuple | None:
    """Likewise of `summaries.summarize_first_inputs`."""
    return None if layer is None else (layer, *_moments_of(replicas, "first inputs")[1:])


def weight_of(key: tuple, variable: keras.Variable, size: int, numbers: dict) -> Weight:
    """Likewise of `summaries.summarize_update`; all replicas have the same numbers."""
    factor = float(numbers["factors"][1 + key[1]])
    products = numbers[*key, "products"].reshape(3, 3)
    norm, gradient, update = np.sqrt(products.diagonal()).tolist()
    return Weight(
        variable, size, norm, gradient / factor, update, float(products[0, 1]) / factor, numbers.get((*key, "values"))
    )
