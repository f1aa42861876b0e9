"""Residual networks for tables (Gorishniy et al. 2021, arXiv:2106.11959, section 3.2, "ResNet")."""

from __future__ import annotations

import keras

from nrm_keras.models.blocks import drop, normalize
from nrm_keras.models.normalizers import NormFactory


def residual_mlp(
    x,
    norm: NormFactory | None,
    width: int = 128,
    depth: int = 3,
    expansion: int = 2,
    activation: str = "relu",
    dropout: float = 0.0,
):
    """A dense layer, then blocks that each add a branch of two dense layers to their input.

    A branch is normalizer, dense layer, activation, dropout, dense layer, dropout; a last normalizer and activation
    follow the last block.

    Args:
        x: symbolic tensor `(batch, ...)`, flattened first.
        norm: makes a normalizer under a given name, see `norm_factory`; None for none.
        width: units between the blocks.
        depth: number of blocks.
        expansion: units inside of a block, in multiples of width.
        activation: any activation Keras knows by name.
        dropout: share of units dropped behind each dense layer of a branch.

    Returns:
        Symbolic tensor `(batch, width)`.

    Example:

    >>> import keras
    >>> from nrm_keras.layers import BatchNormalization
    >>> from nrm_keras.models import residual_mlp
    >>> residual_mlp(keras.Input((54,)), lambda name: BatchNormalization(name=name)).shape
    (None, 128)
    """
    if len(x.shape) > 2:
        x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(width, kernel_initializer="he_normal", name="stem")(x)
    for number in range(1, depth + 1):
        name = f"block{number}"
        y = normalize(x, norm, f"{name}_norm")
        y = keras.layers.Dense(width * expansion, kernel_initializer="he_normal", name=f"{name}_dense1")(y)
        y = keras.layers.Activation(activation, name=f"{name}_{activation}")(y)
        y = drop(y, dropout, f"{name}_dropout1")
        y = keras.layers.Dense(width, kernel_initializer="he_normal", name=f"{name}_dense2")(y)
        y = drop(y, dropout, f"{name}_dropout2")
        x = keras.layers.Add(name=f"{name}_add")([x, y])
    x = normalize(x, norm, "final_norm")
    return keras.layers.Activation(activation, name=f"final_{activation}")(x)
