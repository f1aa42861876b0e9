"""How a model is trained: the sections `optimizer`, `schedule`, `train`, `diagnostics` and `callbacks`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, create_model

from nrm_keras.diagnostics.rule_names import RULE_NAMES
from nrm_keras.recipe.sections.base import (
    Custom,
    Fraction,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)


class _Decaying(Section):
    decay_normalizers: bool = Field(
        False, description="whether decay (or l2) takes in gamma, beta, biases and gates too, which it spares otherwise"
    )


class Sgd(_Decaying):
    """Stochastic gradient descent with momentum."""

    type: Literal["sgd"]
    learning_rate: PositiveFloat = Field(1e-1, description="before the schedule")
    momentum: Fraction = Field(0.9, description="share of the last step that is repeated")
    nesterov: bool = Field(False, description="look ahead along the momentum")
    weight_decay: NonNegativeFloat = Field(0.0, description="decoupled: w -= learning_rate * weight_decay * w")
    l2: NonNegativeFloat = Field(0.0, description="coupled decay: gradient += l2 * w, behind the clipping")


class _Adam(_Decaying):
    learning_rate: PositiveFloat = Field(1e-3, description="before the schedule")
    beta_1: Fraction = Field(0.9, description="decay of the mean of gradients")
    beta_2: Fraction = Field(0.999, description="decay of the mean of squared gradients")
    epsilon: PositiveFloat = Field(1e-7, description="added to the root of the mean square")


class Adam(_Adam):
    """Adam, without decoupled weight decay."""

    type: Literal["adam"]
    l2: NonNegativeFloat = Field(0.0, description="coupled decay: gradient += l2 * w, behind the clipping")


class Adamw(_Adam):
    """Adam with decoupled weight decay."""

    type: Literal["adamw"]
    weight_decay: NonNegativeFloat = Field(4e-3, description="decoupled: w -= learning_rate * weight_decay * w")


class CustomOptimizer(Custom):
    """An optimizer added with `@nrm_keras.register("optimizer", ...)`."""

    learning_rate: PositiveFloat = Field(1e-3, description="before the schedule")


class Schedule(Section):
    warmup_epochs: NonNegativeFloat = Field(0.0, description="the learning rate rises linearly from 0 over these")


class Constant(Schedule):
    """The same learning rate throughout."""

    type: Literal["constant"]


class Cosine(Schedule):
    """Half a cosine from the learning rate to `final` times it."""

    type: Literal["cosine"]
    final: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="share of the learning rate left at the end")


class Step(Schedule):
    """The learning rate is multiplied by `factor` at each of `epochs`."""

    type: Literal["step"]
    epochs: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(description="after these epochs")
    factor: PositiveFloat = Field(0.1, description="what the learning rate is multiplied by")


class Train(Section):
    """How long, how precisely, on what, and what is kept."""

    epochs: PositiveInt = Field(10, description="passes over the training examples")
    seed: NonNegativeInt = Field(0, description="of weights, shuffling, augmentation and dropout")
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "auto", description="auto: mixed where the device is faster with it, float32 on CPU"
    )
    jit: Literal["auto"] | bool = Field("auto", description="compile the step with XLA; auto: on GPUs only")
    deterministic: bool = Field(False, description="also on GPUs the same bits in every run, at some cost of speed")
    strategy: Literal["none", "mirrored"] = Field("none", description="mirrored: one replica per device")
    replicas: PositiveInt | None = Field(None, description="with mirrored: how many; without GPUs, logical CPUs")
    keep: Literal["best", "last"] = Field("best", description="the weights that test, report and export use")
    monitor: Name | None = Field(
        None, description="what decides which epoch is best; null: the first of metrics, on the validation split"
    )
    class_weights: Literal["balanced"] | dict[str, NonNegativeFloat] | None = Field(
        None, description="weight of each class in the loss, by class name; balanced: inverse frequency"
    )
    clip_norm: PositiveFloat | None = Field(None, description="clip the global norm of the gradients")
    metrics: tuple[Name, ...] | None = Field(
        None,
        description="those of the task (classification: accuracy, top_5_accuracy, auroc; segmentation: dice, iou, accuracy;"
        " regression: rmse, r2, mae), or registered ones; null: accuracy; dice and iou; rmse and r2",
    )
    recalibrate: Literal["test"] | None = Field(
        None,
        description="test: running statistics are estimated anew on the test inputs, without labels, before the test",
    )
    init_from: Name | None = Field(None, description="a run directory or a .keras file whose weights to start from")
    freeze_normalizers: bool = Field(False, description="normalizers keep what init_from brought, in inference mode")
    checkpoint_every: PositiveInt = Field(200, description="steps between resume points; also at each epoch's end")


class RuleSettings(Section):
    """What is changed about one of the rules of `diagnostics`."""

    threshold: float | None = Field(None, description="what the rule's value is held against")
    patience: PositiveInt | None = Field(None, description="in how many observations in a row")
    action: Literal["log", "stop"] | None = Field(None, description="in place of that of all alerts")


RuleChoices = create_model(
    "RuleChoices",
    __base__=Section,
    __doc__="Which rules speak up; those that are not named do.",
    **{name: (bool | RuleSettings, Field(True, description="on, off, or with settings")) for name in RULE_NAMES},
)


class Diagnostics(Section):
    """Watch the inside of the model while it trains (nrm_keras.callbacks.InternalStatistics)."""

    every: PositiveInt = Field(50, description="steps between probed steps")
    budget: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="in place of every: the share of the training time that watching may cost"
    )
    layers: tuple[Name, ...] | None = Field(None, description="names or patterns of layers; null: those that matter")
    alerts: bool | RuleChoices = Field(True, description="whether, or with which rules, to say what is wrong")
    action: Literal["log", "stop"] = Field("log", description="what an alert does: print it, or end the training")
    drift_every: PositiveInt = Field(500, description="steps between measurements of drift; also at each epoch's end")
    deep_every: PositiveInt | None = Field(None, description="steps between measurements of curvature and the like")
    channels: bool = Field(True, description="record each channel's mean and variance")


class EarlyStopping(Section):
    """Stop when `monitor` no longer improves (keras.callbacks.EarlyStopping)."""

    type: Literal["early_stopping"]
    monitor: Name = Field("val_loss", description="the value that must improve")
    min_delta: NonNegativeFloat = Field(0.0, description="smaller changes are no improvement")
    patience: NonNegativeInt = Field(10, description="epochs without improvement before it acts")
    start_from_epoch: NonNegativeInt = Field(0, description="epochs before it looks")
    restore_best_weights: bool = Field(False, description="go back to the best epoch at the end")


class ReduceLrOnPlateau(Section):
    """Lower the learning rate when `monitor` no longer improves (keras.callbacks.ReduceLROnPlateau)."""

    type: Literal["reduce_lr_on_plateau"]
    monitor: Name = Field("val_loss", description="the value that must improve")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="what the learning rate is multiplied by")
    patience: NonNegativeInt = Field(10, description="epochs without improvement before it acts")
    min_delta: NonNegativeFloat = Field(1e-4, description="smaller changes are no improvement")
    cooldown: NonNegativeInt = Field(0, description="epochs to wait after a reduction")
    min_lr: NonNegativeFloat = Field(0.0, description="never below this")


class TerminateOnNan(Section):
    """Stop at the first loss that is not a number (keras.callbacks.TerminateOnNaN)."""

    type: Literal["terminate_on_nan"]


OPTIMIZERS = (Sgd, Adam, Adamw)
SCHEDULES = (Constant, Cosine, Step)
CALLBACKS = (EarlyStopping, ReduceLrOnPlateau, TerminateOnNan)
