"""What the rules see: one probed step, with what is known of the training so far."""

import functools
import math
from typing import NamedTuple

import keras
import numpy as np

from nrm_keras.diagnostics.probes import Activation, Reading, Weight
from nrm_keras.surgery.structure import is_normalizer


class Finding(NamedTuple):
    """What a rule has against a layer (None: the training as a whole), in a number and in words."""

    layer: str | None
    value: float
    evidence: str


class Observation:
    """One probed step.

    Attributes:
        model: as it is after the step.
        step, epoch: after how many steps of the optimizer, in which epoch.
        reading: what the probes saw.
        loss: of the step.
        first: the first observation of this training.
    """

    def __init__(self, model: keras.Model, step: int, epoch: int, reading: Reading, loss: float | None, first=None):
        self.model, self.step, self.epoch, self.reading = model, step, epoch, reading
        self.loss = reading.loss if reading.loss is not None else loss
        self.first: Observation = first or self

    @functools.cached_property
    def finite(self) -> bool:
        return (
            all(activation.finite for activation in self.reading.activations)
            and all(math.isfinite(weight.norm + weight.update_norm) for weight in self.reading.weights)
            and (self.loss is None or math.isfinite(self.loss))
        )

    @functools.cached_property
    def gradient_norm(self) -> float | None:
        """Of all trainable weights together."""
        weights = self.reading.weights
        return math.sqrt(sum(w.gradient_norm**2 for w in weights)) if weights else None

    @functools.cached_property
    def learning_rate(self) -> float | None:
        optimizer = self.model.optimizer
        return float(keras.ops.convert_to_numpy(optimizer.learning_rate)) if optimizer else None

    @functools.cached_property
    def owners(self) -> dict[int, keras.layers.Layer]:
        """The layer of each variable, by the variable's id."""
        return {id(v): layer for layer in all_layers(self.model) for v in own_weights(layer)}

    @functools.cached_property
    def kernels(self) -> list[tuple[keras.layers.Layer, Weight]]:
        """The updated matrices of layers, in the order of the model; no gamma, beta or bias."""
        return [
            (self.owners[id(w.variable)], w)
            for w in self.reading.weights
            if id(w.variable) in self.owners and is_kernel(self.owners[id(w.variable)], w.variable)
        ]

    @functools.cached_property
    def values(self) -> dict[int, np.ndarray]:
        """All values of small variables, such as gamma and beta, by the variable's id."""
        return {id(w.variable): w.values for w in self.reading.weights if w.values is not None}

    def hidden(self) -> list[Activation]:
        """The activations but those of the last layer, which may well be sure of themselves."""
        return self.reading.activations[:-1]


def all_layers(model) -> list[keras.layers.Layer]:
    """Every layer inside the model, however deep, in its order."""
    return list(model._flatten_layers(include_self=False))


def own_weights(layer) -> list[keras.Variable]:
    """The layer's weights without those of layers inside."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def is_kernel(layer, variable) -> bool:
    return len(variable.shape) >= 2 and not is_normalizer(layer) and "bias" not in variable.name


def kernels_of(model) -> list[tuple[keras.layers.Layer, keras.Variable]]:
    """(layer, matrix) of every layer that has one, frozen ones too."""
    return [(layer, v) for layer in all_layers(model) for v in own_weights(layer) if is_kernel(layer, v)]
