"""Whether a request's statistics inside of a model are still those that the model was made for."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.errors import UserError
from nrm_keras.serving.drift.null import Null, calibrate
from nrm_keras.serving.drift.reference import Whitening
from nrm_keras.serving.drift.watching import Watch

EXAMPLES = 8192
FEWEST = 16
_FARTHEST = 1e6  # of a request with NaN or infinity


class DriftMonitor(tf.Module):
    """Says how far a request's statistics are from those of reference examples, and how likely sampling alone is that far.

    Equations, for a request of n examples and a reference of m, with f the whitened statistics of an example at a layer
    (see `Watch` and `Whitening`) and mean_n their mean over the request:

        distance = sqrt( mean over f of mean_n(f)^2 / (1/n + 1/m) )
        z        = (log(distance) - level(n)) / spread(n)
        score    = log( mean over the layers of exp(2 z) ) / 2
        p_value  = (1 + number of null scores >= score) / (1 + number of null scores)

    So a distance is in standard deviations of sampling: 1 is what sampling alone gives, and a constant shift has one that
    grows with sqrt(n). Examples are what is counted, as the positions of one are correlated. `level`, `spread` and null
    scores are those of requests drawn from the reference, for n = 1, 2, 4, ..., 256 (at most m / 2), interpolated over
    log n in between; a larger request takes the last. See `calibrate`.

    Half of the reference examples give the components, the other half, of which nothing was fitted, is the m of the null.
    So p_value is right for examples of the same distribution whose requests are drawn at random: one that holds a single
    class has drifted. It is never below 1 / (1 + m), and says little with few reference examples.

    A request with NaN or infinity has the largest distance, 1e6, and the smallest p-value.

    Call arguments:
        inputs: what the model takes, one example or more.

    Returns: {"score": (), "p_value": (), "distance": (layers,), all float32, "layers": string (layers,)}, in a graph of
    TensorFlow alone that can be saved.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from nrm_keras.serving.drift.monitor import DriftMonitor
    >>> inputs = keras.Input((5,))
    >>> model = keras.Model(inputs, keras.layers.Dense(3, activation="relu")(inputs))
    >>> known, new = np.random.default_rng(0).normal(size=(2, 1000, 5)).astype("float32")
    >>> monitor = DriftMonitor.of(model, tf.data.Dataset.from_tensor_slices(known).batch(100))
    >>> float(monitor(new[:64])["p_value"]) > 0.01, float(monitor(new[:64] + 1)["p_value"]) < 0.01
    (True, True)

    Source: the null of an example's moments is that of `train_inference_gap`; the distances are those of Lee et al. 2018
    (arXiv:1807.03888), section 2, for means of requests and without classes.
    """

    def __init__(self, model: keras.Model, watch: Watch, whitenings: list[Whitening], null: Null):
        super().__init__(name="drift_monitor")
        self.model = model
        # a Python object, not a list: TensorFlow would want to save what a list holds
        self._parts = _Parts(watch, whitenings, null)

    @classmethod
    def of(cls, model: keras.Model, batches, examples: int = EXAMPLES) -> DriftMonitor:
        """A monitor of a model, with the statistics of reference examples.

        Args:
            model: what answers requests.
            batches: its inputs as it will get them, not augmented, in a `tf.data.Dataset` or another iterable of batches x,
                (x, y) or (x, y, sample_weight). Examples that the model was not trained on, such as the validation split:
                of those it was, deep layers know more than they will of others, and false alarms become more frequent.
            examples: at most so many, the first ones, so they should not be sorted.

        Raises:
            UserError: fewer than 16 reference examples, or one that is not finite somewhere inside of the model.
        """
        watch, statistics = _collect(model, batches, examples)
        order = np.random.default_rng(0).permutation(len(statistics[0]))
        fitted, pool = np.array_split(order, 2)
        for name, values in zip(watch.names, statistics, strict=True):
            if not np.isfinite(values).all():
                raise UserError(
                    "A drift monitor needs reference examples with finite statistics in every layer. "
                    f"Received: NaN or infinity in {name}. Leave out the examples that cause it."
                )
        whitenings = [Whitening.of(values[fitted], values[pool]) for values in statistics]
        features = [
            whitening(tf.constant(values[pool])).numpy()
            for whitening, values in zip(whitenings, statistics, strict=True)
        ]
        return cls(model, watch, whitenings, calibrate(features))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the watched layers."""
        return self._parts.watch.names

    def steps(self, count: int) -> float:
        """How much so many null scores are of a p-value at most."""
        return count / (1 + min(self._parts.null.examples, *self._parts.null.draws))

    def __call__(self, inputs) -> dict[str, tf.Tensor]:
        parts, null = self._parts, self._parts.null
        statistics = parts.watch(inputs)
        number = tf.cast(tf.shape(statistics[0])[0], tf.float32)
        variance = 1 / number + 1 / null.examples
        distances = tf.stack(
            [
                tf.sqrt(tf.reduce_mean(tf.square(tf.reduce_mean(whitening(values), 0))) / variance + 1e-12)
                for whitening, values in zip(parts.whitenings, statistics, strict=True)
            ]
        )
        # not a comparison with the largest alone: NaN is no smaller than anything
        distances = tf.where(distances < _FARTHEST, distances, _FARTHEST)
        score, p_value = _judge(distances, number, null)
        return {
            "score": score,
            "p_value": p_value,
            "distance": distances,
            "layers": tf.constant(parts.watch.names),
        }


class _Parts:
    def __init__(self, watch, whitenings, null):
        self.watch, self.whitenings, self.null = watch, whitenings, null


def _collect(model, batches, most):
    """What is watched, and the statistics of each reference example at each layer."""
    watch = measure = None
    parts, count = [], 0
    for batch in batches:
        inputs = keras.utils.unpack_x_y_sample_weight(batch)[0]
        if watch is None:
            watch = Watch(model, inputs)
            measure = tf.function(watch, autograph=False, reduce_retracing=True)
        parts.append([values.numpy() for values in measure(inputs)])
        count += len(parts[-1][0])
        if count >= most:
            break
    if count < FEWEST:
        raise UserError(
            f"A drift monitor needs {FEWEST} reference examples at least, and says more with a thousand. "
            f"Received: {count}. Give it more, or export without a monitor."
        )
    return watch, [np.concatenate(layer)[:most] for layer in zip(*parts, strict=True)]


def _judge(distances, number, null):
    """(score, p-value) of a request of so many examples, between the sizes that the null distribution is known for."""
    last = len(null.sizes) - 1
    place = tf.clip_by_value(tf.math.log(number) / tf.math.log(2.0), 0.0, float(last))
    low = tf.cast(tf.floor(place), tf.int32)
    high = tf.minimum(low + 1, last)
    share = place - tf.cast(low, tf.float32)

    def between(table):
        table = tf.constant(table, tf.float32)
        return (1 - share) * table[low] + share * table[high]

    z = (tf.math.log(distances) - between(null.level)) / between(null.spread)
    score = (tf.reduce_logsumexp(2 * z) - tf.math.log(float(len(null.level[0])))) / 2
    scores, draws = tf.constant(null.scores, tf.float32), tf.constant(null.draws, tf.float32)

    def log_p(row):
        beyond = tf.reduce_sum(tf.cast(scores[row] >= score, tf.float32))
        return tf.math.log((1 + beyond) / (1 + draws[row]))

    p_value = tf.exp((1 - share) * log_p(low) + share * log_p(high))
    return score, tf.maximum(p_value, 1 / (1 + null.examples))
