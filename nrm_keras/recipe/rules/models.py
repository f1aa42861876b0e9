"""Rules on the model and what normalizes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nrm_keras.recipe.problems import shown
from nrm_keras.recipe.rules.base import Problem, reads

if TYPE_CHECKING:
    from nrm_keras.recipe.schema import Recipe


@reads("model")
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


@reads("model")
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


@reads("model", "norm")
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


@reads("model", "norm")
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


@reads("model", "norm")
def _mean_of_normalized_tokens(recipe: Recipe) -> Iterator[Problem]:
    if recipe.model.type == "transformer" and recipe.norm.type == "instance":
        yield (
            "norm.type",
            (
                "instance normalization makes the mean over a text's tokens the same for every text, and that mean is what a"
                " transformer hands on. Received: instance. Use layer or rms."
            ),
        )


@reads("model", "norm")
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


@reads("norm")
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


@reads("norm")
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
