"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from nrm_keras.models.blocks import drop, has_bias, normalize_and_activate
from nrm_keras.models.normalizers import NormFactory


def mlp(
    x,
    norm: NormFactory | None,
    units: Sequence[int] = (128, 128),
    activation: str = "relu",
    dropout: float = 0.0,
    placement: str = "before_activation",
):
    """Dense layers, each with a normalizer and an activation, and dropout behind them.

    Args:
        x: symbolic tensor `(batch, ...)`, flattened first.
        norm: makes a normalizer under a given name, see `norm_factory`; None for none.
        units: width of each hidden layer.
        activation: any activation Keras knows by name.
        dropout: share of hidden units dropped behind each activation.
        placement: "before_activation" or "after_activation".

    Returns:
        Symbolic tensor `(batch, units[-1])`.
    """
    if len(x.shape) > 2:
        x = keras.layers.Flatten(name="flatten")(x)
    for number, width in enumerate(units, 1):
        name = f"dense{number}"
        x = keras.layers.Dense(width, use_bias=has_bias(norm, placement), kernel_initializer="he_normal", name=name)(x)
        x = normalize_and_activate(x, norm, activation, placement, name)
        x = drop(x, dropout, f"{name}_dropout")
    return x
