"""Rules on the data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nrm_keras.recipe.problems import shown
from nrm_keras.recipe.rules.base import Problem, reads

if TYPE_CHECKING:
    from nrm_keras.recipe.schema import Recipe


@reads("data")
def _shares_leave_some(recipe: Recipe) -> Iterator[Problem]:
    data = recipe.data
    if not data.brings and data.validation + data.test >= 1:
        yield (
            "data.validation",
            (
                f"validation and test are shares of all examples and must leave some to train on: together below 1."
                f" Received: {data.validation:g} + {data.test:g}. Lower one of them."
            ),
        )


@reads("data")
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


@reads("data")
def _fold_exists(recipe: Recipe) -> Iterator[Problem]:
    data = recipe.data
    if data.source == "pbmc68k" and data.fold is not None and data.fold >= data.folds:
        yield "data.fold", f"folds are numbered from 0 to {data.folds - 1}. Received: {data.fold}. Use one of these."
