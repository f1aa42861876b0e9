"""One pass over the data, in both modes."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics.gap_null import Examples
from nrm_keras.surgery.batches import examples as number_of_examples
from nrm_keras.surgery.meter import calling, has_running_statistics, measure_examples
from nrm_keras.surgery.recalibration import State, frozen_in_training


class Probe:
    """Keeps the moments of each example in front of one layer, which normalizes as in training unless it is frozen."""

    def __init__(self, layer: keras.layers.Layer, frozen: bool):
        self.layer, self.frozen = layer, frozen
        self.batches = []
        # Variables, as tensors don't leave the loops of a graph.
        self._rows = [
            tf.Variable(tf.zeros((0, channels), "float64"), shape=(None, channels))
            for channels in (1, *[layer.moving_mean.shape[0]] * 2)
        ]
        self._calls = tf.Variable(0)

    def attached(self):
        """A context in which each call of the layer, traced or eager, is measured."""
        original = self.layer.call

        def call(inputs, *args, **kwargs):
            measured = measure_examples(inputs, kwargs.get("mask"), self.layer.axis)
            for variable, rows in zip(self._rows, measured, strict=True):
                variable.assign(tf.concat([variable, rows], 0))
            self._calls.assign_add(1)
            return original(inputs, *args, **kwargs if self.frozen else kwargs | {"training": True})

        return calling(self.layer, call)

    def start(self) -> None:
        """Forgets the batch."""
        for variable in self._rows:
            variable.assign(tf.zeros((0, variable.shape[1]), "float64"))
        self._calls.assign(0)

    def read(self) -> tuple:
        """What was measured since `start`, for `add`."""
        return tuple(tf.convert_to_tensor(v) for v in (*self._rows, self._calls))

    def add(self, rows: tuple, examples: int) -> None:
        """Keeps a batch, if it reached the layer."""
        *moments, calls = (value.numpy() for value in rows)
        if calls and len(moments[0]) and np.any(moments[0] > 0):
            self.batches.append(Examples.of_batch(*moments, int(calls), examples))


class Pass:
    """The moments in front of each layer, and the loss in both modes."""

    def __init__(self, model: keras.Model, layers: list[keras.layers.Layer], keep: bool):
        self.batches = self.skipped = self.examples = 0
        self.losses = []  # (weight, at inference, with batch statistics) of each batch
        self.kept = _Kept()
        self.frozen = set()
        self._model, self._layers, self._keep = model, layers, keep
        self._others = [
            layer
            for layer in model._flatten_layers()
            if getattr(layer, "moving_mean", None) is not None and not has_running_statistics(layer)
        ]
        self._probes = None

    @property
    def reached(self) -> list[keras.layers.Layer]:
        """The layers that the data reached."""
        return [probe.layer for probe in self._probes if probe.batches]

    @property
    def left(self) -> list[tuple[str, str]]:
        """Layers that were not measured, each with the reason."""
        reason = "its running statistics are not one mean and variance for each channel"
        left = [(probe.layer.path, "the data did not reach it") for probe in self._probes if not probe.batches]
        return left + [(layer.path, reason) for layer in self._others]

    def examples_of(self, layer: keras.layers.Layer) -> Examples:
        """All examples in front of a layer that the data reached."""
        return Examples.together(next(probe.batches for probe in self._probes if probe.layer is layer))

    def over(self, batches) -> None:
        state = State(self._model)
        step = tf.function(self._step, autograph=False, reduce_retracing=True)
        for batch in batches:
            number = number_of_examples(batch[0])
            if number > 0 and self._probes is None:
                self._choose(batch[0])
            if number > 0 and self._count(batch, number, step(*batch)):
                self.batches += 1
                self.examples += number
            else:
                self.skipped += 1
            # Each batch meets the same model.
            state.restore()
        if self.batches == 0:
            raise ValueError(
                "The data must have a batch with examples and finite values only. "
                f"Received: {self.skipped} batches without. The model is as it was."
            )

    def _choose(self, x):
        every = [*self._layers, *self._others]
        self.frozen = frozen_in_training(self._model, every, x)
        self._probes = [Probe(layer, id(layer) in self.frozen) for layer in self._layers]

    def _step(self, x, y, sample_weight):
        has_loss = y is not None and self._model.compiled and getattr(self._model, "_compile_loss", None) is not None
        losses = [self._loss(x, y, sample_weight)] if has_loss else []
        for probe in self._probes:
            probe.start()
        with contextlib.ExitStack() as attached:
            for probe in self._probes:
                attached.enter_context(probe.attached())
            for layer in self._others:
                if id(layer) not in self.frozen:
                    attached.enter_context(_training(layer))
            if has_loss:
                losses.append(self._loss(x, y, sample_weight))
            else:
                self._model(x, training=False)
        return losses, [probe.read() for probe in self._probes]

    def _loss(self, x, y, sample_weight):
        outputs = self._model(x, training=False)
        # Keras' own way to call a `compute_loss` that was overridden with other arguments.
        return self._model._compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=False)

    def _count(self, batch, number, measured):
        """Adds the batch, if it is finite in front of every layer."""
        if not all(np.all(np.isfinite(value)) for value in keras.tree.flatten(measured)):
            return False
        losses, rows = measured
        for probe, values in zip(self._probes, rows, strict=True):
            probe.add(values, number)
        if losses:
            self.losses.append((number, *(float(loss) for loss in losses)))
        if self._keep:
            self.kept.append(batch)
        return True


class _Kept:
    """Batches that were seen, to be seen again as batches; a plain list would be arrays."""

    def __init__(self):
        self._batches = []

    def append(self, batch):
        self._batches.append(batch)

    def __iter__(self):
        return (keras.utils.pack_x_y_sample_weight(*batch) for batch in self._batches)


def _training(layer):
    original = layer.call
    return calling(layer, lambda inputs, *args, **kwargs: original(inputs, *args, **kwargs | {"training": True}))
