"""What is kept of a step, in the graph: small arrays in one vector."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics import taps
from nrm_keras.diagnostics.places import Places
from nrm_keras.diagnostics.readings import SAMPLE
from nrm_keras.diagnostics.units import activation_kind
from nrm_keras.layers import backend
from nrm_keras.surgery.meter import has_running_statistics
from nrm_keras.surgery.structure import is_normalizer

# Steps through the values in an order that meets every channel, whatever their number: a prime above any usual one.
STRIDE = 104_729


class Packing:
    """Many small arrays as one float32 vector, so that one transfer brings them all to the host."""

    def __init__(self):
        self._parts: list = []
        self._sizes: dict = {}
        self._indices: dict = {}

    def add(self, key, values) -> None:
        values = tf.reshape(tf.cast(values, tf.float32), [-1])
        self._parts.append(values)
        self._sizes[key] = values.shape[0]

    def add_moments(self, key, values, mask) -> None:
        """Number, mean and variance of the rows, per channel; rows that are masked don't count."""
        if mask is None:
            count = tf.shape(values)[0]
            mean, variance = _moments(values)
        else:
            count = tf.reduce_sum(tf.cast(mask, tf.float32))
            share = 1 / tf.maximum(count, 1)
            mean = share * tf.reduce_sum(_masked(values, mask, 0), 0)
            variance = share * tf.reduce_sum(_masked(tf.square(values - mean), mask, 0), 0)
        for name, value in (("values", count), ("mean", mean), ("variance", variance)):
            self.add((key, name), value)

    def sample(self, values) -> tf.Tensor:
        """1,024 of the values; where there are fewer, NaN for those that lack."""
        known = values.shape.num_elements()
        if known not in self._indices or known is None:
            self._indices[known] = tf.range(SAMPLE) * STRIDE % tf.maximum(tf.size(values), 1)
        chosen = tf.gather(tf.reshape(values, [-1]), self._indices[known])
        return tf.where(tf.range(SAMPLE) < tf.size(values), chosen, np.nan)

    def vector(self) -> tf.Tensor:
        return tf.concat(self._parts, 0) if self._parts else tf.zeros((0,))

    def unpack(self, vector: np.ndarray) -> dict:
        vector, start, parts = vector.astype("float64"), 0, {}
        for key, size in self._sizes.items():
            parts[key] = vector[start : start + size]
            start += size
        return parts


def summarize(packing: Packing, calls: Sequence[taps.Call], axes: dict, places: Places) -> list[tuple]:
    """Packs what is kept of the calls; returns (name, layer, kind) of each."""
    seen: dict = {}
    described = []
    for number, call in enumerate(calls):
        count = seen[id(call.layer)] = seen.get(id(call.layer), 0) + 1
        name = places.name(call.layer) + (f"#{count}" if count > 1 else "")
        kind = activation_kind(call.layer)
        described.append((name, type(call.layer).__name__, kind))
        values, mask = _rows(call.output, axes[id(call.output)], call.mask)
        packing.add_moments(number, values, mask)
        packing.add((number, "sample"), packing.sample(_masked(values, mask, np.nan)))
        if call.gradient is not None:
            # one pass, whatever the shape
            packing.add((number, "gradient"), tf.nn.l2_loss(tf.cast(tf.convert_to_tensor(call.gradient), tf.float32)))
    return described


def summarize_inputs(packing: Packing, chosen, calls, axes: dict, places: Places) -> list[tuple]:
    """Packs moments of what layers with running statistics get, and those statistics as they are after the step.

    The moments of a chosen call's output are there already, if it has its channels on the same axis.
    """
    known = {(id(call.output), axes[id(call.output)]): number for number, call in enumerate(chosen)}
    described = []
    for number, call in enumerate(calls):
        if not has_running_statistics(call.layer) or not isinstance(call.input, tf.Tensor):
            continue
        axis = axes[id(call.output)]
        key = known.get((id(call.input), axis))
        if key is None:
            key = f"inputs {number}"
            packing.add_moments(key, *_rows(call.input, axis, getattr(call.input, "_keras_mask", None)))
        packing.add((number, "moving_mean"), call.layer.moving_mean)
        packing.add((number, "moving_variance"), call.layer.moving_variance)
        described.append((key, number, call.layer, places.name(call.layer)))
    return described


