"""The normalizer: the `norm` section, by its `type`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nrm_keras.recipe.sections.base import Fraction, PositiveFloat, PositiveInt, Section


class Norm(Section):
    epsilon: PositiveFloat = Field(1e-3, description="added to the variance")
    center: bool = Field(True, description="learn beta")
    scale: bool = Field(True, description="learn gamma")


class Running(Norm):
    momentum: Fraction = Field(0.99, description="of the running statistics")
    warmup: bool = Field(True, description="lower momentum in the first updates, so that early statistics are usable")
    synchronized: bool | None = Field(
        None, description="pool statistics over replicas; null: whenever there are several"
    )


class Virtual(Running):
    virtual_batch_size: PositiveInt | None = Field(
        None, description="how many examples share batch statistics in training; null: all of the batch"
    )


class NoNorm(Section):
    """No normalizer; the layer in front of it gets its bias."""

    type: Literal["none"]


class BatchNorm(Virtual):
    """Each channel over the batch and its positions."""

    type: Literal["batch"]


class LayerNorm(Norm):
    """Each position over its channels."""

    type: Literal["layer"]


class SampleNorm(Norm):
    """Each example over channels and positions: group normalization with one group."""

    type: Literal["sample"]


class GroupNorm(Norm):
    """Groups of channels of each example."""

    type: Literal["group"]
    groups: PositiveInt = Field(8, description="must divide the channels of every layer")


class InstanceNorm(Norm):
    """Each channel of each example."""

    type: Literal["instance"]


class RmsNorm(Section):
    """Each position divided by its root mean square."""

    type: Literal["rms"]
    epsilon: PositiveFloat = Field(1e-6, description="added to the mean square")


class DomainNorm(Running):
    """Each channel over the batch's examples of one domain, such as a laboratory; unknown domains meet all together."""

    type: Literal["domain"]


class SwitchableNorm(Running):
    """Instance, layer and batch statistics in learned shares, whatever the batch size."""

    type: Literal["switchable"]


class AdaptiveNorm(Virtual):
    """Batch statistics where the batch is large, layer (or group) statistics where it is small."""

    type: Literal["adaptive"]
    alternative: Literal["layer", "group"] = Field("layer", description="what the mixer leans on at small batches")
    groups: PositiveInt | None = Field(None, description="with alternative: group")
    balance: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(8.0, description="batch size of equal weights")
    gate: Literal["layer", "channel"] = Field("layer", description="one gate per layer, or one per channel")
    gate_scale: PositiveFloat = Field(10.0, description="how fast the gate learns")
    learn_slope: bool = Field(False, description="learn how sharply the gate depends on the batch size")


SECTIONS = (
    NoNorm,
    BatchNorm,
    LayerNorm,
    SampleNorm,
    GroupNorm,
    InstanceNorm,
    RmsNorm,
    SwitchableNorm,
    AdaptiveNorm,
    DomainNorm,
)
