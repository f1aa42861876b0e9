"""Statistics of reference examples, in coordinates that are uncorrelated and of variance 1."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from sklearn.decomposition import PCA

MOST_COMPONENTS = 32
EXAMPLES_PER_COMPONENT = 4
_LINEAR = 2.0  # deviations up to which a coordinate counts about as it is
_SMALL = 1e-3  # keeps the logarithm of what may be 0
_CONSTANT = 0.01  # of the layer's typical deviation: a statistic with less counts as if it had as much


@dataclasses.dataclass(frozen=True)
class Whitening:
    """Coordinates of one layer's statistics; they have mean 0 and variance 1 over the pool of reference examples.

    Equations, with s the statistics of an example, k components V with variances l of those of the fitted examples:

        u = (s - mean) / scale          p = V u / sqrt(l)
        f = [2 asinh(p / 2), log(|p|^2 / k), log(|u - V' V u|^2)]        whitened = (f - center) / spread

    asinh is a line near 0 and a logarithm far away, so that a batch's mean is not made by its one or two outliers, whose
    frequency no pool tells well. The two logarithms are an example's distance from the others inside and outside of the components; without them, a
    batch of strange examples whose mean is as usual would look as usual. The last is left out where the components
    explain everything.

    Arrays are float32: mean, scale (statistics,), components (k, statistics), deviations (k,), center, spread (features,).
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    deviations: np.ndarray
    has_rest: bool
    center: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, fitted: np.ndarray, pool: np.ndarray) -> Whitening:
        """Components of the fitted examples, mean and variance of the pool; both (examples, statistics)."""
        mean, scale = fitted.mean(0, dtype="float64"), fitted.std(0, dtype="float64")
        varying = scale > 1e-6 * np.abs(mean)
        typical = np.median(scale[varying]) if varying.any() else 1.0
        scale = np.maximum(np.where(varying, scale, 0), _CONSTANT * typical)
        standardized = (fitted - mean) / scale
        most = min(MOST_COMPONENTS, len(fitted) // EXAMPLES_PER_COMPONENT, len(mean))
        pca = PCA(most, random_state=0).fit(standardized)
        variances = pca.explained_variance_
        # a component that hardly varies is rounding
        kept = max(1, int(np.sum(variances > 1e-4 * np.square(standardized).sum() / len(fitted))))
        whitening = cls(
            mean=_float32(mean),
            scale=_float32(scale),
            components=_float32(pca.components_[:kept]),
            deviations=_float32(np.sqrt(np.maximum(variances[:kept], 1e-12))),
            has_rest=bool(kept < len(mean) and pca.explained_variance_ratio_[:kept].sum() < 1 - 1e-6),
            center=np.float32(0),
            spread=np.float32(1),
        )
        features = whitening(tf.constant(pool, tf.float32)).numpy().astype("float64")
        spread = features.std(0)
        return dataclasses.replace(
            whitening, center=_float32(features.mean(0)), spread=_float32(np.where(spread > 1e-6, spread, 1))
        )

    def __call__(self, statistics: tf.Tensor) -> tf.Tensor:
        """(examples, statistics) to (examples, features), float32."""
        moved = (statistics - self.mean) / self.scale
        inside = tf.matmul(moved, self.components, transpose_b=True)
        whitened = inside / self.deviations
        features = [_LINEAR * tf.asinh(whitened / _LINEAR), _log_of_squares(whitened)]
        if self.has_rest:
            features.append(_log_of_squares(moved - tf.matmul(inside, self.components)))
        return (tf.concat(features, -1) - self.center) / self.spread


def _log_of_squares(values):
    return tf.math.log(tf.reduce_mean(tf.square(values), -1, keepdims=True) + _SMALL)


def _float32(values):
    return np.asarray(values, "float32")
