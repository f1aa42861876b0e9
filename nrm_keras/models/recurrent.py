"""Gated recurrent networks for text, with normalizers outside and inside of the recurrence."""

from __future__ import annotations

import keras
from keras import ops

from nrm_keras import layers
from nrm_keras.models.blocks import drop
from nrm_keras.models.normalizers import NormFactory
from nrm_keras.models.tokens import MaskedMean, PaddingMask, check_tokens, normalize_tokens

# Their statistics of one step are those of one example, whatever the other examples and steps are.
_STEPWISE = (layers.LayerNormalization, layers.GroupNormalization, keras.layers.RMSNormalization)


@keras.saving.register_keras_serializable(package="nrm_keras")
class NormalizedGRUCell(keras.layers.Layer):
    """One step of a gated recurrent unit on inputs that are projected already, with normalized recurrent projections.

    Equation, with h the last state, and a_z, a_r, a_c the inputs' projections:

        z, r = sigmoid([a_z, a_r] + norm_1(h U))
        c    = tanh(a_c + r * norm_2(h V))
        h'   = z * h + (1 - z) * c

    Args:
        units: channels of the state.
        gate_norm: norm_1, a layer for the `(batch, 2 * units)` gates; None for none, with a bias in its place.
        candidate_norm: norm_2, a layer for the `(batch, units)` candidate; None for none, with a bias in its place.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: projections [a_z, a_r, a_c] of the inputs, `(batch, 3 * units)`.
        states: list of the state h, `(batch, units)`.

    Returns: the new state, and a list of it.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.layers import LayerNormalization
    >>> from nrm_keras.models.recurrent import NormalizedGRUCell
    >>> cell = NormalizedGRUCell(4, LayerNormalization(), LayerNormalization())
    >>> keras.layers.RNN(cell)(np.zeros((2, 7, 12), "float32")).shape
    TensorShape([2, 4])

    Source: Cho et al. 2014 (arXiv:1406.1078), section 2.3; normalized as in Ba et al. 2016 (arXiv:1607.06450),
    equations 22 to 24, where the gate is 1 - z.
    """

    def __init__(self, units, gate_norm=None, candidate_norm=None, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units
        self.gate_norm = gate_norm
        self.candidate_norm = candidate_norm
        self.gates = self._projection(2 * units, gate_norm, "gates")
        self.candidate = self._projection(units, candidate_norm, "candidate")

    def _projection(self, units, norm, name):
        return keras.layers.Dense(
            units, use_bias=norm is None, kernel_initializer="orthogonal", name=name, dtype=self.dtype_policy
        )

    def build(self, input_shape):
        batch = input_shape[0]
        for projection, norm in ((self.gates, self.gate_norm), (self.candidate, self.candidate_norm)):
            projection.build((batch, self.units))
            # Loaded with the cell, a normalizer comes built.
            if norm is not None and not norm.built:
                norm.build((batch, projection.units))

    def call(self, inputs, states):
        state = states[0]
        gates, candidate = self.gates(state), self.candidate(state)
        if self.gate_norm is not None:
            gates = self.gate_norm(gates)
        if self.candidate_norm is not None:
            candidate = self.candidate_norm(candidate)
        update, reset = ops.split(ops.sigmoid(inputs[:, : 2 * self.units] + gates), 2, axis=-1)
        candidate = ops.tanh(inputs[:, 2 * self.units :] + reset * candidate)
        state = update * state + (1 - update) * candidate
        return state, [state]

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "units": self.units,
            "gate_norm": serialize(self.gate_norm),
            "candidate_norm": serialize(self.candidate_norm),
        }

    @classmethod
    def from_config(cls, config):
        restore = keras.saving.deserialize_keras_object
        return cls(
            **{**config, "gate_norm": restore(config["gate_norm"]), "candidate_norm": restore(config["candidate_norm"])}
        )


@keras.saving.register_keras_serializable(package="nrm_keras")
class Recurrence(keras.layers.RNN):
    """`keras.layers.RNN` whose states stand in the order of its inputs, backward too; it hands on no mask."""

    def call(self, sequences, initial_state=None, mask=None, training=False):
        states = super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        return ops.flip(states, axis=1) if self.go_backwards and self.return_sequences else states

    def compute_mask(self, sequences, mask=None):
        return None


def gru(
    x,
    norm: NormFactory | None,
    *,
    vocabulary: int,
    length: int,
    width: int = 64,
    depth: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.1,
    pooling: str = "mean",
):
    """Gated recurrent layers on embedded tokens.

    The inputs' projections are made for all steps at once and normalized over the valid tokens, which suits every
    normalizer (batch: Laurent et al. 2016, arXiv:1510.01378, section 4). Those whose statistics need one step only
    (layer, rms, sample and group) stand inside of the recurrence as well (Ba et al. 2016, arXiv:1607.06450).
    Padding changes no state and counts in no statistics.

    Args:
        x: symbolic tensor of token ids `(batch, length)`, 0 for padding.
        norm: makes a normalizer under a given name, see `norm_factory`; None for none.
        vocabulary: number of token ids, the padding's included.
        length: of the longest text.
        width: channels of a token and of the state in each direction.
        depth: number of recurrent layers.
        bidirectional: whether a second recurrence reads from the end.
        dropout: share of each recurrent layer's inputs that is dropped.
        pooling: "mean" over the states at all valid tokens, or the "last" state of each direction.

    Returns:
        Symbolic tensor `(batch, width)`, or `(batch, 2 * width)` if bidirectional.

    Raises:
        UserError: inputs that are no token ids, or longer than length.

    Example:

    >>> import keras
    >>> from nrm_keras.layers import LayerNormalization
    >>> from nrm_keras.models import gru
    >>> tokens = keras.Input((16,), dtype="int32")
    >>> gru(tokens, lambda name: LayerNormalization(name=name), vocabulary=100, length=16, bidirectional=True).shape
    (None, 128)
    """
    check_tokens(x, length, "gru")
    mask = PaddingMask(name="padding_mask")(x)
    x = keras.layers.Embedding(vocabulary, width, name="embedding")(x)
    directions = ("forward", "backward") if bidirectional else ("forward",)
    for number in range(1, depth + 1):
        name = f"gru{number}"
        x = drop(x, dropout, f"{name}_dropout")
        last = number == depth and pooling == "last"
        outputs = [
            _recurrence(x, mask, norm, width, direction, last, f"{name}_{direction}") for direction in directions
        ]
        x = keras.layers.Concatenate(name=f"{name}_join")(outputs) if bidirectional else outputs[0]
    return x if pooling == "last" else MaskedMean(name="pool")(x, mask=mask)


def _recurrence(x, mask, norm, units, direction, last, name):
    """The states at all tokens, in their order; or only the last state that the recurrence reaches."""
    inputs = [
        _projection(x, mask, norm, 2 * units, f"{name}_input_gates"),
        _projection(x, mask, norm, units, f"{name}_input_candidate"),
    ]
    inputs = keras.layers.Concatenate(name=f"{name}_inputs")(inputs)
    cell = NormalizedGRUCell(units, _stepwise(norm, "gate_norm"), _stepwise(norm, "candidate_norm"), name="cell")
    backward = direction == "backward"
    return Recurrence(cell, return_sequences=not last, go_backwards=backward, name=name)(inputs, mask=mask)


def _projection(x, mask, norm, units, name):
    x = keras.layers.Dense(units, use_bias=norm is None, name=name)(x)
    return normalize_tokens(x, mask, norm, f"{name}_norm")


def _stepwise(norm, name):
    normalizer = None if norm is None else norm(name)
    return normalizer if isinstance(normalizer, _STEPWISE) else None
