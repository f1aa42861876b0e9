"""What the rules see: one probed step, with what is known of the training so far."""

import functools
import math
from typing import NamedTuple

import keras
import numpy as np

from nrm_keras.diagnostics.constant import Constant
from nrm_keras.diagnostics.places import Place, places_of
from nrm_keras.diagnostics.readings import Activation, Reading, Weight
from nrm_keras.surgery.structure import is_normalizer


class Finding(NamedTuple):
    """What a rule has against a layer (None: the training as a whole), in a number and in words."""

    layer: str | None
    value: float
    evidence: str


def of_training(compute):
    """A property that is the same in all observations of a training, and computed in the first."""
    name = compute.__name__
    return functools.cached_property(
        functools.wraps(compute)(lambda self: compute(self) if self.first is self else getattr(self.first, name))
    )


class Observation:
    """One probed step.

    Attributes:
        model: as it is after the step.
        step, epoch: after how many steps of the optimizer, in which epoch.
        reading: what the probes saw.
        loss: of the step.
        first: the first observation of this training; its `constant` knows the labels of all.
    """

    def __init__(self, model: keras.Model, step: int, epoch: int, reading: Reading, loss: float | None, first=None):
        self.model, self.step, self.epoch, self.reading = model, step, epoch, reading
        self.loss = reading.loss if reading.loss is not None else loss
        self.first: Observation = first or self
        self.constant: Constant | None = None

    @functools.cached_property
    def finite(self) -> bool:
        """Of loss and weights: an activation may well be infinite, as a score is that a mask takes out."""
        weights = all(math.isfinite(weight.norm + weight.update_norm) for weight in self.reading.weights)
        if self.loss is None:
            return weights and all(activation.finite for activation in self.reading.activations)
        return weights and math.isfinite(self.loss)

    @functools.cached_property
    def gradient_norm(self) -> float | None:
        """Of all trainable weights together."""
        weights = self.reading.weights
        return math.sqrt(sum(w.gradient_norm**2 for w in weights)) if weights else None

    @functools.cached_property
    def learning_rate(self) -> float | None:
        optimizer = self.model.optimizer
        return float(keras.ops.convert_to_numpy(optimizer.learning_rate)) if optimizer else None

    @of_training
    def places(self) -> dict[str, Place]:
        """Every layer, by its name."""
        return {place.name: place for place in places_of(self.model)}

    @of_training
    def normalizers(self) -> dict[str, keras.layers.Layer]:
        """Those that normalize, by name."""
        return {name: place.layer for name, place in self.places.items() if is_normalizer(place.layer)}

    @of_training
    def owners(self) -> dict[int, str]:
        """The name of each variable's layer, by the variable's id."""
        return {id(v): name for name, place in self.places.items() for v in place.weights}

    @of_training
    def matrices(self) -> dict[int, str]:
        """Those of them whose variable is a matrix; no gamma, beta or bias."""
        return {id(v): name for name, place in self.places.items() for v in place.kernels}

    @functools.cached_property
    def kernels(self) -> list[tuple[str, Weight]]:
        """(layer, its matrix) of each that was updated, in the order of the model."""
        owned = ((self.matrices.get(id(w.variable)), w) for w in self.reading.weights)
        return [(layer, w) for layer, w in owned if layer]

    def layer(self, name: str) -> keras.layers.Layer | None:
        """The layer of this name."""
        return self.places[name].layer if name in self.places else None

    def owner(self, weight: Weight) -> str:
        """The name of the weight's layer."""
        return self.owners.get(id(weight.variable), weight.variable.path)

    @functools.cached_property
    def values(self) -> dict[int, np.ndarray]:
        """All values of small variables, such as gamma and beta, by the variable's id."""
        return {id(w.variable): w.values for w in self.reading.weights if w.values is not None}

    def hidden(self) -> list[Activation]:
        """The activations but those that are outputs, which may well be sure of themselves."""
        ends = self.reading.ends or {a.layer for a in self.reading.activations[-1:]}
        return [activation for activation in self.reading.activations if activation.layer not in ends]

    @property
    def output(self) -> Activation | None:
        """The last activation, if it is an output of the model; else None."""
        last = next(reversed(self.reading.activations), None)
        return last if last is not None and last.layer in self.reading.ends else None
