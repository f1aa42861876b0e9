"""Rules that tie a recipe's sections together. Each yields (path, message): the rule, the value received, the next step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nrm_keras import registry
from nrm_keras.recipe.problems import did_you_mean, shown

if TYPE_CHECKING:
    from nrm_keras.recipe.schema import Recipe

Problem = tuple[str, str]
Rule = Callable[["Recipe"], Iterator[Problem]]

KIND_OF_FIELD = {
    "data": "data",
    "model": "model",
    "norm": "norm",
    "optimizer": "optimizer",
    "callbacks": "callback",
}  # fields of a recipe whose types users can add to

METRICS_OF_TASK = {
    "classification": ("accuracy", "top_5_accuracy", "auroc"),
    "segmentation": ("dice", "iou", "accuracy"),
    "regression": ("rmse", "r2", "mae"),
}
DEFAULT_METRICS = {"classification": ("accuracy",), "segmentation": ("dice", "iou"), "regression": ("rmse", "r2")}
_BUILT_IN_METRICS = {name for names in METRICS_OF_TASK.values() for name in names}

# sources that may bring a validation split of their own
_OWN_VALIDATION = ("patch_camelyon", "npz", "folder", "pairs")
# sources that bring neither validation nor test
_ONE_SPLIT = (
    *("digits", "mnist_5k", "colorectal_histology", "malaria", "breast_cancer", "nuclei"),
    *("rotten_tomatoes", "imdb_half", "spam", "text_file"),
)

_rules: list[tuple[frozenset[str], Rule]] = []


def discriminator(field: str) -> str:
    """The key that says what a section is."""
    return "source" if field == "data" else "type"


def broken(recipe: Recipe, without: frozenset[str] = frozenset()) -> list[Problem]:
    """Every broken rule, skipping the rules that read one of the sections in `without`."""
    return [problem for needs, rule in _rules if not needs & without for problem in rule(recipe)]


def _reads(*fields: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        _rules.append((frozenset(fields), rule))
        return rule

    return add


# Names ---------------------------------------------------------------------------------------------------------------


def unknown_names(values: dict[str, Any]) -> Iterator[Problem]:
    """Types, sources and metrics in a recipe's plain values that are neither built in nor registered."""
    for field, kind in KIND_OF_FIELD.items():
        by = discriminator(field)
        for path, section in _entries(field, values.get(field)):
            name = section.get(by) if isinstance(section, dict) else None
            if isinstance(name, str) and name not in registry.names(kind):
                yield _unknown(f"{path}.{by}", kind, name)
    train = values.get("train")
    metrics = train.get("metrics") if isinstance(train, dict) else None
    for metric in metrics if isinstance(metrics, tuple) else ():
        if isinstance(metric, str) and metric not in registry.names("metric"):
            yield _unknown("train.metrics", "metric", metric)


def _unknown(path: str, kind: str, name: str) -> Problem:
    known = registry.names(kind)
    what = "source" if kind == "data" else kind
    hint = did_you_mean(name, known)
    return (
        path,
        f"unknown {what}. Received: {name!r}.{hint} One of your own needs @nrm_keras.register and imports: [module].",
    )


def _sections(recipe: Recipe, field: str) -> list[tuple[str, Any]]:
    return _entries(field, getattr(recipe, field))


def _entries(field: str, value: Any) -> list[tuple[str, Any]]:
    """A section with its path, or each of a list of sections."""
    return (
        [(f"{field}.{index}", entry) for index, entry in enumerate(value)]
        if isinstance(value, tuple)
        else [(field, value)]
    )


# Model and normalizer ------------------------------------------------------------------------------------------------


