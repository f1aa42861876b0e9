"""The gradient noise scale: the batch size up to which larger batches pay."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics.objective import Objective


class GradientNoise:
    """Gradient noise scale over steps, from squared gradient norms at two batch sizes.

    Equation: `|G|^2 = (B_b |G_b|^2 - B_s |G_s|^2) / (B_b - B_s)`, `S = (|G_s|^2 - |G_b|^2) / (1/B_s - 1/B_b)`,
    `B_simple = EMA(S) / EMA(|G|^2)`. Each of the first two is unbiased; the two averages are taken before the division,
    as a ratio of single estimates is not. The averages are weighted so that their start at 0 does not count.

    Args:
        decay: of the exponential moving averages, in [0, 1).

    Example:

    >>> from nrm_keras.diagnostics.noise import GradientNoise
    >>> noise = GradientNoise()
    >>> noise.add(small_squared_norm=3.0, big_squared_norm=1.5, small_batch=8, big_batch=32)
    >>> noise.squared_norm, noise.trace, noise.simple
    (1.0, 16.0, 16.0)

    Source: McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1.
    """

    def __init__(self, decay: float = 0.9):
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1). Received: decay={decay}. Take 0.9, or 0 for the last step.")
        self._decay = decay
        self._weight = self._trace = self._squared_norm = 0.0

    def add(self, small_squared_norm: float, big_squared_norm: float, small_batch: int, big_batch: int) -> None:
        """Takes |G_s|^2, a mean over the small batches if there are several, and |G_b|^2. Not finite ones are left out.

        Raises:
            ValueError: the big batch is not larger.
        """
        if not 0 < small_batch < big_batch:
            raise ValueError(
                "The big batch must be larger than the small one. "
                f"Received: small_batch={small_batch}, big_batch={big_batch}. Compare gradients of two batch sizes."
            )
        trace = (small_squared_norm - big_squared_norm) / (1 / small_batch - 1 / big_batch)
        squared_norm = (big_batch * big_squared_norm - small_batch * small_squared_norm) / (big_batch - small_batch)
        if not np.isfinite(trace + squared_norm):
            return
        self._weight = self._decayed(self._weight, 1.0)
        self._trace = self._decayed(self._trace, trace)
        self._squared_norm = self._decayed(self._squared_norm, squared_norm)

    def _decayed(self, average, value):
        return self._decay * average + (1 - self._decay) * value

    @property
    def squared_norm(self) -> float:
        """The average of |G|^2, G the expected gradient; NaN before the first step."""
        return float(self._squared_norm / self._weight) if self._weight else float("nan")

    @property
    def trace(self) -> float:
        """The average of S, the trace of one example's gradient covariance; NaN before the first step."""
        return float(self._trace / self._weight) if self._weight else float("nan")

    @property
    def simple(self) -> float:
        """B_simple in examples; infinite while the average of |G|^2 is not above 0, NaN before the first step."""
        return _ratio(self.trace, self.squared_norm)


@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """What `measure` found: B_simple in examples, its parts |G|^2 and S, and the standard error of each.

    `statistics_batch` is the number of examples that were normalized together. G and S are those of training with such
    batches: with BatchNormalization another number has another loss, and gradient. `small_squared_norm` and
    `big_squared_norm` are what `GradientNoise.add` takes with `statistics_batch` and `examples` for the batch sizes.
    """

    simple: float
    simple_error: float
    squared_norm: float
    squared_norm_error: float
    trace: float
    trace_error: float
    small_squared_norm: float
    big_squared_norm: float
    statistics_batch: int
    examples: int


