"""What a layer's running statistics should be, measured on the inputs it gets."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from nrm_keras.layers.domain import DomainBatchNormalization
from nrm_keras.layers.moments import Moments, Pooled, expand_mask, four_axes, per_channel, reshape, without_padding
from nrm_keras.layers.running import RunningNormalizer


class Sums(NamedTuple):
    """Statistics of all values so far in float64: how many, their mean, and the sum of squares about it."""

    weight: tf.Tensor
    mean: tf.Tensor
    squares: tf.Tensor

    def plus(self, other: "Sums") -> "Sums":
        """Those of both together; the law of total variance."""
        weight = self.weight + other.weight
        share = other.weight / tf.maximum(weight, 1)
        step = other.mean - self.mean
        return Sums(
            weight, self.mean + share * step, self.squares + other.squares + self.weight * share * tf.square(step)
        )

    @property
    def variance(self) -> tf.Tensor:
        """Population variance; 1 of nothing."""
        return tf.where(self.weight > 0, self.squares / tf.maximum(self.weight, 1), 1)


def has_running_statistics(layer) -> bool:
    """Whether the layer keeps a running mean and variance of each channel, as Keras' batch normalization does."""
    if isinstance(layer, DomainBatchNormalization):
        return False
    mean, variance = getattr(layer, "moving_mean", None), getattr(layer, "moving_variance", None)
    return isinstance(getattr(layer, "axis", None), int) and all(
        isinstance(v, keras.Variable) and len(v.shape) == 1 for v in (mean, variance)
    )


def calling(layer: keras.layers.Layer, call: Callable):
    """A context in which the layer calls a function in the place of its own `call`."""
    return replaced(layer, "call", call)


@contextlib.contextmanager
def replaced(thing, name: str, function: Callable):
    """Within it the object has the function in the place of its own method; behind it, what it had before."""
    own = vars(thing)  # Keras' own __setattr__ would count it as a part of the layer
    missing = object()
    before = own.get(name, missing)
    own[name] = function
    try:
        yield
    finally:
        if before is missing:
            del own[name]
        else:
            own[name] = before


