"""One look into a model: what its layers took and gave on one batch, in training mode without dropout."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics import taps, units
from nrm_keras.diagnostics.places import is_activation, places_of
from nrm_keras.diagnostics.probes import is_random
from nrm_keras.errors import UserError
from nrm_keras.surgery.structure import is_normalizer

_LINEAR = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


class Look:
    """The calls of a model's layers on a batch, in order. Nothing of the model changes.

    Normalizers use the batch's statistics. What is inside of a recurrence is not seen.

    Args:
        model: a compiled model.
        x, y: the batch; without labels there are no gradients.
        variables: of which to have the loss's gradients.
    """

    def __init__(self, model: keras.Model, x, y=None, variables=()):
        layers = [place.layer for place in places_of(model)]
        silent = [layer for layer in layers if is_random(layer)]
        with (
            taps.hooks(layers, silent=silent),
            taps.recording() as recorder,
            tf.GradientTape() as tape,
            # with values, as Keras' regularizers find none otherwise
            keras.StatelessScope([(v, v.value) for v in model.trainable_variables]),
        ):
            outputs = model(x, training=True)
            loss = None if y is None else model.compute_loss(x=x, y=y, y_pred=outputs, training=True)
        # without a gradient to ask for, those of the activations come on the way to the weights
        asked = [v.value for v in (variables or model.trainable_variables)]
        gradients = [] if loss is None else tape.gradient(loss, asked, unconnected_gradients="zero")
        self.gradients = {id(v): g for v, g in zip(variables, gradients, strict=False)}
        self._calls = recorder.calls
        self._tokens = x.numpy() != 0 if x_is_tokens(x) else None

    @property
    def normalizers(self) -> list[taps.Call]:
        return [call for call in self._calls if is_normalizer(call.layer)]

    @property
    def relus(self) -> list[taps.Call]:
        """ReLUs that are layers of their own.

        Raises:
            UserError: there is none.
        """
        found = [c for c in self._calls if is_activation(c.layer) and units.activation_kind(c.layer) == "relu"]
        if not found:
            raise UserError(
                "The probe looks at ReLUs that are layers of their own. Received: a model without any."
                " Set model.activation: relu."
            )
        return found

    @property
    def linear(self) -> list[taps.Call]:
        """Hidden layers with a kernel: all but the last one."""
        return [call for call in self._calls if isinstance(call.layer, _LINEAR)][:-1]

    @property
    def normalized(self) -> list[taps.Call]:
        """The normalizers, or the hidden linear layers of a model that has none."""
        return self.normalizers or self.linear

    def rows(self, values: tf.Tensor) -> np.ndarray:
        """(examples and positions, channels), float64; without padding."""
        array = values.numpy().astype("float64")
        if self._tokens is not None and array.ndim == 3 and array.shape[:2] == self._tokens.shape:
            return array[self._tokens]
        return array.reshape(-1, array.shape[-1])


def x_is_tokens(x) -> bool:
    """Whether the inputs are numbers of words, 0 where there is none."""
    return isinstance(x, tf.Tensor) and x.dtype.is_integer and x.shape.rank == 2
