"""The one place that knows what stands where around a normalizer."""

from __future__ import annotations

import keras

from nrm_keras.models.normalizers import NormFactory


def has_bias(norm: NormFactory | None, placement: str) -> bool:
    """Whether a linear layer needs its bias: a normalizer right behind it would only subtract it again."""
    return norm is None or placement == "after_activation"


def of_rank(x, kind: str):
    """Keras' layer of that kind for the positions of x: Conv2D or Conv3D for "Conv{}D"."""
    return getattr(keras.layers, kind.format(len(x.shape) - 2))


def convolution(x, filters: int, use_bias: bool, name: str, kernel_size: int = 3, strides: int = 1):
    """A convolution of an image or a volume that keeps its size, but for strides."""
    return of_rank(x, "Conv{}D")(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=use_bias,
        kernel_initializer="he_normal",
        name=name,
    )(x)


def drop(x, share: float, name: str):
    """x behind dropout of that name, if there is any."""
    return keras.layers.Dropout(share, name=name)(x) if share else x


def normalize(x, norm: NormFactory | None, name: str):
    """x behind the normalizer of that name, if there is one."""
    return x if norm is None else norm(name)(x)


def normalize_and_activate(x, norm: NormFactory | None, activation: str, placement: str, name: str):
    """Normalizer and activation in the recipe's order."""
    if placement == "before_activation":
        x = normalize(x, norm, f"{name}_norm")
    x = keras.layers.Activation(activation, name=f"{name}_{activation}")(x)
    if placement == "after_activation":
        x = normalize(x, norm, f"{name}_norm")
    return x
