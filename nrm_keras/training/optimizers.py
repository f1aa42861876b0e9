"""Optimizer and learning rate of a recipe."""

from __future__ import annotations

import functools

import keras

from nrm_keras import registry

_BUILTIN = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}


def build(recipe, model: keras.Model, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The recipe's optimizer with its schedule, gradient clipping, decoupled weight decay and coupled L2.

    Unless the recipe has `decay_normalizers`, both spare gamma and beta and every variable of rank below 2: gates, the
    logits of shares, biases. Decaying them regularizes nothing (van Laarhoven 2017) and pulls gates toward their start.
    """
    kind = recipe.optimizer.type
    options = recipe.optimizer.model_dump(exclude={"type"})
    options["learning_rate"] = _learning_rate(recipe, options["learning_rate"], steps_per_epoch)
    options["weight_decay"] = options.get("weight_decay") or None
    if kind == "adamw" and not options["weight_decay"]:
        kind = "adam"  # the same, and Keras' AdamW takes no weight_decay of None
    if kind in _BUILTIN:
        decay_normalizers, l2 = options.pop("decay_normalizers"), options.pop("l2", 0.0)
        function = functools.partial(_COUPLED[kind], l2=l2) if l2 else _BUILTIN[kind]
    else:
        decay_normalizers, l2, function = False, 0.0, registry.get("optimizer", kind)
    optimizer = function(global_clipnorm=recipe.train.clip_norm, **options)
    if (options["weight_decay"] or l2) and not decay_normalizers:
        # Over several axes, gamma and beta of layer normalization have as many.
        spared = [v for v in model.trainable_variables if len(v.shape) < 2 or v.name in ("gamma", "beta")]
        optimizer.exclude_from_weight_decay(spared)
    return optimizer


class _Coupled:
    """An optimizer whose gradients, behind the clipping, are those of `loss + l2/2 |w|^2`.

    What is excluded from weight decay is excluded from it too.
    """

    def __init__(self, *args, l2: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        if self._use_weight_decay(variable):
            gradient = keras.ops.add(gradient, keras.ops.multiply(self.l2, variable))
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable(package="nrm_keras")
class CoupledSGD(_Coupled, keras.optimizers.SGD):
    """SGD with an L2 penalty in its gradient."""


@keras.saving.register_keras_serializable(package="nrm_keras")
class CoupledAdam(_Coupled, keras.optimizers.Adam):
    """Adam with an L2 penalty in its gradient, which its denominator divides too (Loshchilov & Hutter 2019, algorithm 2)."""


_COUPLED = {"sgd": CoupledSGD, "adam": CoupledAdam}


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
