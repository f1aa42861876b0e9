"""A study's name becomes a checked study with a checked recipe for each combination of its grid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nrm_keras.errors import PROGRAM
from nrm_keras.recipe import catalog, parsing
from nrm_keras.recipe.checking import located
from nrm_keras.recipe.loading import import_modules, with_absolute_paths
from nrm_keras.recipe.nodes import Node, dotted, leaves
from nrm_keras.recipe.problems import RecipeError, by_place, shown
from nrm_keras.recipe.writing import dump
from nrm_keras.studies import grid, pairing, rules
from nrm_keras.studies.checking import check
from nrm_keras.studies.schema import Study

SEEDS = 2**31  # there are so many


@dataclass(frozen=True)
class LoadedStudy:
    """A study and where it came from.

    Args:
        name: such as `batch_size`; the name of its directory.
        path: the file, absolute.
        study: checked and complete.
        combinations: of the grid's levels, each with its checked recipe.
        tree: what the file said.
    """

    name: str
    path: str
    study: Study
    combinations: tuple[grid.Combination, ...] = field(repr=False)
    tree: Node = field(repr=False, compare=False)

    def cells(self) -> list[grid.Cell]:
        """Every combination with every seed."""
        return grid.cells(self.combinations, self.study.seeds)

    def to_yaml(self, origin: bool = False) -> str:
        """The study with everything resolved; loading it again gives an equal one. With each value's origin if asked."""
        if not origin:
            return dump(self.study)
        paths = [path for path, _ in leaves(self.study.model_dump())]
        origins = {dotted(path): self.tree.nearest(path).origin if self.tree.has(path) else "default" for path in paths}
        return dump(self.study, origins)

    def with_seeds(self, seeds: Sequence[int]) -> LoadedStudy:
        """The same study with other seeds.

        Raises:
            RecipeError: one of them is no seed, or that makes too many cells.
        """
        wrong = [seed for seed in seeds if not 0 <= seed < SEEDS]
        if wrong:
            raise RecipeError([f"seeds are from 0 to {SEEDS - 1}. Received: {wrong[0]}. Choose others."])
        found = list(rules.too_large(self.study, len(seeds)))
        if found:
            raise RecipeError(located(self.tree, path, message) for path, message in found)
        return replace(self, study=self.study.model_copy(update={"seeds": tuple(seeds)}))


def load(name: str | os.PathLike, *, allow_imports: bool = False) -> LoadedStudy:
    """Loads a study and the recipe of every cell. Nothing is trained, and TensorFlow isn't imported.

    Args:
        name: of a shipped study, or a path.
        allow_imports: whether recipes that are not shipped may import the modules they list.

    Raises:
        RecipeError: lists every mistake, with file and line.

    Example:

        >>> load("first_epoch").study.claims["lower"].expect
        'less'
    """
    found, tree, problems = _read(os.fspath(name))
    study, faulty = check(tree, problems)
    broken = rules.broken(study, faulty)
    problems += [located(tree, path, message) for path, message in broken]
    combinations: list[grid.Combination] = []
    if not faulty & {"recipe", "overrides", "grid"} and not any(path.startswith("grid") for path, _ in broken):
        combinations = grid.combinations(study, tree, allow_imports, problems)
    if not problems:
        problems += [located(tree, path, message) for path, message in pairing.broken(study, combinations)]
    if problems:
        raise RecipeError(by_place(problems))
    for combination in combinations:
        if not combination.loaded.imports_allowed:
            import_modules(combination.loaded)  # says that it may not
    return LoadedStudy(os.path.basename(found.name), found.path, study, tuple(combinations), tree)


def read(path: Path) -> Study:
    """A study that was checked before, as its directory has it; its recipes are not loaded.

    Raises:
        RecipeError: it has been changed, and says no study any more.
    """
    _, tree, problems = _read(str(path))
    study, _ = check(tree, problems)
    if problems:
        raise RecipeError(by_place(problems))
    return study


def is_study(name: str) -> bool:
    """Whether a name or path is that of a study rather than of a recipe."""
    if catalog.is_study(name):
        return True
    if not name.endswith(catalog.SUFFIXES) or not os.path.isfile(name):
        return False
    try:
        return _read(name)[1].has(("claims",))
    except RecipeError:
        return False


def _read(name: str) -> tuple[catalog.Found, Node, list[str]]:
    problems: list[str] = []
    found = catalog.find_study(name)
    tree = parsing.parse(parsing.read(found.path, found.source.label), found.source, problems)
    if not isinstance(tree.value, dict):
        received = shown(tree.plain())
        raise RecipeError(
            [*problems, f"{tree.origin}: a study is a mapping. Received: {received}. Start with 'title:'."]
        )
    if not tree.has(("claims",)) and (tree.has(("model",)) or tree.has(("extends",))):
        raise RecipeError([f"{tree.origin}: this is a recipe, not a study. Run it: {PROGRAM} run {name}"])
    return found, _with_absolute_paths(tree), problems


def _with_absolute_paths(tree: Node) -> Node:
    """The tree with recipes and files that no longer depend on where the study's file is."""
    tree = _with_absolute_recipe(tree)
    if tree.has(("overrides",)):
        tree = tree.with_entry("overrides", with_absolute_paths(tree.child("overrides")))
    grid = tree.child("grid")
    for factor, levels in grid.value.items() if grid and isinstance(grid.value, dict) else ():
        for level, sections in levels.value.items() if isinstance(levels.value, dict) else ():
            levels = levels.with_entry(level, _with_absolute_recipe(with_absolute_paths(sections)))
        grid = grid.with_entry(factor, levels)
    return tree.with_entry("grid", grid) if grid else tree


def _with_absolute_recipe(sections: Node) -> Node:
    recipe = sections.child("recipe")
    if recipe is None or not isinstance(recipe.value, str):
        return sections
    base, at, variants = recipe.value.partition("@")
    if not base.endswith(catalog.SUFFIXES):
        return sections
    path = os.path.abspath(os.path.join(recipe.source.folder, os.path.expanduser(base)))
    return sections.with_entry("recipe", replace(recipe, value=path + at + variants))
