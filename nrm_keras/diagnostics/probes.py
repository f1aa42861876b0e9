"""Reads the inside of a training step: what its activations, gradients and updates were, in one small vector."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics import taps
from nrm_keras.diagnostics.places import LOOPS, Places
from nrm_keras.diagnostics.units import CAN_DIE, activation_kind
from nrm_keras.layers import backend
from nrm_keras.surgery.structure import is_normalizer

SAMPLE = 1024
# Steps through the values in an order that meets every channel, whatever their number: a prime above any usual one.
STRIDE = 104_729


@dataclasses.dataclass(frozen=True)
class Activation:
    """The first output of one call of a layer, over one batch.

    Attributes:
        layer, type: the layer's name and class; a second call in the step is `name#2`.
        kind: what the values have gone through: "relu", "tanh", ..., or None.
        values: how many values a channel had.
        mean, variance: per channel, float64.
        maximum: per channel, where units can die; else None.
        sample: at most 1,024 values, the same places in each step.
        gradient_norm, gradient_rms: of the loss with respect to the activation, without loss scale; None where none came.
    """

    layer: str
    type: str
    kind: str | None
    values: float
    mean: np.ndarray
    variance: np.ndarray
    maximum: np.ndarray | None
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
    """A variable in one update: norms of its value before, of its gradient and of what the update changed; `inner` is
    the inner product of value and gradient, `values` are all values after the update where they are few, else None."""

    variable: keras.Variable
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
    """What one step showed."""

    loss: float | None
    activations: list[Activation]
    weights: list[Weight]
    inputs: list[Inputs]
    batch: tuple


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


class ProbedStep:
    """A train function that does what the model's own does, and reads the step's inside on the way.

    It is traced on its own, with hooks that exist only while it runs, so that the model's own train function,
    evaluation and export never see them.
    """

    def __init__(self, model: keras.Model, places: Places):
        self._model, self._places = model, places
        self._function = model._make_function(self._step)
        self._optimizers = taps.optimizers_of(model)
        self._outcome = None
        # One for each trace, and there may be several: of (packing, calls, inputs, variables), what the numbers mean.
        self._traces: list[tuple] = []

    def __call__(self, iterator):
        with taps.hooks(self._places.candidates, self._optimizers):
            logs, *self._outcome = self._function(iterator)
        return logs

    def read(self) -> Reading:
        """What the last step showed; waits until the step is done."""
        vectors, batch, trace = self._outcome
        packing, calls, inputs, variables = self._traces[int(trace)]
        replicas = [packing.unpack(row) for row in np.asarray(vectors)]
        loss = sum(float(r["loss"][0]) for r in replicas) if "loss" in replicas[0] else None
        weights = [_weight(key, variable, replicas[0]) for key, variable in variables]
        return Reading(loss, _activations(calls, replicas), weights, _inputs(inputs, replicas), batch)

    def _step(self, data):
        factors = {id(o): type(o).scale_loss(o, tf.ones(())) for o in self._optimizers}
        with taps.recording() as recorder:
            logs = self._model.train_step(data)
        packing = Packing()
        if recorder.loss is not None:
            packing.add("loss", recorder.loss)
        calls = self._places.choose(recorder.calls)
        axes = channel_axes(recorder.calls)
        names = summarize(packing, calls, axes, self._places)
        inputs = summarize_inputs(packing, calls, recorder.calls, axes, self._places)
        variables: list = []
        for number, update in enumerate(recorder.updates):
            variables += _summarize_update(packing, number, update)
        packing.add("factors", tf.stack([1.0, *(factors[id(update.optimizer)] for update in recorder.updates)]))
        packing.add("factor", factors.get(id(self._model.optimizer), tf.ones(())))
        if tf.executing_eagerly():
            self._traces.clear()
        self._traces.append((packing, names, inputs, variables))
        batch = keras.tree.map_structure(_of_all_replicas, data)
        return logs, _of_all_replicas(packing.vector()[None]), batch, tf.constant(len(self._traces) - 1)


class Forward:
    """A forward pass in training mode on a fixed batch, in which nothing of the model changes; dropout is off."""

    def __init__(self, model: keras.Model, places: Places):
        self._model, self._places = model, places
        self._function = tf.function(self._pass, jit_compile=bool(model.jit_compile))
        self._packing, self._calls = None, []

    def __call__(self, x) -> list[Activation]:
        silent = [layer for layer in self._places.candidates if is_random(layer)]
        with taps.hooks(self._places.candidates, silent=silent):
            vector = self._function(x)
        return _activations(self._calls, [self._packing.unpack(vector.numpy())])

    def _pass(self, x):
        with taps.recording() as recorder, keras.StatelessScope():
            self._model(x, **({"training": True} if self._model._call_has_training_arg else {}))
        packing = Packing()
        calls = self._places.choose(recorder.calls)
        self._packing = packing
        self._calls = summarize(packing, calls, channel_axes(recorder.calls), self._places)
        packing.add("factor", tf.ones(()))
        return packing.vector()


def is_random(layer: keras.layers.Layer) -> bool:
    """Whether the layer draws random numbers in training, as dropout does."""
    layers = layer._flatten_layers() if isinstance(layer, LOOPS) else [layer]
    return any(isinstance(value, keras.random.SeedGenerator) for part in layers for value in vars(part).values())


# In the graph --------------------------------------------------------------------------------------------------------


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
        if kind in CAN_DIE:
            packing.add((number, "maximum"), tf.reduce_max(_masked(values, mask, values.dtype.min), 0))
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


def has_running_statistics(layer: keras.layers.Layer) -> bool:
    """Whether the layer keeps a running mean and variance of each channel."""
    mean, variance = getattr(layer, "moving_mean", None), getattr(layer, "moving_variance", None)
    return all(isinstance(v, keras.Variable) and len(v.shape) == 1 for v in (mean, variance))


def _summarize_update(packing, number, update):
    gradients = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in update.gradients]
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    described = []
    parts = zip(update.variables, gradients, update.before, update.after, strict=True)
    for index, (variable, gradient, before, after) in enumerate(parts):
        before, after = (tf.cast(v, tf.float32) for v in (before, after))
        key = ("weight", number, index)
        for name, value in (("norm", before), ("gradient", gradient), ("update", after - before)):
            packing.add((*key, name), tf.nn.l2_loss(value))
        packing.add((*key, "inner"), tf.tensordot(tf.reshape(before, [-1]), tf.reshape(gradient, [-1]), 1))
        if is_small(variable):
            packing.add((*key, "values"), after)
        described.append((key, variable))
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


def _of_all_replicas(values):
    """The replicas' values under each other, alike on all of them."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1 or not isinstance(values, tf.Tensor):
        return values
    return context.all_gather(values, axis=0)


