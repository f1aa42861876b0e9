"""A study's grid: every combination of levels as a checked recipe, and cells, one for each of them and each seed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nrm_keras.recipe import loading
from nrm_keras.recipe.nodes import Node, merge
from nrm_keras.recipe.problems import RecipeError
from nrm_keras.studies.schema import Selection, Study

SEED = "train.seed"
_PLACE = re.compile(r".+?:\d+: ")  # FILE:LINE


@dataclass(frozen=True)
class Place:
    """Where a cell stands in the grid.

    Args:
        levels: level by factor, in the grid's order.
        seed: replaces the recipe's.
    """

    levels: dict[str, str]
    seed: int

    @property
    def name(self) -> str:
        """Such as `norm=batch,batch_size=2/seed-0`; a folder."""
        levels = name_of(self.levels)
        return f"{levels}/seed-{self.seed}" if levels else f"seed-{self.seed}"

    @property
    def key(self) -> frozenset[tuple[str, str]]:
        """The levels whatever their order."""
        return frozenset(self.levels.items())


@dataclass(frozen=True)
class Cell(Place):
    """One training.

    Args:
        recipe: a shipped name, NAME@variant, or an absolute path.
        overrides: dotted path to value, as `nrm_keras.run` takes them; the seed is one of them.
        loaded: the checked recipe.
    """

    recipe: str
    overrides: dict[str, Any] = field(repr=False)
    loaded: loading.Loaded = field(repr=False)


@dataclass(frozen=True)
class Combination:
    """One level of each factor.

    Args:
        levels: level by factor, in the grid's order.
        recipe, overrides: as of a cell, but for the seed.
        loaded: the checked recipe, with the study's first seed.
    """

    levels: dict[str, str]
    recipe: str
    overrides: dict[str, Any] = field(repr=False)
    loaded: loading.Loaded = field(repr=False)

    @property
    def name(self) -> str:
        return name_of(self.levels)

    def matches(self, selection: Selection) -> bool:
        return selection.items() <= self.levels.items()


def name_of(levels: dict[str, str]) -> str:
    """Such as `norm=batch,batch_size=2`."""
    return ",".join(f"{factor}={level}" for factor, level in levels.items())


def places(study: Study) -> list[Place]:
    """Where the cells of a study stand, seeds of a combination side by side."""
    return [Place(levels, seed) for levels in _combined(study) for seed in study.seeds]


def cells(combinations: Sequence[Combination], seeds: Sequence[int]) -> list[Cell]:
    """Every combination with every seed, seeds of a combination side by side."""
    return [_cell(combination, seed) for combination in combinations for seed in seeds]


def _cell(combination: Combination, seed: int) -> Cell:
    recipe = combination.loaded.recipe
    train = recipe.train.model_copy(update={"seed": seed})
    loaded = replace(combination.loaded, recipe=recipe.model_copy(update={"train": train}))
    return Cell(combination.levels, seed, combination.recipe, {**combination.overrides, SEED: seed}, loaded)


def _combined(study: Study) -> Iterator[dict[str, str]]:
    for levels in itertools.product(*study.grid.values()):
        yield dict(zip(study.grid, levels, strict=True))


def combinations(study: Study, tree: Node, allow_imports: bool, problems: list[str]) -> list[Combination]:
    """Loads the recipe of each combination of levels; mistakes are added to `problems`, each with where it is met first."""
    found, seen = [], set()
    for levels in _combined(study):
        faults: list[str] = []
        combination = _combination(study, tree, levels, allow_imports, faults)
        if combination is not None:
            found.append(combination)
        where = name_of(levels)
        problems += [f"{fault} (in {where})" if where else fault for fault in faults if fault not in seen]
        seen |= set(faults)
    return found


def _combination(
    study: Study, tree: Node, levels: dict[str, str], allow_imports: bool, problems: list[str]
) -> Combination | None:
    nodes = [tree.child("grid").child(factor).child(level) for factor, level in levels.items()]
    recipes = [node.child("recipe") for node in nodes if node.has(("recipe",))]
    if len(recipes) > 1:
        problems.append(f"{recipes[1].key_origin}: two factors name a recipe. Name it in one factor only.")
        return None
    named = recipes[0] if recipes else tree.child("recipe")
    sections = tree.child("overrides") or Node({}, tree.source)
    for node in nodes:
        sections = merge(sections, node.without("recipe"))
    if sections.has(("train", "seed")):
        place = sections.nearest(("train", "seed")).key_origin
        problems.append(
            f"{place}: {SEED}: 'seeds' says which seeds are trained. Received: a seed beside it. Remove it."
        )
        return None
    if not isinstance(named.value, str):
        problems.append(f"{named.origin}: recipe: must be one name or path. Received: {named.plain()}. Name one.")
        return None
    return _load(named, sections, levels, study.seeds[0], allow_imports, problems)


def _load(
    named: Node, sections: Node, levels: dict[str, str], seed: int, allow_imports: bool, problems: list[str]
) -> Combination | None:
    train = sections.child("train") or Node({}, named.source)
    with_seed = sections
    if isinstance(train.value, dict):
        with_seed = sections.with_entry("train", train.with_entry("seed", Node(seed, named.source, named.line)))
    try:
        loaded = loading.load(named.value, with_seed, allow_imports=allow_imports)
    except RecipeError as error:
        # what a recipe's own file says wrong has its place; an unknown name hasn't
        problems += [text if _PLACE.match(text) else f"{named.origin}: recipe: {text}" for text in error.problems]
        return None
    overrides = dict(_dotted(sections.plain()))
    return Combination(levels, named.value, overrides, loaded)


def _dotted(sections: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """`section.key` for each key of a section: what is inside, such as names of classes, may have dots of its own."""
    for section, value in sections.items():
        if isinstance(value, dict) and value:
            yield from ((f"{section}.{key}", entry) for key, entry in value.items())
        else:
            yield section, value
