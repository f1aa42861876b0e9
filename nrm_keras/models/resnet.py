"""Residual networks of the CIFAR style (He et al. 2015, "Deep residual learning", section 4.2)."""

from __future__ import annotations

import keras

from nrm_keras.errors import UserError
from nrm_keras.models.blocks import convolution, drop, has_bias, normalize, normalize_and_activate
from nrm_keras.models.normalizers import NormFactory

# The kernel sizes of a block's convolutions, and how many times the channels its last one hands on.
_BLOCKS = {"basic": ((3, 3), 1), "bottleneck": ((1, 3, 1), 4)}


def resnet(
    x,
    norm: NormFactory | None,
    depth: int = 20,
    width: int = 16,
    block: str = "basic",
    activation: str = "relu",
    dropout: float = 0.0,
    placement: str = "before_activation",
):
    """Three stages of residual blocks with width, 2 and 4 times width channels, halving the image in between.

    Unlike in the paper's CIFAR networks, a shortcut that changes shape is a 1x1 convolution with its normalizer (its
    option B). The stride of a bottleneck is that of its 3x3 convolution.

    Args:
        x: symbolic tensor `(batch, height, width, channels)`.
        norm: makes a normalizer under a given name, see `norm_factory`; None for none.
        depth: 6n + 2 layers with weights, or 9n + 2 of bottlenecks.
        width: channels of the first stage; bottlenecks hand on 4 times as many.
        block: "basic", two 3x3 convolutions, or "bottleneck", 1x1, 3x3 and 1x1 (section 4.1, figure 5).
        activation: any activation Keras knows by name.
        dropout: share of features dropped before the last layer.
        placement: "before_activation" (convolution, normalizer, activation) or "after_activation".

    Returns:
        Symbolic tensor `(batch, 4 * width)`, or `(batch, 16 * width)` of bottlenecks.

    Raises:
        UserError: inputs that are no images.
    """
    if len(x.shape) != 4:
        raise UserError(
            "model.type resnet needs images (height, width, channels). "
            f"Received: examples of shape {x.shape[1:]}. Use model.type mlp."
        )
    x = convolution(x, width, has_bias(norm, placement), "stem")
    x = normalize_and_activate(x, norm, activation, placement, "stem")
    for stage in range(3):
        for number in range((depth - 2) // (3 * len(_BLOCKS[block][0]))):
            stride = 2 if stage > 0 and number == 0 else 1
            name = f"stage{stage + 1}_block{number + 1}"
            x = _block(x, width * 2**stage, stride, block, norm, activation, placement, name)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return drop(x, dropout, "dropout")


def _block(x, width, stride, block, norm, activation, placement, name):
    shortcut = x
    kernel_sizes, expansion = _BLOCKS[block]
    filters = width * expansion
    for number, kernel_size in enumerate(kernel_sizes, 1):
        conv, last = f"{name}_conv{number}", number == len(kernel_sizes)
        strides = stride if number == 1 + kernel_sizes.index(3) else 1
        x = convolution(x, filters if last else width, has_bias(norm, placement), conv, kernel_size, strides)
        if not last:
            x = normalize_and_activate(x, norm, activation, placement, conv)
    # behind the activation there is one normalizer per sum; before it, one per branch
    per_branch = placement == "before_activation"
    if per_branch:
        x = normalize(x, norm, f"{conv}_norm")
    if stride != 1 or shortcut.shape[-1] != filters:
        if stride != 1:
            # the same as a 1x1 convolution with this stride, of which oneDNN (TensorFlow 2.21, CPU) ruins the process' memory
            # in the gradient of 8 to 16 channels of 3 images
            shortcut = keras.layers.MaxPooling2D(1, stride, padding="same", name=f"{name}_every_{stride}")(shortcut)
        shortcut = convolution(shortcut, filters, has_bias(norm, placement), f"{name}_shortcut", kernel_size=1)
        if per_branch:
            shortcut = normalize(shortcut, norm, f"{name}_shortcut_norm")
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    x = keras.layers.Activation(activation, name=f"{name}_{activation}")(x)
    return x if per_branch else normalize(x, norm, f"{name}_norm")
