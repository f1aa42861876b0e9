"""How far the statistics of a request may be from the reference by sampling alone. NumPy."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse
from scipy.special import logsumexp

LARGEST = 256  # requests drawn anew; of larger ones their distribution hardly changes
DRAWS = 4000  # requests of each size


@dataclasses.dataclass(frozen=True)
class Null:
    """Distribution of distances and scores of requests from the reference itself, for each size of a request.

    Attributes:
        sizes: 1, 2, 4, ... examples.
        level, spread: mean and standard deviation of each layer's log(distance), (sizes, layers).
        scores: ascending, (sizes, draws); where there are fewer of a size, -inf stands in front.
        draws: how many scores there are of each size.
        examples: in the pool.
    """

    sizes: np.ndarray
    level: np.ndarray
    spread: np.ndarray
    scores: np.ndarray
    draws: np.ndarray
    examples: int


def calibrate(features: list[np.ndarray], seed: int = 0) -> Null:
    """The null distribution from a pool of examples that nothing was fitted to.

    Requests of n examples are drawn from the pool's m without replacement, up to m / 2: with replacement, the same
    example twice would stand for two that are alike. The mean of such a request is from the pool's mean by a variance of
    1/n - 1/m, that of a new request by 1/n + 1/m, so distances are taken in these units.

    Args:
        features: of each layer, whitened, (examples, features) of the same examples.
    """
    rng = np.random.default_rng(seed)
    examples = len(features[0])
    sizes = [size for size in 2 ** np.arange(int(np.log2(LARGEST)) + 1) if size <= max(1, examples // 2)]
    rows = []
    for size in sizes:
        chosen = _requests(rng, examples, size)
        means = (chosen @ layer / size for layer in features)
        logs = np.log(np.stack([distance(mean, 1 / size - 1 / examples) for mean in means], 1))
        level, spread = logs.mean(0), np.maximum(logs.std(0), 1e-3)
        rows.append((level, spread, np.sort(soft_maximum((logs - level) / spread))))
    levels, spreads, scores = zip(*rows, strict=True)
    most = max(map(len, scores))
    return Null(
        sizes=np.array(sizes),
        level=np.stack(levels),
        spread=np.stack(spreads),
        scores=np.stack([np.pad(row, (most - len(row), 0), constant_values=-np.inf) for row in scores]),
        draws=np.array([len(row) for row in scores]),
        examples=examples,
    )


def distance(means: np.ndarray, variance: float) -> np.ndarray:
    """Root of the mean square of (requests, features), in standard deviations of sampling; never quite 0."""
    return np.sqrt(np.mean(np.square(means), -1) / variance + 1e-12)


def soft_maximum(z: np.ndarray) -> np.ndarray:
    """log(mean(exp(2 z))) / 2 over the layers: about the largest, and more where several layers agree."""
    return (logsumexp(2 * z, -1) - np.log(z.shape[-1])) / 2


def _requests(rng, examples, size):
    """Which examples are in each request, as ones in (requests, examples); of size 1, each example is one."""
    if size == 1:
        return sparse.eye_array(examples, format="csr", dtype="float32")
    chosen = [rng.choice(examples, size, replace=False) for _ in range(DRAWS)]
    ones = np.ones(DRAWS * size, "float32")
    return sparse.csr_array((ones, np.concatenate(chosen), np.arange(0, len(ones) + 1, size)), (DRAWS, examples))
