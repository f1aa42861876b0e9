"""Rules on schedule, training, metrics and callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nrm_keras import registry
from nrm_keras.recipe.problems import did_you_mean, shown
from nrm_keras.recipe.rules.base import BUILT_IN_METRICS, METRICS_OF_TASK, Problem, entries, reads

if TYPE_CHECKING:
    from nrm_keras.recipe.schema import Recipe


@reads("schedule", "train")
def _warmup_ends(recipe: Recipe) -> Iterator[Problem]:
    warmup, epochs = recipe.schedule.warmup_epochs, recipe.train.epochs
    if warmup >= epochs:
        yield (
            "schedule.warmup_epochs",
            (
                f"the warm-up must end before the training does: below train.epochs, {epochs}. Received: {warmup:g}."
                " Lower schedule.warmup_epochs or raise train.epochs."
            ),
        )


@reads("schedule", "train")
def _steps_in_order(recipe: Recipe) -> Iterator[Problem]:
    if recipe.schedule.type != "step":
        return
    steps, epochs, warmup = recipe.schedule.epochs, recipe.train.epochs, recipe.schedule.warmup_epochs
    if list(steps) != sorted(set(steps)):
        yield "schedule.epochs", f"the steps must rise. Received: {shown(steps)}. Sort them and drop repeated ones."
    if max(steps) >= epochs:
        yield (
            "schedule.epochs",
            (
                f"steps must come before train.epochs, {epochs}, or they never happen. Received: {shown(steps)}."
                " Lower them or raise train.epochs."
            ),
        )
    if min(steps) <= warmup:
        yield (
            "schedule.epochs",
            (
                f"the first step must come after the warm-up of {warmup:g} epochs. Received: {shown(steps)}."
                " Raise it or shorten schedule.warmup_epochs."
            ),
        )


@reads("schedule", "callbacks")
def _plateau_owns_the_rate(recipe: Recipe) -> Iterator[Problem]:
    schedule = recipe.schedule
    if schedule.type == "constant" and not schedule.warmup_epochs:
        return
    for path, callback in entries("callbacks", recipe.callbacks):
        if callback.type == "reduce_lr_on_plateau":
            yield (
                path,
                (
                    "reduce_lr_on_plateau needs schedule: {type: constant} without warm-up, as Keras lets one of the two set the"
                    f" learning rate. Received: schedule {schedule.type}, warm-up {schedule.warmup_epochs:g}."
                    " Remove the callback or the schedule."
                ),
            )


@reads("train", "data")
def _replicas(recipe: Recipe) -> Iterator[Problem]:
    replicas, strategy = recipe.train.replicas, recipe.train.strategy
    if replicas is None:
        return
    if strategy != "mirrored":
        yield (
            "train.replicas",
            (
                f"replicas need strategy: mirrored. Received: replicas {replicas} with strategy: {strategy}."
                " Set train.strategy: mirrored or remove train.replicas."
            ),
        )
    for name in ("batch_size", "evaluation_batch_size"):
        batch = getattr(recipe.data, name) or 0
        if batch % replicas:
            yield (
                f"data.{name}",
                (
                    f"{name} is over all replicas together and must be a multiple of train.replicas, {replicas}."
                    f" Received: {batch}. Use {max(batch // replicas, 1) * replicas}."
                ),
            )


@reads("train")
def _xla_fits(recipe: Recipe) -> Iterator[Problem]:
    train = recipe.train
    for cause, there in (
        ("strategy: mirrored", train.strategy == "mirrored"),
        ("deterministic: true", train.deterministic),
    ):
        if train.jit is True and there:
            yield "train.jit", f"TensorFlow has no XLA with {cause}. Received: jit: true. Set train.jit: auto."


@reads("train")
def _recalibrated_on_one_device(recipe: Recipe) -> Iterator[Problem]:
    if recipe.train.recalibrate and recipe.train.strategy != "none":
        yield (
            "train.recalibrate",
            (
                f"running statistics are estimated anew on one device. Received: strategy: {recipe.train.strategy}."
                " Set train.strategy: none, or remove train.recalibrate."
            ),
        )


@reads("train", "norm")
def _something_to_recalibrate(recipe: Recipe) -> Iterator[Problem]:
    running = ("batch", "switchable", "adaptive")
    built_in = recipe.norm.type in registry.names("norm") and not registry.is_registered("norm", recipe.norm.type)
    if recipe.train.recalibrate and built_in and recipe.norm.type not in running:
        yield (
            "train.recalibrate",
            (
                f"running statistics of all examples together are estimated anew: norm.type {', '.join(running)}."
                f" Received: norm.type {recipe.norm.type}. Choose one of these, or remove train.recalibrate."
            ),
        )


@reads("train")
def _frozen_needs_start(recipe: Recipe) -> Iterator[Problem]:
    if recipe.train.freeze_normalizers and recipe.train.init_from is None:
        yield (
            "train.freeze_normalizers",
            (
                "frozen normalizers keep what init_from brought. Received: freeze_normalizers: true without init_from."
                " Set train.init_from to a run directory or a .keras file."
            ),
        )


@reads("train")
def _metrics_once(recipe: Recipe) -> Iterator[Problem]:
    metrics = recipe.train.metrics
    if len(set(metrics)) < len(metrics):
        yield "train.metrics", f"a metric is listed once. Received: {shown(metrics)}. Remove repeated ones."


@reads("task", "train")
def _metrics_of_task(recipe: Recipe) -> Iterator[Problem]:
    known = METRICS_OF_TASK[recipe.task]
    wrong = [name for name in recipe.train.metrics if name in BUILT_IN_METRICS and name not in known]
    if wrong:
        yield (
            "train.metrics",
            (
                f"{recipe.task} is measured by {', '.join(known)}. Received: {', '.join(wrong)}."
                f" Set train.metrics: [{known[0]}], or null for those that the task has by default."
            ),
        )


@reads("task", "train")
def _class_weights_of_classification(recipe: Recipe) -> Iterator[Problem]:
    if recipe.task != "classification" and recipe.train.class_weights is not None:
        yield (
            "train.class_weights",
            f"class weights are for task: classification. Received: task {recipe.task}. Remove train.class_weights.",
        )


@reads("train", "data", "callbacks")
def _monitors(recipe: Recipe) -> Iterator[Problem]:
    """A monitor that training never reports would be ignored by Keras, with a warning at the end of each epoch."""
    watched = [("train.monitor", recipe.train.monitor)] if recipe.train.keep == "best" else []
    watched += [
        (f"{path}.monitor", section.monitor)
        for path, section in entries("callbacks", recipe.callbacks)
        if section.type in ("early_stopping", "reduce_lr_on_plateau")
    ]
    no_validation = "validation" not in recipe.data.brings and recipe.data.validation == 0
    for path, monitor in watched:
        if no_validation and monitor.startswith("val_"):
            keep = "train.keep: last" if path.startswith("train") else "a monitor without val_"
            yield (
                path,
                (
                    f"{monitor} needs validation examples, and {recipe.data.source} has no such split of its own."
                    f" Received: data.validation 0. Raise data.validation or set {keep}."
                ),
            )
        elif all(metric in BUILT_IN_METRICS for metric in recipe.train.metrics):
            known = _reported(recipe.train.metrics)
            if monitor not in known:
                yield path, f"not among what training reports. Received: {monitor!r}.{did_you_mean(monitor, known)}"


def _reported(metrics: tuple[str, ...]) -> list[str]:
    names = ["loss", *metrics]
    return [f"val_{name}" for name in names] + names
