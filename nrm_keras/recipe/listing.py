"""The table of `python -m nrm_keras ls`."""

from __future__ import annotations

from nrm_keras.recipe import catalog
from nrm_keras.recipe.loading import load
from nrm_keras.recipe.problems import RecipeError

COLUMNS = ("name", "task", "data", "norm", "data available here", "variants")


def rows() -> list[tuple[str, ...]]:
    """One row per shipped recipe; one with mistakes says so and keeps nothing from being listed."""
    return [_row(name) for name in catalog.names()]


def _row(name: str) -> tuple[str, ...]:
    from nrm_keras.data.sources import find

    try:
        loaded = load(name)
    except RecipeError:
        return (name, "invalid", "", "", f"see: validate {name}", "")
    recipe = loaded.recipe
    place = find(recipe.data)
    variants = " ".join(f"@{variant}" for variant in loaded.variants)
    return (name, recipe.task, recipe.data.source, recipe.norm.type, place or "no", variants)
