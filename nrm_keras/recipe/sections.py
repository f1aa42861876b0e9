"""The sections of a recipe: one frozen pydantic model each, with its defaults, limits and one line for every key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from nrm_keras.diagnostics.rule_names import RULE_NAMES

# Seeds, sizes and counts end up in 32-bit integers of TensorFlow and NumPy.
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(min_length=1)]

# What keras.activations.get knows by name, without `glu` (halves the channels) and `threshold` (needs arguments).
# fmt: off
Activation = Literal[
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh",
    "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
    "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus",
    "swish", "tanh", "tanh_shrink",
]
# fmt: on


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values never change, numbers are not guessed from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Custom(Section):
    """A section whose type was added with `@nrm_keras.register`; its keys are the builder's business."""

    model_config = ConfigDict(extra="allow")
    type: Name = Field(description="the registered name")

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `type`; lists are tuples."""
        return dict(self.model_extra or {})


# Data ---------------------------------------------------------------------------------------------------------------


class Data(Section):
    batch_size: PositiveInt = Field(32, description="examples per training step, over all replicas together")
    augment: tuple[Literal["crop", "flip"], ...] = Field((), description="random transformations of training images")
    validation: Fraction = Field(
        0.1, description="share of the training examples held out where the source has no split"
    )
    test: Fraction = Field(0.2, description="share held out for the test where the source has no split")
    split_seed: NonNegativeInt = Field(0, description="draws the held-out examples; independent of train.seed")
    limit: PositiveInt | None = Field(None, description="at most this many training examples, for quick experiments")
    standardize: bool = Field(True, description="subtract mean, divide by standard deviation of the training split")


class Digits(Data):
    """1,797 handwritten digits of 8x8 pixels, inside scikit-learn."""

    source: Literal["digits"] = "digits"


class FashionMnist(Data):
    """60,000 + 10,000 pictures of clothes, 28x28 grey, 10 classes."""

    source: Literal["fashion_mnist"]


class Cifar10(Data):
    """50,000 + 10,000 colour pictures of 32x32 pixels, 10 classes."""

    source: Literal["cifar10"]


class Npz(Data):
    """A NumPy archive with x_train, y_train and optionally x_val, y_val, x_test, y_test; or x, y to be split."""

    source: Literal["npz"]
    path: Name = Field(description="the .npz file; relative to the recipe's file, or to the shell for an override")


class Folder(Data):
    """Images in folders: train/CLASS/*.png, validation/..., test/...; or CLASS/*.png to be split."""

    source: Literal["folder"]
    path: Name = Field(description="the folder; relative to the recipe's file, or to the shell for an override")
    image_size: tuple[PositiveInt, PositiveInt] = Field((32, 32), description="height and width images are resized to")
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for colour")


class CustomData(Data):
    """A source added with `@nrm_keras.register("data", ...)`; keys beyond those of every source are its business."""

    model_config = ConfigDict(extra="allow")
    source: Name = Field(description="the registered name")

    @property
    def options(self) -> dict[str, Any]:
        """The keys no other source has; lists are tuples."""
        return dict(self.model_extra or {})


# Model --------------------------------------------------------------------------------------------------------------

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


# Normalizers --------------------------------------------------------------------------------------------------------


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


# Optimizer and schedule ---------------------------------------------------------------------------------------------


class Sgd(Section):
    """Stochastic gradient descent with momentum."""

    type: Literal["sgd"]
    learning_rate: PositiveFloat = Field(1e-1, description="before the schedule")
    momentum: Fraction = Field(0.9, description="share of the last step that is repeated")
    nesterov: bool = Field(False, description="look ahead along the momentum")
    weight_decay: NonNegativeFloat = Field(0.0, description="decoupled: w -= learning_rate * weight_decay * w")


class Adam(Section):
    """Adam, without weight decay."""

    type: Literal["adam"]
    learning_rate: PositiveFloat = Field(1e-3, description="before the schedule")
    beta_1: Fraction = Field(0.9, description="decay of the mean of gradients")
    beta_2: Fraction = Field(0.999, description="decay of the mean of squared gradients")
    epsilon: PositiveFloat = Field(1e-7, description="added to the root of the mean square")


class Adamw(Adam):
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


# Training -----------------------------------------------------------------------------------------------------------


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
    monitor: Name = Field("val_accuracy", description="what decides which epoch is best")
    class_weights: Literal["balanced"] | dict[str, NonNegativeFloat] | None = Field(
        None, description="weight of each class in the loss, by class name; balanced: inverse frequency"
    )
    clip_norm: PositiveFloat | None = Field(None, description="clip the global norm of the gradients")
    metrics: tuple[Name, ...] = Field(("accuracy",), description="accuracy, top_5_accuracy, or registered ones")
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
