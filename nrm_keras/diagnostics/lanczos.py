"""Eigenvalues, spectrum and trace of a symmetric matrix that is known by its products with vectors."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

Product = Callable[[tf.Tensor], tf.Tensor]
STARTS = ("rademacher", "gaussian")


@dataclasses.dataclass(frozen=True)
class Lanczos:
    """The tridiagonal matrix T of a Lanczos run, and what it says of H.

    Attributes:
        diagonal: shape (m,), float64.
        off_diagonal: shape (m - 1,), float64.
        residual: beta_m, what the run would have gone on with; 0 with as many steps as rows.
        basis: tensor of shape (m, size), the orthonormal vectors.
    """

    diagonal: np.ndarray
    off_diagonal: np.ndarray
    residual: float
    basis: tf.Tensor

    def __post_init__(self):
        tridiagonal = np.diag(self.diagonal) + np.diag(self.off_diagonal, 1) + np.diag(self.off_diagonal, -1)
        values, vectors = np.linalg.eigh(tridiagonal)
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_vectors", vectors)

    @property
    def values(self) -> np.ndarray:
        """Ritz values, ascending: eigenvalues of T."""
        return self._values

    @property
    def errors(self) -> np.ndarray:
        """For each Ritz value a bound of its distance to the nearest eigenvalue of H: beta_m |last component|."""
        return self.residual * np.abs(self._vectors[-1])

    @property
    def weights(self) -> np.ndarray:
        """For each Ritz value the start vector's squared share in it; they add up to 1. The nodes' weights in quadrature."""
        return np.square(self._vectors[0])

    @property
    def products(self) -> int:
        """How many products with H it took."""
        return len(self.diagonal)

    def vector(self, index: int) -> tf.Tensor:
        """The Ritz vector, of norm 1, of the Ritz value of that index."""
        return tf.linalg.matvec(self.basis, tf.constant(self._vectors[:, index], self.basis.dtype), transpose_a=True)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, its error (see who returns it), and how many products it took."""

    value: float
    error: float
    products: int


def lanczos(
    product: Product,
    size: int,
    steps: int,
    *,
    seed: int = 0,
    start: str = "rademacher",
    dtype: str = "float64",
    tolerance: float = 0.0,
) -> Lanczos:
    """A Lanczos run with full reorthogonalization.

    Equation: `beta_j q_{j+1} = H q_j - alpha_j q_j - beta_{j-1} q_{j-1}`, with `alpha_j = q_j' H q_j`.

    Args:
        product: v -> H v, for tensors of shape (size,).
        size: the number of rows of H.
        steps: how many products at most. With `size` steps, eigenvalues are exact.
        seed: of the start vector. The same seed gives the same vector.
        start: "rademacher", entries of random sign, or "gaussian".
        dtype: of the vectors. The tridiagonal matrix is float64.
        tolerance: stops once the error bound of the largest Ritz value is below this share of it; 0 for never.

    Raises:
        ValueError: `steps` is below 1, `start` is none of the above, or a product is not finite.

    Example:

    >>> import tensorflow as tf
    >>> from nrm_keras.diagnostics.lanczos import lanczos
    >>> diagonal = tf.constant([1.0, 2.0, 5.0], "float64")
    >>> lanczos(lambda v: diagonal * v, size=3, steps=3).values.round(6).tolist()
    [1.0, 2.0, 5.0]

    Source: Golub & Van Loan, "Matrix computations", sections 10.1 and 10.3; quadrature, Ubaru, Chen & Saad 2017.
    """
    _check_positive("steps", steps)
    vector = _normalized(start_vector(size, seed, start, dtype))
    basis, diagonal, off_diagonal = [], [], []
    while True:
        basis.append(vector)
        image = tf.cast(product(vector), dtype)
        diagonal.append(_finite(_dot(vector, image)))
        image, residual = _orthogonal(image, tf.stack(basis))
        scale = np.max(np.abs([*diagonal, *off_diagonal]))
        residual = 0.0 if len(basis) == size else residual
        # What is left is rounding: the vectors so far span a space that H does not leave.
        complete = residual <= 10 * np.finfo(dtype).eps * scale
        run = Lanczos(np.array(diagonal), np.array(off_diagonal), residual, tf.stack(basis))
        if len(basis) == steps or complete or run.errors[-1] < tolerance * abs(run.values[-1]):
            return run
        off_diagonal.append(residual)
        vector = image / residual