def measure(
    model: keras.Model | Objective,
    x: Any,
    y: Any = None,
    micro_batch: int = 8,
    *,
    sample_weight: Any = None,
    training: bool = True,
    loss: Callable | None = None,
) -> NoiseScale:
    """The gradient noise scale from one batch, split into k micro-batches of b examples.

    Equation: those of `GradientNoise`, with |G_s|^2 the mean of |g_i|^2 over the micro-batches' gradients g_i, and G_b the
    mean of the g_i. Then |G|^2 is the mean of <g_i, g_j> over i != j, and S / b the trace of the g_i's covariance. The
    gradient of the whole batch is not used: with BatchNormalization it is that of another loss. So the micro-batch is
    the "statistics batch", and both estimates are unbiased whatever the layers, if examples are independent. B_simple,
    a ratio, has a bias that goes down as 1/k.

    Standard errors are jackknifed over the micro-batches: rough for few of them, NaN for two. Dropout's masks are the
    same for all micro-batches, so its noise is not counted. k gradients are kept in memory. The model is not changed.

    Args:
        model: a built model; or an `Objective` of one, which keeps its trace from call to call, and has a mode and loss of
            its own. Its batch is another afterwards.
        x: inputs of one batch, an array or a structure of arrays with the examples on axis 0.
        y: labels likewise, or None.
        micro_batch: b; examples beyond the last full micro-batch are not used.
        sample_weight: as in `model.fit`; weights belong to the loss whose gradient is meant.
        training: the mode of the gradients.
        loss: None for the model's own; see `Objective`.

    Raises:
        ValueError: fewer than two micro-batches.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.diagnostics.noise import measure
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    >>> model.compile(loss="mse")
    >>> x = np.array([[1.0], [1.0], [1.0], [1.0]])
    >>> result = measure(model, x, np.array([[1.0], [2.0], [1.0], [2.0]]), micro_batch=1)
    >>> round(result.squared_norm, 4), round(result.trace, 4), round(result.simple, 4)
    (8.6667, 1.3333, 0.1538)

    Source: McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1; jackknife: Efron & Stein 1981.
    """
    count = len(keras.tree.flatten(x)[0]) // micro_batch
    if count < 2:
        raise ValueError(
            "There must be at least two micro-batches. "
            f"Received: {len(keras.tree.flatten(x)[0])} examples and micro_batch={micro_batch}. "
            "Pass a larger batch, or a smaller `micro_batch`; 8 micro-batches or more give a fair standard error."
        )
    parts = [_part((x, y, sample_weight), i * micro_batch, (i + 1) * micro_batch) for i in range(count)]
    own = isinstance(model, Objective)
    objective = model if own else Objective(model, *parts[0], training=training, loss=loss)
    gradients = []
    for part in parts:
        objective.set_batch(*part)
        gradients.append(objective.gradient().numpy())
    return _estimate(np.stack(gradients), micro_batch)


def _part(data, start, stop):
    return keras.tree.map_structure(lambda array: None if array is None else array[start:stop], data)


def _estimate(gradients, batch):
    """From the micro-batches' gradients, (micro-batches, parameters)."""
    gradients = gradients.astype("float64")
    # On busy cores NumPy's product of so wide a matrix took 20 times as long.
    products = tf.matmul(gradients, gradients, transpose_b=True).numpy()
    count = len(products)
    estimates = np.array(_parts(np.trace(products), np.sum(products), count, batch))
    errors = np.full(3, np.nan)
    if count > 2:
        traces = np.trace(products) - np.diag(products)
        totals = np.sum(products) - 2 * np.sum(products, axis=0) + np.diag(products)
        without = np.array([_parts(*sums, count - 1, batch) for sums in zip(traces, totals, strict=True)])
        with np.errstate(invalid="ignore"):
            errors = np.sqrt((count - 1) * np.var(without, axis=0))
    names = ("simple", "squared_norm", "trace")
    return NoiseScale(
        **{name: float(value) for name, value in zip(names, estimates, strict=True)},
        **{f"{name}_error": float(error) for name, error in zip(names, errors, strict=True)},
        small_squared_norm=float(np.trace(products) / count),
        big_squared_norm=float(np.sum(products) / count**2),
        statistics_batch=batch,
        examples=count * batch,
    )


def _parts(trace, total, count, batch):
    """B_simple, |G|^2 and S from sums of the products of gradients: of the squares, and of all."""
    squared_norm = (total - trace) / (count * (count - 1))
    covariance = batch * (trace / count - squared_norm)
    return _ratio(covariance, squared_norm), squared_norm, covariance


def _ratio(trace, squared_norm):
    if np.isnan(trace) or np.isnan(squared_norm):
        return float("nan")
    return float(max(trace, 0.0) / squared_norm) if squared_norm > 0 else float("inf")