@_reads("model")
def _resnet_depth(recipe: Recipe) -> Iterator[Problem]:
    model = recipe.model
    if model.type != "resnet":
        return
    step, of = (6, "a resnet") if model.block == "basic" else (9, "a resnet of bottlenecks")
    first = step + 2
    if model.depth < first or model.depth % step != 2:
        lower = max(first, (model.depth - 2) // step * step + 2)
        near = str(lower) if model.depth < first else f"{lower} or {lower + step}"
        yield (
            "model.depth",
            (
                f"the depth of {of} is {step}n + 2: {first}, {first + step}, {first + 2 * step}, ..."
                f" Received: {model.depth}. Use {near}."
            ),
        )


@_reads("model")
def _heads_divide(recipe: Recipe) -> Iterator[Problem]:
    model = recipe.model
    if model.type == "transformer" and model.width % model.heads:
        fitting = [n for n in range(1, min(model.width, 64) + 1) if model.width % n == 0]
        yield (
            "model.heads",
            (
                f"heads must divide the width of a transformer, {model.width}. Received: {model.heads}."
                f" Use one of {shown(fitting)}."
            ),
        )


@_reads("model", "norm")
def _groups_divide(recipe: Recipe) -> Iterator[Problem]:
    groups = _groups(recipe.norm)
    bad = [channels for channels in _channels(recipe.model) if groups and channels % groups]
    if bad:
        fitting = [
            n for n in range(1, min(_channels(recipe.model)) + 1) if not any(c % n for c in _channels(recipe.model))
        ]
        yield (
            "norm.groups",
            (
                f"groups must divide the channels of every layer: {shown(_channels(recipe.model))}. Received: {groups}."
                f" Use one of {shown(fitting)}."
            ),
        )


@_reads("model", "norm")
def _one_value_per_statistic(recipe: Recipe) -> Iterator[Problem]:
    model, norm = recipe.model, recipe.norm
    if model.type not in ("mlp", "residual_mlp"):
        return
    if norm.type == "instance":
        yield (
            "norm.type",
            (
                f"instance normalization needs positions, and {_an(model.type)} has none: each value would be normalized by itself,"
                " to 0. Received: instance. Use layer or group."
            ),
        )
    elif _groups(norm) and _groups(norm) in _channels(model):
        yield (
            "norm.groups",
            (
                f"a group in {_an(model.type)} needs two channels at least, or each value is normalized by itself, to 0."
                f" Received: {_groups(norm)} groups for {_groups(norm)} units. Use fewer groups."
            ),
        )


@_reads("model", "norm")
def _mean_of_normalized_tokens(recipe: Recipe) -> Iterator[Problem]:
    if recipe.model.type == "transformer" and recipe.norm.type == "instance":
        yield (
            "norm.type",
            (
                "instance normalization makes the mean over a text's tokens the same for every text, and that mean is what a"
                " transformer hands on. Received: instance. Use layer or rms."
            ),
        )


@_reads("model", "norm")
def _one_value_per_statistic_of_a_step(recipe: Recipe) -> Iterator[Problem]:
    """Inside of a recurrence a step has no positions: a group of one channel would be normalized to 0."""
    model, norm = recipe.model, recipe.norm
    if model.type == "gru" and norm.type == "group" and norm.groups == model.width:
        yield (
            "norm.groups",
            (
                "a group inside of a recurrence needs two channels at least, or each value is normalized by itself, to 0."
                f" Received: {norm.groups} groups for {model.width} channels. Use fewer groups."
            ),
        )


def _an(model_type: str) -> str:
    return "an mlp" if model_type == "mlp" else f"a {model_type}"


@_reads("norm")
def _adaptive_groups(recipe: Recipe) -> Iterator[Problem]:
    norm = recipe.norm
    if norm.type != "adaptive":
        return
    if norm.alternative == "group" and norm.groups is None:
        yield "norm.groups", "alternative: group needs groups. Received: none. Add groups, such as 8."
    if norm.alternative != "group" and norm.groups is not None:
        yield (
            "norm.groups",
            (
                f"groups goes with alternative: group only. Received: groups {norm.groups} with alternative: {norm.alternative}."
                " Remove it, or set alternative: group."
            ),
        )


@_reads("norm")
def _virtual_batches(recipe: Recipe) -> Iterator[Problem]:
    size = getattr(recipe.norm, "virtual_batch_size", None)
    if size is not None and recipe.norm.synchronized:
        yield (
            "norm.virtual_batch_size",
            (
                "virtual batches make the batch smaller, and synchronized: true makes it larger."
                f" Received: virtual_batch_size {size} with synchronized: true. Remove one of them."
            ),
        )


def _groups(norm) -> int | None:
    if norm.type == "group" or (norm.type == "adaptive" and norm.alternative == "group"):
        return norm.groups
    return None


def _channels(model) -> tuple[int, ...]:
    """Channels wherever the model has a normalizer; nothing for models that are not ours."""
    if model.type == "mlp":
        return model.units
    if model.type in ("residual_mlp", "transformer"):
        return (model.width,)
    if model.type == "gru":
        return (model.width, 2 * model.width)
    if model.type == "unet":
        return tuple(model.width * 2**level for level in range(model.depth + 1))
    if model.type == "resnet":
        times = (1, 2, 4) if model.block == "basic" else (1, 2, 4, 8, 16)
        return tuple(model.width * factor for factor in times)
    return ()


# Schedule ------------------------------------------------------------------------------------------------------------


@_reads("schedule", "train")
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


@_reads("schedule", "train")
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


@_reads("schedule", "callbacks")
def _plateau_owns_the_rate(recipe: Recipe) -> Iterator[Problem]:
    schedule = recipe.schedule
    if schedule.type == "constant" and not schedule.warmup_epochs:
        return
    for path, callback in _sections(recipe, "callbacks"):
        if callback.type == "reduce_lr_on_plateau":
            yield (
                path,
                (
                    "reduce_lr_on_plateau needs schedule: {type: constant} without warm-up, as Keras lets one of the two set the"
                    f" learning rate. Received: schedule {schedule.type}, warm-up {schedule.warmup_epochs:g}."
                    " Remove the callback or the schedule."
                ),
            )


# Training ------------------------------------------------------------------------------------------------------------


@_reads("train", "data")
def _replicas(recipe: Recipe) -> Iterator[Problem]:
    replicas, strategy, batch = recipe.train.replicas, recipe.train.strategy, recipe.data.batch_size
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
    if batch % replicas:
        yield (
            "data.batch_size",
            (
                f"batch_size is over all replicas together and must be a multiple of train.replicas, {replicas}."
                f" Received: {batch}. Use {max(batch // replicas, 1) * replicas}."
            ),
        )


@_reads("train")
def _xla_fits(recipe: Recipe) -> Iterator[Problem]:
    train = recipe.train
    for cause, there in (
        ("strategy: mirrored", train.strategy == "mirrored"),
        ("deterministic: true", train.deterministic),
    ):
        if train.jit is True and there:
            yield "train.jit", f"TensorFlow has no XLA with {cause}. Received: jit: true. Set train.jit: auto."


@_reads("train")
def _recalibrated_on_one_device(recipe: Recipe) -> Iterator[Problem]:
    if recipe.train.recalibrate and recipe.train.strategy != "none":
        yield (
            "train.recalibrate",
            (
                f"running statistics are estimated anew on one device. Received: strategy: {recipe.train.strategy}."
                " Set train.strategy: none, or remove train.recalibrate."
            ),
        )


@_reads("train", "norm")
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


@_reads("train")
def _frozen_needs_start(recipe: Recipe) -> Iterator[Problem]:
    if recipe.train.freeze_normalizers and recipe.train.init_from is None:
        yield (
            "train.freeze_normalizers",
            (
                "frozen normalizers keep what init_from brought. Received: freeze_normalizers: true without init_from."
                " Set train.init_from to a run directory or a .keras file."
            ),
        )


@_reads("data")
def _shares_leave_some(recipe: Recipe) -> Iterator[Problem]:
    data = recipe.data
    if data.source in _ONE_SPLIT and data.validation + data.test >= 1:
        yield (
            "data.validation",
            (
                f"validation and test are shares of all examples and must leave some to train on: together below 1."
                f" Received: {data.validation:g} + {data.test:g}. Lower one of them."
            ),
        )


@_reads("data")
def _pairs_options(recipe: Recipe) -> Iterator[Problem]:
    data = recipe.data
    if data.source != "pairs":
        return
    if len(set(data.classes)) < len(data.classes):
        yield "data.classes", f"a class is named once. Received: {shown(data.classes)}. Rename or remove one."
    values = data.mask_values
    if values is not None and len({*values}) != len(data.classes):
        yield (
            "data.mask_values",
            (
                f"one distinct value for each of the {len(data.classes)} classes, in their order."
                f" Received: {shown(values)}. Correct data.mask_values or data.classes."
            ),
        )
    try:
        groups = None if data.patient is None else re.compile(data.patient).groups
    except re.error as error:
        yield "data.patient", f"a regular expression. Received: {data.patient!r}: {error}. Correct it."
        return
    if groups not in (None, 1):
        yield (
            "data.patient",
            (
                f"a regular expression with one group in parentheses, the patient. Received: {groups} groups in"
                f" {data.patient!r}. Write the others as (?:...)."
            ),
        )


@_reads("data")
def _fold_exists(recipe: Recipe) -> Iterator[Problem]:
    data = recipe.data
    if data.source == "pbmc68k" and data.fold is not None and data.fold >= data.folds:
        yield "data.fold", f"folds are numbered from 0 to {data.folds - 1}. Received: {data.fold}. Use one of these."


@_reads("train")
def _metrics_once(recipe: Recipe) -> Iterator[Problem]:
    metrics = recipe.train.metrics
    if len(set(metrics)) < len(metrics):
        yield "train.metrics", f"a metric is listed once. Received: {shown(metrics)}. Remove repeated ones."


@_reads("task", "train")
def _metrics_of_task(recipe: Recipe) -> Iterator[Problem]:
    known = METRICS_OF_TASK[recipe.task]
    wrong = [name for name in recipe.train.metrics if name in _BUILT_IN_METRICS and name not in known]
    if wrong:
        yield (
            "train.metrics",
            (
                f"{recipe.task} is measured by {', '.join(known)}. Received: {', '.join(wrong)}."
                f" Set train.metrics: [{known[0]}], or null for those that the task has by default."
            ),
        )


@_reads("task", "train")
def _class_weights_of_classification(recipe: Recipe) -> Iterator[Problem]:
    if recipe.task != "classification" and recipe.train.class_weights is not None:
        yield (
            "train.class_weights",
            f"class weights are for task: classification. Received: task {recipe.task}. Remove train.class_weights.",
        )


@_reads("train", "data", "callbacks")
def _monitors(recipe: Recipe) -> Iterator[Problem]:
    """A monitor that training never reports would be ignored by Keras, with a warning at the end of each epoch."""
    watched = [("train.monitor", recipe.train.monitor)] if recipe.train.keep == "best" else []
    watched += [
        (f"{path}.monitor", section.monitor)
        for path, section in _sections(recipe, "callbacks")
        if section.type in ("early_stopping", "reduce_lr_on_plateau")
    ]
    source = recipe.data.source
    split_off = source not in _OWN_VALIDATION and not registry.is_registered("data", source)
    no_validation = split_off and recipe.data.validation == 0
    for path, monitor in watched:
        if no_validation and monitor.startswith("val_"):
            keep = "train.keep: last" if path.startswith("train") else "a monitor without val_"
            yield (
                path,
                (
                    f"{monitor} needs validation examples, and {source} has no such split of its own."
                    f" Received: data.validation 0. Raise data.validation or set {keep}."
                ),
            )
        elif all(metric in _BUILT_IN_METRICS for metric in recipe.train.metrics):
            known = _reported(recipe.train.metrics)
            if monitor not in known:
                yield path, f"not among what training reports. Received: {monitor!r}.{did_you_mean(monitor, known)}"


def _reported(metrics: tuple[str, ...]) -> list[str]:
    names = ["loss", *metrics]
    return [f"val_{name}" for name in names] + names