def power_iteration(
    product: Product, size: int, steps: int = 100, *, seed: int = 0, dtype: str = "float64", tolerance: float = 1e-3
) -> Estimate:
    """The eigenvalue of largest magnitude, with its sign.

    Equation: `v <- H v / |H v|`, and of the last v the Rayleigh quotient `v' H v`. The error is `|H v - value v|`: so near
    is an eigenvalue. Negative where the eigenvalue is: the norm |H v| would hide that.

    Args:
        product, size, seed, dtype: as for `lanczos`, which is the faster way.
        steps: how many products at most.
        tolerance: stops once the error is below this share of the value.

    Raises:
        ValueError: a count is below 1, or a product is not finite.

    Example:

    >>> import tensorflow as tf
    >>> from nrm_keras.diagnostics.lanczos import power_iteration
    >>> diagonal = tf.constant([1.0, 2.0, -5.0], "float64")
    >>> round(power_iteration(lambda v: diagonal * v, size=3, tolerance=1e-9).value, 6)
    -5.0

    Source: Golub & Van Loan, "Matrix computations", section 8.2.
    """
    _check_positive("steps", steps)
    vector = _normalized(start_vector(size, seed, "gaussian", dtype))
    for products in range(1, steps + 1):  # noqa: B007
        image = tf.cast(product(vector), dtype)
        value = _finite(_dot(vector, image))
        error = float(tf.norm(image - value * vector))
        if error <= tolerance * abs(value):
            break
        vector = _normalized(image)
    return Estimate(value, error, products)


def hutchinson(product: Product, size: int, probes: int = 10, *, seed: int = 0, dtype: str = "float64") -> Estimate:
    """The trace, from vectors z of random signs.

    Equation: `mean(z' H z)`, whose variance for one z is `2 (|H|_F^2 - sum H_ii^2)`. The error is the standard error of
    the mean over the probes, NaN for one probe.

    Args:
        product, size, seed, dtype: as for `lanczos`.
        probes: how many vectors; each costs one product.

    Raises:
        ValueError: a count is below 1, or a product is not finite.

    Example:

    >>> import tensorflow as tf
    >>> from nrm_keras.diagnostics.lanczos import hutchinson
    >>> diagonal = tf.constant([1.0, 2.0, -5.0], "float64")
    >>> hutchinson(lambda v: diagonal * v, size=3, probes=2)
    Estimate(value=-2.0, error=0.0, products=2)

    Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix".
    """
    _check_positive("probes", probes)
    vectors = (start_vector(size, seed + i, "rademacher", dtype) for i in range(probes))
    values = [_finite(_dot(vector, tf.cast(product(vector), dtype))) for vector in vectors]
    return Estimate(float(np.mean(values)), standard_error(values), probes)


def standard_error(values: list[float]) -> float:
    """Of the mean of independent values; NaN of one."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def start_vector(size: int, seed: int, start: str, dtype: str) -> tf.Tensor:
    """A random vector of shape (size,), the same for the same seed."""
    if start not in STARTS:
        raise ValueError(f"`start` must be one of {STARTS}. Received: start={start!r}. Pass one of them.")
    random = np.random.default_rng(seed)
    values = random.choice((-1.0, 1.0), size) if start == "rademacher" else random.standard_normal(size)
    return tf.constant(values, dtype)


def _orthogonal(vector, basis):
    """What of the vector is orthogonal to the basis, and its norm."""
    # Twice is enough: the second time takes out what the first one's rounding left.
    for _ in range(2):
        shares = tf.linalg.matvec(basis, vector)
        vector -= tf.linalg.matvec(basis, shares, transpose_a=True)
    return vector, _finite(tf.norm(vector))


def _normalized(vector):
    norm = tf.norm(vector)
    return vector / tf.where(norm > 0, norm, 1)


def _dot(a, b):
    return tf.tensordot(a, b, 1)


def _check_positive(name, value):
    if value < 1:
        raise ValueError(f"`{name}` must be 1 at least. Received: {name}={value}. Pass how many to spend.")


def _finite(value):
    value = float(value)
    if not np.isfinite(value):
        raise ValueError(
            "A product of the matrix with a vector must be finite. "
            f"Received: {value}. Look for weights, inputs or a loss that are NaN or infinite, or overflow in float16."
        )
    return value
