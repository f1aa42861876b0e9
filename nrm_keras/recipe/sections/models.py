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
    """Residual network of the CIFAR style: depth 6n+2, three stages of width, 2 and 4 times width (He et al. 2015)."""

    type: Literal["resnet"]
    depth: PositiveInt = Field(20, description="8, 14, 20, ...: 6n + 2")
    width: PositiveInt = Field(16, description="channels of the first stage")
    activation: Activation = Field("relu", description="by its name in keras.activations")
    dropout: Fraction = Field(0.0, description="share of features dropped before the last layer")
    placement: Placement = Field("before_activation", description="where the normalizer stands")
