"""U-Net for segmentation of images and volumes (Ronneberger et al. 2015, arXiv:1505.04597; Cicek et al. 2016)."""

from __future__ import annotations

import keras
from keras import ops

from nrm_keras.errors import UserError
from nrm_keras.models.blocks import convolution, drop, has_bias, normalize_and_activate, of_rank
from nrm_keras.models.normalizers import NormFactory


@keras.saving.register_keras_serializable(package="nrm_keras")
class CropLike(keras.layers.Layer):
    """`[x, reference]` to the first positions of x, as many as the reference has: both `(batch, ..., channels)`."""

    def call(self, inputs):
        x, reference = inputs
        sizes = ops.shape(reference)[1:-1]
        return x[(slice(None), *(slice(size) for size in sizes))]

    def compute_output_shape(self, input_shape):
        x, reference = input_shape
        return (x[0], *reference[1:-1], x[-1])


def unet(
    x,
    norm: NormFactory | None,
    width: int = 16,
    depth: int = 3,
    activation: str = "relu",
    dropout: float = 0.0,
    placement: str = "before_activation",
    down: str = "pool",
    up: str = "transpose",
):
    """An encoder that halves the image depth times, and a decoder that joins what the encoder saw on the way back up.

    Each level has two convolutions of 3 positions a side, with a normalizer and an activation each; the channels
    double from level to level. Unlike in the paper, convolutions keep the size, so that there is an output for every
    position. An odd size is rounded up on the way down and cut on the way up, so that any size fits, and no padding
    reaches a normalizer's statistics.

    Args:
        x: symbolic tensor `(batch, height, width, channels)` or `(batch, depth, height, width, channels)`.
        norm: makes a normalizer under a given name, see `norm_factory`; None for none.
        width: channels of the first level.
        depth: how often the image is halved.
        activation: any activation Keras knows by name.
        dropout: share of features dropped at the lowest level.
        placement: "before_activation" (convolution, normalizer, activation) or "after_activation".
        down: "pool" (maximum of 2 positions a side, as in the paper) or "stride" (a convolution of stride 2).
        up: "transpose" (a transposed convolution, as in the paper) or "nearest" (repeated positions, then a convolution).

    Returns:
        Symbolic tensor `(batch, *positions of x, width)`.

    Raises:
        UserError: inputs that are neither images nor volumes.

    Example:

    >>> import keras
    >>> from nrm_keras.layers import GroupNormalization
    >>> from nrm_keras.models import unet
    >>> unet(keras.Input((30, 45, 1)), lambda name: GroupNormalization(8, name=name)).shape
    (None, 30, 45, 16)
    """
    if len(x.shape) not in (4, 5):
        raise UserError(
            "model.type unet needs images (height, width, channels) or volumes (depth, height, width, channels). "
            f"Received: examples of shape {x.shape[1:]}. Use model.type mlp or residual_mlp."
        )

    def level(x, number, name):
        filters = width * 2**number
        for conv in (f"{name}_conv1", f"{name}_conv2"):
            x = convolution(x, filters, has_bias(norm, placement), conv)
            x = normalize_and_activate(x, norm, activation, placement, conv)
        return x

    skips = []
    for number in range(depth):
        x = level(x, number, f"down{number}")
        skips.append(x)
        x = _halve(x, down, f"down{number}")
    x = level(x, depth, "bottom")
    x = drop(x, dropout, "dropout")
    for number in reversed(range(depth)):
        name = f"up{number}"
        x = _double(x, width * 2**number, up, name)
        x = CropLike(name=f"{name}_crop")([x, skips[number]])
        x = keras.layers.Concatenate(name=f"{name}_join")([skips[number], x])
        x = level(x, number, name)
    return x


def _halve(x, down, name):
    if down == "stride":
        return convolution(x, x.shape[-1], True, f"{name}_stride", strides=2)
    return of_rank(x, "MaxPooling{}D")(2, padding="same", name=f"{name}_pool")(x)


def _double(x, filters, up, name):
    if up == "nearest":
        x = of_rank(x, "UpSampling{}D")(2, name=f"{name}_repeat")(x)
        return convolution(x, filters, True, f"{name}_conv", kernel_size=2)
    transposed = of_rank(x, "Conv{}DTranspose")
    return transposed(filters, 2, strides=2, kernel_initializer="he_normal", name=f"{name}_transpose")(x)
