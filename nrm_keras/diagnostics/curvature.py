"""The spectrum of a model's Hessian from a few Hessian-vector products."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from nrm_keras.diagnostics.lanczos import Estimate, Lanczos, hutchinson, lanczos, power_iteration, standard_error
from nrm_keras.diagnostics.objective import Objective

__all__ = [
    "Curvature",
    "Estimate",
    "Lanczos",
    "curvature",
    "curvature_of",
    "edge_of_stability",
    "hutchinson",
    "lanczos",
    "power_iteration",
]


@dataclasses.dataclass(frozen=True)
class Curvature:
    """What Lanczos runs say of the Hessian H of a loss.

    Attributes:
        mode: "training" or "inference", the mode of the normalizers and dropout.
        loss: the loss itself, and `gradient` its gradient, flat.
        size: the number of variables' entries, the rows of H.
        products: the number of Hessian-vector products it took.
        largest: the largest algebraic eigenvalue ("sharpness"), and `largest_error`: some eigenvalue is that near.
        smallest: the smallest algebraic eigenvalue, and `smallest_error`.
        trace: Hutchinson's estimate of the trace of H.
        trace_error: its standard error; with one probe not the probes' but `sqrt(2) |H|_F`, which bounds it from above,
            with |H|_F from the run as well.
        nodes, weights: the spectral density by quadrature: of all eigenvalues a share `weights[i]` is near `nodes[i]`.
            The weights add up to 1.
        leading: the largest Ritz values of the run that found `largest`, descending, and `leading_errors`.
        compute_dtypes: those of the model's layers. Of float16 or bfloat16 expect two digits at best.
    """

    mode: str
    loss: float
    gradient: np.ndarray
    size: int
    products: int
    largest: float
    largest_error: float
    smallest: float
    smallest_error: float
    trace: float
    trace_error: float
    nodes: np.ndarray
    weights: np.ndarray
    leading: tuple[float, ...]
    leading_errors: tuple[float, ...]
    compute_dtypes: tuple[str, ...]

    @property
    def gradient_norm(self) -> float:
        return float(np.linalg.norm(np.asarray(self.gradient, "float64")))

    @property
    def largest_magnitude(self) -> float:
        """The eigenvalue of largest magnitude, with its sign."""
        return self.largest if abs(self.largest) >= abs(self.smallest) else self.smallest

    @property
    def first_to_fifth(self) -> float:
        """Condition number lambda_1 / lambda_5 of the five largest eigenvalues; NaN of fewer.

        Equation: `leading[0] / leading[4]`. The fifth converges last: see `leading_errors`.
        """
        return self.leading[0] / self.leading[4] if len(self.leading) > 4 and self.leading[4] != 0 else float("nan")

    def condition_number(self, floor: float) -> float:
        """Condition number |lambda|_max / min |lambda| over those of magnitude above `floor`; NaN if there is none.

        The least magnitude is that of a node: what a short run can see. A longer one, or more probes, may see less.
        """
        above = np.abs(self.nodes)[np.abs(self.nodes) > floor]
        return abs(self.largest_magnitude) / float(np.min(above)) if above.size else float("nan")

    def density(self, grid: np.ndarray, sigma: float) -> np.ndarray:
        """The spectral density on a grid, the nodes broadened to Gaussians of standard deviation sigma.

        Equation: `sum_i w_i exp(-(grid - node_i)^2 / (2 sigma^2)) / sqrt(2 pi sigma^2)`. It integrates to 1.
        """
        if sigma <= 0:
            raise ValueError(f"`sigma` must be above 0. Received: sigma={sigma}. Pass the width of a line, as 0.01.")
        distance = (np.asarray(grid, "float64")[..., None] - self.nodes) / sigma
        return np.exp(-np.square(distance) / 2) @ self.weights / (sigma * np.sqrt(2 * np.pi))

    def __str__(self):
        low = [dtype for dtype in self.compute_dtypes if dtype in ("float16", "bfloat16")]
        lines = [
            f"Hessian of {self.size} variables in {self.mode} mode, {self.products} Hessian-vector products",
            f"  largest eigenvalue {self.largest:.4g} (+- {self.largest_error:.1g}), smallest {self.smallest:.4g}",
            f"  trace {self.trace:.4g} (+- {self.trace_error:.1g})",
            f"  lambda_1 / lambda_5 {self.first_to_fifth:.3g}",
        ]
        return "\n".join(lines + [f"  layers compute in {dtype}: two digits at best" for dtype in low])


def curvature(
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    training: bool = True,
    loss: Callable | None = None,
    variables: Sequence[keras.Variable] | None = None,
    steps: int = 12,
    probes: int = 1,
    tolerance: float = 0.005,
    start: str = "rademacher",
    seed: int = 0,
) -> Curvature:
    """Top eigenvalues, trace and spectral density of the Hessian of a model's loss on one batch.

    All of them come from one Lanczos run of up to `steps` Hessian-vector products, each of two to three times the cost of
    a gradient. The model stays as it is. Second derivatives are right in training mode, see `Objective`.

    The largest Ritz value is a lower bound of the largest eigenvalue, and converges to it first. `largest_error` says that
    some eigenvalue is that near: where the largest ones lie close together, it may be the next one, and a run may seem to
    have converged some steps before the largest one shows. Hence a tolerance far below the error it leaves: on a residual
    network before and in training, 17 runs with the defaults were all within 2.5% of the largest, after 6 to 12 products.

    Args:
        model, x, y, sample_weight, training, loss, variables: see `Objective`. In training mode the function is the one
            that is trained; it depends on the batch through its statistics.
        steps: products at most in each run.
        probes: how many runs, each from a start vector of its own. More make trace and density more precise.
        tolerance: a run stops once the largest eigenvalue's error bound is below this share of it; 0 for never.
        start: "rademacher" or "gaussian" start vectors.
        seed: of the start vectors. The same seed gives the same numbers.

    Returns:
        A `Curvature`.

    Raises:
        TypeError, ValueError: as in `Objective`; the loss or a product is not finite.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.diagnostics.curvature import curvature
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile(loss="mse")
    >>> print(curvature(model, np.array([[1.0, 0.0], [0.0, 3.0]]), np.zeros((2, 1))))
    Hessian of 2 variables in training mode, 2 Hessian-vector products
      largest eigenvalue 9 (+- 0), smallest 1
      trace 10 (+- 1e+01)
      lambda_1 / lambda_5 nan

    Source: Lanczos and quadrature for neural networks, Ghorbani, Krishnan & Xiao 2019 (arXiv:1901.10159), section 2.
    """
    objective = Objective(model, x, y, sample_weight, training=training, loss=loss, variables=variables)
    return curvature_of(objective, steps=steps, probes=probes, tolerance=tolerance, start=start, seed=seed)


def curvature_of(
    objective: Objective,
    values: Any = None,
    *,
    steps: int = 12,
    probes: int = 1,
    tolerance: float = 0.005,
    start: str = "rademacher",
    seed: int = 0,
) -> Curvature:
    """`curvature` of an objective, at given values of its variables; called again it need not be traced again."""
    if probes < 1:
        raise ValueError(f"`probes` must be 1 at least. Received: probes={probes}. Pass the number of runs.")
    values = objective.values() if values is None else values
    at = {}

    def product(vector):
        at["loss"], at["gradient"], image = objective.second_order(vector, values)
        _check_loss(at["loss"])
        return image

    options = {"start": start, "dtype": objective.dtype, "tolerance": tolerance}
    runs = [lanczos(product, objective.size, steps, seed=seed + i, **options) for i in range(probes)]
    return _summary(runs, objective, float(at["loss"]), np.asarray(at["gradient"]))


def edge_of_stability(learning_rate: float, momentum: float = 0.0) -> float:
    """The largest eigenvalue at which gradient descent on a quadratic does not diverge.

    Equation: `2 (1 + momentum) / learning_rate`; heavy-ball momentum. Training at full batch hovers about it.

    Args:
        learning_rate: above 0.
        momentum: in [0, 1).

    Raises:
        ValueError: either is out of its range.

    Example:

    >>> from nrm_keras.diagnostics.curvature import edge_of_stability
    >>> edge_of_stability(0.5), edge_of_stability(0.5, momentum=0.9)
    (4.0, 7.6)

    Source: Cohen et al. 2021 (arXiv:2103.00065), section 2 and appendix B.
    """
    if not learning_rate > 0 or not 0 <= momentum < 1:
        raise ValueError(
            "`learning_rate` must be above 0 and `momentum` in [0, 1). "
            f"Received: learning_rate={learning_rate}, momentum={momentum}. Pass those of the optimizer."
        )
    return 2 * (1 + momentum) / learning_rate


def _summary(runs: list[Lanczos], objective, loss, gradient):
    top = max(runs, key=lambda run: run.values[-1])
    bottom = min(runs, key=lambda run: run.values[0])
    traces = [objective.size * run.diagonal[0] for run in runs]
    return Curvature(
        mode=objective.mode,
        loss=loss,
        gradient=gradient,
        size=objective.size,
        products=sum(run.products for run in runs),
        largest=float(top.values[-1]),
        largest_error=float(top.errors[-1]),
        smallest=float(bottom.values[0]),
        smallest_error=float(bottom.errors[0]),
        trace=float(np.mean(traces)),
        trace_error=standard_error(traces) if len(runs) > 1 else _bound_of_trace(runs[0], objective.size),
        nodes=np.concatenate([run.values for run in runs]),
        weights=np.concatenate([run.weights for run in runs]) / len(runs),
        leading=tuple(map(float, top.values[::-1])),
        leading_errors=tuple(map(float, top.errors[::-1])),
        compute_dtypes=objective.compute_dtypes,
    )


def _bound_of_trace(run, size):
    """sqrt(2) |H|_F, as size times the second moment of the density estimates |H|_F^2."""
    return float(np.sqrt(2 * size * (run.weights @ np.square(run.values))))


def _check_loss(loss):
    if not np.isfinite(float(loss)):
        raise ValueError(
            "The loss must be finite. "
            f"Received: {float(loss)}. Look for NaN or infinite inputs, labels or weights: a smaller learning rate helps."
        )