# On the host ---------------------------------------------------------------------------------------------------------


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


def _activations(described, replicas) -> list[Activation]:
    return [_activation(number, *names, replicas) for number, names in enumerate(described)]


def _activation(number, name, type_, kind, replicas):
    values, mean, variance = _moments_of(replicas, number)
    maxima = [r[number, "maximum"] for r in replicas if (number, "maximum") in r]
    sample = np.concatenate([r[number, "sample"][: SAMPLE // len(replicas)] for r in replicas])
    norm = rms = None
    if (number, "gradient") in replicas[0]:
        norm = float(np.sqrt(2 * sum(r[number, "gradient"][0] for r in replicas)) / replicas[0]["factor"][0])
        rms = norm / max(values * len(mean), 1) ** 0.5
    maximum = np.max(maxima, 0) if maxima else None
    return Activation(name, type_, kind, values, mean, variance, maximum, sample[~np.isnan(sample)], norm, rms)


def _inputs(described, replicas) -> list[Inputs]:
    first = replicas[0]
    return [
        Inputs(layer, name, *_moments_of(replicas, key), first[number, "moving_mean"], first[number, "moving_variance"])
        for key, number, layer, name in described
    ]


def _weight(key, variable, numbers) -> Weight:
    factor = numbers["factors"][1 + key[1]]
    norm, gradient, update = (float(np.sqrt(2 * numbers[*key, name][0])) for name in ("norm", "gradient", "update"))
    inner = float(numbers[*key, "inner"][0] / factor)
    return Weight(variable, norm, float(gradient / factor), update, inner, numbers.get((*key, "values")))
