"""The network: the `model` section, by its `type`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nrm_keras.recipe.sections.base import Fraction, PositiveInt, Section

# What keras.activations.get knows by name, without `glu` (halves the channels) and `threshold` (needs arguments).
# fmt: off
Activation = Literal[
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh",
    "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
    "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus",
    "swish", "tanh", "tanh_shrink",
]
# fmt: on

Placement = Literal["before_activation", "after_activation"]


class Mlp(Section):
    """Dense layers, each with a normalizer and an activation."""

    type: Literal["mlp"]
    units: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (128, 128), description="one per hidden layer"
    )
    activation: Activation = Field("relu", description="by its name in keras.activations")
    dropout: Fraction = Field(0.0, description="share of hidden units dropped behind each activation")
    placement: Placement = Field("before_activation", description="where the normalizer stands")


class Resnet(Section):
    """Residual network of the CIFAR style: three stages of width, 2 and 4 times width (He et al. 2015)."""

    type: Literal["resnet"]
    depth: PositiveInt = Field(20, description="8, 14, 20, ...: 6n + 2; with bottlenecks 11, 20, 29, ...: 9n + 2")
    width: PositiveInt = Field(16, description="channels of the first stage; bottlenecks hand on 4 times as many")
    block: Literal["basic", "bottleneck"] = Field("basic", description="two 3x3 convolutions, or 1x1, 3x3 and 1x1")
    activation: Activation = Field("relu", description="by its name in keras.activations")
    dropout: Fraction = Field(0.0, description="share of features dropped before the last layer")
    placement: Placement = Field("before_activation", description="where the normalizer stands")


class ResidualMlp(Section):
    """Dense layers in residual blocks, for tables (the ResNet of Gorishniy et al. 2021)."""

    type: Literal["residual_mlp"]
    width: PositiveInt = Field(128, description="units between the blocks")
    depth: PositiveInt = Field(3, description="number of blocks")
    expansion: PositiveInt = Field(2, description="units inside of a block, in multiples of width")
    activation: Activation = Field("relu", description="by its name in keras.activations")
    dropout: Fraction = Field(0.0, description="share of units dropped behind each dense layer of a block")


class Transformer(Section):
    """Transformer encoder for text, and the mean over a text's tokens (Vaswani et al. 2017)."""

    type: Literal["transformer"]
    width: PositiveInt = Field(64, description="channels of each token; a multiple of heads")
    depth: PositiveInt = Field(2, description="number of blocks")
    heads: PositiveInt = Field(4, description="of the self-attention")
    hidden: PositiveInt = Field(256, description="channels inside of the feed-forward network")
    activation: Activation = Field("gelu", description="by its name in keras.activations")
    dropout: Fraction = Field(0.1, description="share dropped of embeddings, attention weights and branches' outputs")
    placement: Literal["pre_norm", "post_norm"] = Field(
        "pre_norm", description="normalizers at the start of each residual branch, or behind each residual sum"
    )


class Gru(Section):
    """Gated recurrent network for text, normalized inside of the recurrence where the normalizer allows it."""

    type: Literal["gru"]
    width: PositiveInt = Field(64, description="channels of a token, and of the state in each direction")
    depth: PositiveInt = Field(1, description="number of recurrent layers")
    bidirectional: bool = Field(False, description="a second recurrence reads from the end")
    dropout: Fraction = Field(0.1, description="share of each recurrent layer's inputs that is dropped")
    pooling: Literal["mean", "last"] = Field("mean", description="over the states at all tokens, or the last state")


class Unet(Section):
    """U-Net for segmentation of images and volumes (Ronneberger et al. 2015)."""

    type: Literal["unet"]
    width: PositiveInt = Field(16, description="channels of the first level; they double from level to level")
    depth: Annotated[int, Field(gt=0, le=8)] = Field(3, description="how often the image is halved, 8 at most")
    activation: Activation = Field("relu", description="by its name in keras.activations")
    dropout: Fraction = Field(0.0, description="share of features dropped at the lowest level")
    placement: Placement = Field("before_activation", description="where the normalizer stands")
    down: Literal["pool", "stride"] = Field(
        "pool", description="maximum of 2 positions a side, or convolution of stride 2"
    )
    up: Literal["transpose", "nearest"] = Field(
        "transpose", description="transposed convolution, or repeated positions and a convolution"
    )


SECTIONS = (Mlp, ResidualMlp, Resnet, Unet, Transformer, Gru)
