"""Reads the inside of a training step: what its activations, gradients and updates were, in one small vector."""

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics import taps
from nrm_keras.diagnostics.places import LOOPS, Places
from nrm_keras.diagnostics.readings import Activation, Reading, activations_of, first_inputs_of, inputs_of, weight_of
from nrm_keras.diagnostics.summaries import (
    Packing,
    channel_axes,
    of_all_replicas,
    summarize,
    summarize_first_inputs,
    summarize_inputs,
    summarize_update,
)


class ProbedStep:
    """A train function that does what the model's own does, and reads the step's inside on the way.

    It is traced on its own, with hooks that exist only while it runs, so that the model's own train function,
    evaluation and export never see them.
    """

    def __init__(self, model: keras.Model, places: Places):
        self._model, self._places = model, places
        self._function = model._make_function(self._step)
        self._optimizers = taps.optimizers_of(model)
        self._models = [layer for layer in model._flatten_layers() if isinstance(layer, keras.Model)]
        self._outcome = None
        # One for each trace, and there may be several: of (packing, calls, inputs, variables), what the numbers mean.
        self._traces: list[tuple] = []

    def __call__(self, iterator):
        with taps.hooks(self._places.candidates, self._optimizers, models=self._models):
            logs, *self._outcome = self._function(iterator)
        return logs

    def read(self) -> Reading:
        """What the last step showed; waits until the step is done."""
        vectors, batch, trace = self._outcome
        packing, calls, inputs, variables, ends, first = self._traces[int(trace)]
        replicas = [packing.unpack(row) for row in np.asarray(vectors)]
        loss = sum(float(r["loss"][0]) for r in replicas) if "loss" in replicas[0] else None
        weights = [weight_of(*described, replicas[0]) for described in variables]
        return Reading(
            loss,
            activations_of(calls, replicas),
            weights,
            inputs_of(inputs, replicas),
            batch,
            frozenset(ends),
            first_inputs_of(first, replicas),
        )

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
            variables += summarize_update(packing, number, update)
        packing.add("factors", tf.stack([1.0, *(factors[id(update.optimizer)] for update in recorder.updates)]))
        packing.add("factor", factors.get(id(self._model.optimizer), tf.ones(())))
        if tf.executing_eagerly():
            self._traces.clear()
        ends = [name for call, (name, *_) in zip(calls, names, strict=True) if id(call.output) in recorder.outputs]
        first = summarize_first_inputs(packing, recorder.calls)
        self._traces.append((packing, names, inputs, variables, ends, first))
        batch = keras.tree.map_structure(of_all_replicas, data)
        return logs, of_all_replicas(packing.vector()[None]), batch, tf.constant(len(self._traces) - 1)


class Forward:
    """A forward pass in training mode on a fixed batch, in which nothing of the model changes; dropout is off."""

    def __init__(self, model: keras.Model, places: Places):
        self._model, self._places = model, places
        self._function = tf.function(self._pass, autograph=False, jit_compile=bool(model.jit_compile))
        self._packing, self._calls = None, []

    def __call__(self, x) -> list[Activation]:
        silent = [layer for layer in self._places.candidates if is_random(layer)]
        with taps.hooks(self._places.candidates, silent=silent):
            vector = self._function(x)
        return activations_of(self._calls, [self._packing.unpack(vector.numpy())])

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