def summarize_first_inputs(packing: Packing, calls: Sequence[taps.Call]) -> keras.layers.Layer | None:
    """Packs moments of what the first layer with weights gets; returns the layer, None where that is no float."""
    first = next((call for call in calls if call.layer.weights), None)
    values = first.input if first else None
    if not isinstance(values, tf.Tensor) or not values.dtype.is_floating or not values.shape.rank:
        return None
    axis = values.shape.rank - 1
    if values.shape[axis] is None:
        return None
    packing.add_moments("first inputs", *_rows(values, axis, getattr(values, "_keras_mask", None)))
    return first.layer


def summarize_update(packing: Packing, number: int, update: taps.Update) -> list[tuple]:
    """Packs what one call of an optimizer was given and did; returns (key, variable, its size) of each.

    The products of values, gradient and update with each other give all norms in one operation.
    """
    gradients = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in update.gradients]
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    described = []
    parts = zip(update.variables, gradients, update.before, update.after, strict=True)
    for index, (variable, gradient, before, after) in enumerate(parts):
        before, gradient, after = (tf.reshape(tf.cast(v, tf.float32), [-1]) for v in (before, gradient, after))
        key = ("weight", number, index)
        three = tf.stack([before, gradient, after - before])
        packing.add((*key, "products"), tf.matmul(three, three, transpose_b=True))
        if is_small(variable):
            packing.add((*key, "values"), after)
        described.append((key, variable, math.prod(variable.shape)))
    return described


def is_small(variable: keras.Variable) -> bool:
    """Whether all values are kept: those of gamma, beta, biases and gates."""
    return len(variable.shape) <= 1 and math.prod(variable.shape) <= SAMPLE


def channel_axes(calls: Sequence[taps.Call]) -> dict[int, int]:
    """The axis of the channels of each call's output, by the output's id.

    Layers that have no opinion, such as activations, have their channels where their inputs have them.
    """
    axes: dict[int, int] = {}
    for call in calls:
        rank = call.output.shape.rank
        axis = _own_axis(call.layer, rank)
        if axis is None:
            same_rank = isinstance(call.input, tf.Tensor) and call.input.shape.rank == rank
            axis = axes.get(id(call.input), rank - 1) if same_rank else rank - 1
        axes[id(call.output)] = axis
    return axes


def _own_axis(layer, rank: int) -> int | None:
    if is_normalizer(layer) or has_running_statistics(layer):
        axis = getattr(layer, "axis", -1)
        return axis % rank if isinstance(axis, int) else rank - 1
    data_format = getattr(layer, "data_format", None)
    if data_format is not None:
        return 1 if data_format == "channels_first" and rank > 2 else rank - 1
    return rank - 1 if layer.weights else None


def _rows(values, axis, mask):
    """The values as float32 of shape (rows, channels), and the mask, if any, as (rows, 1).

    Where the number of channels differs from batch to batch, as with attention scores, all are one channel.
    """
    values = tf.cast(values, tf.float32)
    last = values.shape.rank - 1
    channels = 1 if values.shape[axis] is None else values.shape[axis]
    if mask is None or mask.shape.rank > last or axis != last:
        mask = None
    else:
        rank = last + (values.shape[axis] is None)
        mask = mask[(..., *[None] * (rank - mask.shape.rank))]
        mask = tf.reshape(tf.broadcast_to(mask, tf.shape(values)[:rank]), (-1, 1))
    if axis != last:
        values = tf.experimental.numpy.moveaxis(values, axis, -1)
    return tf.reshape(values, (-1, channels)), mask


def _masked(values, mask, otherwise):
    return values if mask is None else tf.where(mask, values, tf.cast(otherwise, values.dtype))


def _moments(values):
    channels = values.shape[-1]
    if backend.has_fused_batch_norm():
        # one read of memory that is otherwise three
        one = tf.ones((channels,))
        _, mean, variance = backend.fused_batch_norm(values[None, None], one, one, 1e-3)
        return mean, variance
    mean = tf.reduce_mean(values, 0)
    return mean, tf.reduce_mean(tf.square(values - mean), 0)


def of_all_replicas(values):
    """The replicas' values under each other, alike on all of them."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1 or not isinstance(values, tf.Tensor):
        return values
    return context.all_gather(values, axis=0)
