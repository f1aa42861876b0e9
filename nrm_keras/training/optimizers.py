"""Optimizer and learning rate of a recipe."""

from __future__ import annotations

import keras

from nrm_keras import registry

_BUILTIN = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}


def build(recipe, model: keras.Model, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The recipe's optimizer with its schedule, gradient clipping and decoupled weight decay.

    Weight decay spares gamma and beta and every variable of rank below 2: gates, the logits of shares, biases.
    Decaying them regularizes nothing (van Laarhoven 2017) and pulls gates toward their start.
    """
    options = recipe.optimizer.model_dump(exclude={"type"})
    options["learning_rate"] = _learning_rate(recipe, options["learning_rate"], steps_per_epoch)
    options["weight_decay"] = options.get("weight_decay") or None
    kind = recipe.optimizer.type
    function = _BUILTIN[kind] if kind in _BUILTIN else registry.get("optimizer", kind)
    optimizer = function(global_clipnorm=recipe.train.clip_norm, **options)
    if options["weight_decay"]:
        # Over several axes, gamma and beta of layer normalization have as many.
        spared = [v for v in model.trainable_variables if len(v.shape) < 2 or v.name in ("gamma", "beta")]
        optimizer.exclude_from_weight_decay(spared)
    return optimizer


def _learning_rate(recipe, peak: float, steps_per_epoch: int):
    schedule = recipe.schedule
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if schedule.type == "constant" and not warmup:
        return peak  # a plain number, so that callbacks may lower it
    if schedule.type == "cosine":
        main = keras.optimizers.schedules.CosineDecay(
            peak, max(1, recipe.train.epochs * steps_per_epoch - warmup), alpha=schedule.final
        )
    elif schedule.type == "step":
        boundaries = [epoch * steps_per_epoch - warmup for epoch in schedule.epochs]
        values = [peak * schedule.factor**number for number in range(len(boundaries) + 1)]
        main = keras.optimizers.schedules.PiecewiseConstantDecay([b - 1 for b in boundaries], values)
    else:
        main = _Constant(peak)
    return WarmUp(main, peak, warmup) if warmup else main


@keras.saving.register_keras_serializable(package="nrm_keras")
class _Constant(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, value: float):
        self.value = value

    def __call__(self, step):
        return keras.ops.convert_to_tensor(self.value, "float32")

    def get_config(self):
        return {"value": self.value}


@keras.saving.register_keras_serializable(package="nrm_keras")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise to `peak` over the first `steps`, then `schedule` from its own step 0 (Goyal et al. 2017, section 2.2).

    `rate(t) = peak (t + 1) / steps` for t < steps, `schedule(t - steps)` from there on.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, peak: float, steps: int):
        self.schedule = schedule
        self.peak = peak
        self.steps = steps

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rising = self.peak * (step + 1.0) / self.steps
        return keras.ops.where(step < self.steps, rising, self.schedule(keras.ops.maximum(step - self.steps, 0.0)))

    def get_config(self):
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "peak": self.peak, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["peak"], config["steps"])
