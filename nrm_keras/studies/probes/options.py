"""What a study may say of each probe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nrm_keras.recipe.sections.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section

At = Literal["start", "end"]
_AT = "start: the initial weights; end: those that the run keeps"
_EXAMPLES = "held-out examples, of the test split where there is one; fewer where it has fewer"


class ReluShift(Section):
    """What linear layers and ReLUs do to means, unit by unit."""

    type: Literal["relu_shift"]
    at: At = Field("start", description=_AT)
    examples: PositiveInt = Field(256, description=_EXAMPLES)


class Insulation(Section):
    """Whether a normalizer's output mean is beta whatever the layers below do, and beta's gradient the sum of errors."""

    type: Literal["insulation"]
    at: At = Field("end", description=_AT)
    examples: PositiveInt = Field(256, description=_EXAMPLES)
    disturbance: PositiveFloat = Field(
        0.1, description="how much the weights below are changed, in units of the root mean square of each"
    )


class Curvature(Section):
    """The Hessian's spectrum in training mode, and how fast the gradient changes along itself."""

    type: Literal["curvature"]
    at: At = Field("end", description=_AT)
    examples: PositiveInt = Field(128, description=_EXAMPLES)
    products: Annotated[int, Field(ge=10, le=200)] = Field(
        30, description="Hessian-vector products; with 30 the first five eigenvalues have converged as a rule"
    )
    learning_rate: PositiveFloat | None = Field(
        None, description="effective_beta is that of 0.5, 1 and 2 gradient steps with it; null: the recipe's"
    )


class StableLearningRate(Section):
    """The highest learning rate, of a geometric grid, with which a training from the initial weights goes well."""

    type: Literal["stable_learning_rate"]
    steps: Annotated[int, Field(ge=8, lt=2**31)] = Field(40, description="of each training, the same at every rate")
    start: PositiveFloat = Field(0.1, description="the rate that is tried first")
    factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(
        2.0, description="between neighbours of the grid"
    )
    lowest: PositiveFloat = Field(1e-5, description="no rate below it is tried")
    highest: PositiveFloat = Field(1e3, description="no rate above it is tried")
    optimizer: Literal["sgd", "recipe"] = Field("sgd", description="sgd: without momentum and decay; recipe: its own")


class ActiveUnits(Section):
    """Which ReLUs are active, and how gradients come down to the first of them."""

    type: Literal["active_units"]
    at: At = Field("end", description=_AT)
    examples: PositiveInt = Field(256, description=_EXAMPLES)


class ChannelGroups(Section):
    """Whether neighbouring channels in front of normalizers have more alike statistics than channels drawn at random."""

    type: Literal["channel_groups"]
    at: At = Field("end", description=_AT)
    examples: PositiveInt = Field(256, description=_EXAMPLES)
    groups: Annotated[int, Field(ge=2, lt=2**31)] = Field(8, description="of neighbouring channels, all of one size")
    permutations: Annotated[int, Field(ge=50, le=100_000)] = Field(500, description="random groupings to compare with")


class Recalibration(Section):
    """What running statistics cost on held-out data, and what estimating them anew on training data repairs."""

    type: Literal["recalibration"]
    examples: PositiveInt = Field(2048, description=_EXAMPLES)
    training_examples: PositiveInt = Field(4096, description="training examples that running statistics are taken from")


class Corruption(Section):
    """Trust in corrupted images, before and after running statistics are estimated anew on other corrupted images."""

    type: Literal["corruption"]
    noise: NonNegativeFloat = Field(
        0.0, description="standard deviation of Gaussian noise, in units of the values' range"
    )
    blur: NonNegativeFloat = Field(0.0, description="standard deviation of a Gaussian blur, in pixels")
    contrast: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="share of the contrast that is lost")
    darker: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="share of the brightness that is lost")
    inverted: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="share of the images that are inverted")
    examples: Annotated[int, Field(ge=32, lt=2**31)] = Field(
        2000, description="held-out images: one half to recalibrate on, the other to measure on"
    )
