"""What a monitor watches in a model: statistics of each example over its positions, layer by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from nrm_keras.diagnostics.places import LOOPS, is_activation, places_of
from nrm_keras.surgery.meter import calling

MOST = 16  # layers; of more, every second or third is watched
_OTHERS = (*LOOPS, keras.layers.Embedding, keras.layers.Normalization, keras.layers.Add)


class Call:
    """One call of a layer: its first input and its first output."""

    def __init__(self, name: str, layer: keras.layers.Layer, first_input, output):
        self.name, self.layer, self.input, self.output = name, layer, first_input, output


class Watch:
    """Statistics of each example at the watched layers of a model, in the forward pass of inference.

    Watched are inputs (behind their standardization, where there is one), embeddings, activations, residual sums that no
    activation follows, recurrent layers, features (what the last layer with a kernel takes) and outputs, inside of nested
    models too. What specialization for inference may remove, such as normalizers, is not.

    The statistics are mean and standard deviation of each channel over the example's positions; of a table's row the
    values themselves; of a text those over its tokens, and the logarithm of 1 + how many these are.

    Args:
        model: a built model.
        inputs: a batch of its inputs, of two examples or more.

    Attributes:
        names: of the watched layers, in the order of the statistics.
    """

    def __init__(self, model: keras.Model, inputs):
        self._model = model
        self._places = places_of(model)
        self.names: tuple[str, ...] = ()
        size = len(keras.tree.flatten(inputs)[0])
        tensors, _ = self._tensors(inputs)
        # a tensor with other rows than the examples, such as tokens that were reshaped, has no statistics of each of them
        self.names = _thinned([name for name, values in tensors.items() if values.shape[0] == size])

    def __call__(self, inputs) -> list[tf.Tensor]:
        """Statistics of each example, float32 `(examples, statistics)`, of each layer."""
        tensors, masks = self._tensors(inputs)
        return [_statistics(tensors[name], _mask(tensors[name], masks)) for name in self.names]

    def _tensors(self, inputs):
        """What is watched by its name, and the masks that there are."""
        calls, outputs = self._forward(inputs)
        found = {id(values): (name, values) for name, values in _watched(calls, inputs, outputs) if _is_float(values)}
        masks = [call.output for call in calls if call.output.dtype == tf.bool and call.output.shape.rank == 2]
        tensors: dict = {}
        for name, values in found.values():
            tensors[_free(name, tensors)] = values
        return tensors, masks

    def _forward(self, inputs):
        calls: list[Call] = []
        graph = _graph()

        def recorded(place):
            original = place.layer.call

            def call(*args, **kwargs):
                outputs = original(*args, **kwargs)
                first, output = (next(iter(keras.tree.flatten(x)), None) for x in (args or kwargs, outputs))
                # tensors of a loop are not there at the end of the pass
                if isinstance(output, tf.Tensor) and _graph() is graph:
                    calls.append(Call(place.name, place.layer, first, output))
                return outputs

            return call

        with contextlib.ExitStack() as undo:
            for place in self._places:
                undo.enter_context(calling(place.layer, recorded(place)))
            outputs = self._model(inputs, training=False)
        return calls, outputs


def _watched(calls: list[Call], inputs, outputs) -> Iterator[tuple[str, tf.Tensor]]:
    kernels = [number for number, call in enumerate(calls) if hasattr(call.layer, "kernel")]
    first, last = (kernels[0], kernels[-1]) if kernels else (0, None)
    if not any(isinstance(call.layer, keras.layers.Normalization) for call in calls[:first]):
        named = inputs.items() if isinstance(inputs, dict) else [("inputs", v) for v in keras.tree.flatten(inputs)]
        for name, values in named:
            yield name, tf.convert_to_tensor(values)
    activated = {id(call.input) for call in calls if is_activation(call.layer)}
    for number, call in enumerate(calls):
        if number == last:
            yield "features", call.input
        if _matters(call.layer) and not (isinstance(call.layer, keras.layers.Add) and id(call.output) in activated):
            yield call.name, call.output
    names = {id(call.output): call.name for call in calls}
    for values in keras.tree.flatten(outputs):
        yield names.get(id(values), "outputs"), values


def _matters(layer):
    if isinstance(layer, keras.layers.Softmax):  # an attention's weights; those of classes are outputs anyway
        return False
    own = getattr(layer, "activation", None)
    bends = callable(own) and own is not keras.activations.linear
    return bends or is_activation(layer) or isinstance(layer, _OTHERS)


def _is_float(values):
    known = isinstance(values, tf.Tensor) and values.dtype.is_floating and values.shape.rank is not None
    return known and values.shape.rank > 1 and values.shape[-1] is not None


def _free(name, taken):
    number = 2
    while name in taken:
        name, number = f"{name.partition('#')[0]}#{number}", number + 1
    return name


def _thinned(names):
    """At most so many, evenly: the first and the last ones are always among them."""
    if len(names) <= MOST:
        return tuple(names)
    chosen = {round(number * (len(names) - 2) / (MOST - 2)) for number in range(MOST - 1)}
    return tuple(name for number, name in enumerate(names) if number in chosen or number == len(names) - 1)


def _mask(values, masks):
    """Which positions `(examples, positions)` of a sequence are tokens; None where all count."""
    if values.shape.rank != 3:
        return None
    own = getattr(values, "_keras_mask", None)
    return own if own is not None else next((m for m in masks if m.shape[1] == values.shape[1]), None)


def _statistics(values, mask):
    values = tf.cast(values, tf.float32)
    if values.shape.rank == 2:
        return values
    positions = list(range(1, values.shape.rank - 1))
    if mask is None:
        return tf.concat([tf.reduce_mean(values, positions), tf.math.reduce_std(values, positions)], -1)
    weight = tf.cast(mask, tf.float32)[..., None]
    tokens = tf.reduce_sum(weight, 1)
    share = weight / tf.maximum(tokens[:, None], 1)
    values = tf.where(weight > 0, values, 0)
    mean = tf.reduce_sum(share * values, 1)
    variance = tf.reduce_sum(share * tf.square(values - mean[:, None]), 1)
    return tf.concat([mean, tf.sqrt(variance), tf.math.log1p(tokens)], -1)


def _graph():
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
