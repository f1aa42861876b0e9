"""The table of `python -m nrm_keras study`, and the studies in that of `ls`."""

from __future__ import annotations

from nrm_keras.recipe import catalog
from nrm_keras.recipe.problems import RecipeError
from nrm_keras.studies import loading

COLUMNS = ("study", "cells", "claim")


def rows() -> list[tuple[str, ...]]:
    """One row per shipped study; one with mistakes says so and keeps nothing from being listed."""
    return [_row(name) for name in catalog.study_names()]


def _row(name: str) -> tuple[str, ...]:
    short = name.removeprefix(catalog.STUDIES)
    try:
        loaded = loading.load(name)
    except RecipeError:
        return short, "", f"invalid; see: validate {name}"
    return short, str(len(loaded.cells())), loaded.study.claim