class Meter:
    """Measures one layer.

    Before each call it writes the batch's statistics in the place of the running ones and lets the layer call as at
    inference. So the layer normalizes with the batch, as in training, whatever its class, frozen or not, and later
    layers see what they see in training. Its own update, with momentum, warm-up and rounding, is never used.
    """

    def __init__(self, layer: keras.layers.Layer):
        self.layer = layer
        self.total = self._nothing()
        self.batches = 0
        # More running statistics than mean and variance: averaged over the calls.
        self._sums = [0.0 for _ in self._others()]
        self._calls = 0.0
        self._batch = Sums(*(tf.Variable(value) for value in self._nothing()))
        self._batch_sums = [tf.Variable(tf.zeros(v.shape, "float64")) for v in self._others()]
        self._batch_calls = tf.Variable(tf.zeros((), "float64"))

    def _nothing(self):
        channels = self.layer.moving_mean.shape
        return Sums(tf.zeros((), "float64"), tf.zeros(channels, "float64"), tf.zeros(channels, "float64"))

    def _others(self):
        if not isinstance(self.layer, RunningNormalizer):
            return []
        names = {"moving_mean", "moving_variance", "update_count"}
        one = tf.ones((1, 1, self.layer.moving_mean.shape[0], 1), self.layer.moving_mean.dtype)
        return [
            v for v, _ in self.layer.batch_values(Pooled(one, one, one, one, one[0, 0, 0, 0])) if v.name not in names
        ]

    def attached(self):
        """A context in which each call of the layer, traced or eager, is measured."""
        original = self.layer.call

        def call(inputs, *args, **kwargs):
            self._measure(inputs, kwargs.get("mask"))
            return original(inputs, *args, **kwargs | {"training": False})

        return calling(self.layer, call)

    def start(self) -> None:
        """Forgets the batch."""
        for variable in (*self._batch, *self._batch_sums, self._batch_calls):
            variable.assign(tf.zeros_like(variable))

    def read(self) -> tuple:
        """What was measured since `start`, for `add`."""
        return (
            Sums(*(tf.convert_to_tensor(v) for v in self._batch)),
            [tf.convert_to_tensor(v) for v in self._batch_sums],
            tf.convert_to_tensor(self._batch_calls),
        )

    def add(self, batch: Sums, sums: list, calls) -> None:
        """Counts a batch among those seen."""
        self.total = self.total.plus(batch)
        self._sums = [one + other for one, other in zip(self._sums, sums, strict=True)]
        self._calls += calls
        self.batches += int(batch.weight > 0)

    def write(self) -> None:
        """Gives the layer the statistics of all batches together."""
        _assign(self.layer.moving_mean, self.total.mean)
        _assign(self.layer.moving_variance, self.total.variance)
        for variable, value in zip(self._others(), self._sums, strict=True):
            _assign(variable, value / self._calls)
        if getattr(self.layer, "update_count", None) is not None:
            # In training from here on, they weigh as what they are: the average of so many batches.
            self.layer.update_count.assign(self.batches)

    def _measure(self, inputs, mask):
        measured, examples = measure(inputs, mask, self.layer.axis)
        for variable, value in zip(self._batch, Sums(*self._batch).plus(measured), strict=True):
            variable.assign(value)
        used = tf.cast(measured.weight > 0, "float64")
        self._batch_calls.assign_add(used)
        others = {id(v): total for v, total in zip(self._others(), self._batch_sums, strict=True)}
        for variable, value in self._values(measured, examples):
            _assign(variable, value)
            if id(variable) in others:
                others[id(variable)].assign_add(used * tf.cast(value, "float64"))

    def _values(self, measured, examples):
        """(running statistic, its value in this batch)."""
        if not isinstance(self.layer, RunningNormalizer):
            return [(self.layer.moving_mean, measured.mean), (self.layer.moving_variance, measured.variance)]
        dtype = self.layer.moving_mean.dtype
        mean, variance = per_channel(measured.mean, dtype), per_channel(measured.variance, dtype)
        weight, examples = tf.cast(measured.weight, dtype), tf.cast(examples, dtype)
        return self.layer.batch_values(Pooled(weight, mean, tf.zeros_like(mean), variance, examples))


def measure(inputs, mask, axis: int) -> tuple[Sums, tf.Tensor]:
    """Statistics of each channel over all valid positions, and the number of examples that have any."""
    weight, mean, variance = measure_examples(inputs, mask, axis)
    total = tf.reduce_sum(weight)
    pooled = tf.reduce_sum(weight * mean, 0, keepdims=True) / tf.maximum(total, 1)
    squares = tf.reduce_sum(weight * (variance + tf.square(mean - pooled)), 0)
    return Sums(total, pooled[0], squares), tf.reduce_sum(tf.cast(weight > 0, "float64"))


def measure_examples(inputs, mask, axis: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(number of valid positions, mean, population variance) of each channel of each example, in float64.

    Their shapes are (examples, 1), (examples, channels) and (examples, channels).
    """
    axis %= len(inputs.shape)
    if mask is not None:
        mask = expand_mask(mask, inputs, axis)
    shape = tuple(inputs.shape)
    x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    x = reshape(x, four_axes(shape, axis), lambda: four_axes(keras.ops.shape(inputs), axis))
    moments = Moments(x if mask is None else without_padding(x, mask), mask)
    # An example's own moments are precise in float32; those of many examples together need more digits.
    mean = tf.cast(moments.shift, "float64") + tf.cast(moments.mean, "float64")
    positions = tf.ones_like(mean[:, :, :1]) * tf.cast(tf.shape(x)[1] * tf.shape(x)[3], "float64")
    weight = positions if mask is None else tf.cast(moments.weight, "float64")
    variance = tf.cast(moments.variance, "float64")
    return tuple(tf.reshape(v, (-1, size)) for v, size in ((weight, 1), (mean, shape[axis]), (variance, shape[axis])))


def _assign(variable, value):
    variable.assign(tf.cast(value, variable.dtype))
