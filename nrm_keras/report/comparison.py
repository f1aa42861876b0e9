"""What differs between runs: results, recipes, environments, layers, and where they part. Data, without words or charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from statistics import fmean

from nrm_keras.errors import PROGRAM, UserError
from nrm_keras.recipe.nodes import Source, dotted, leaves
from nrm_keras.recipe.parsing import parse
from nrm_keras.recipe.writing import ABSENT, flow
from nrm_keras.report import parting, tables
from nrm_keras.report.parting import Course
from nrm_keras.report.reading import RunFiles, read_run
from nrm_keras.report.statistics import Series
from nrm_keras.runs import directory

SEED = "train.seed"
# What says nothing about why runs differ: when they were recorded; names of recipes are under recipes.
NOT_COMPARED = {"recorded", "run recipe"}


@dataclass(frozen=True)
class Compared:
    """One of the runs; `letter` is its name here, `recipe` its values by dotted key, None where they cannot be read."""

    letter: str
    files: RunFiles
    recipe: dict | None

    @property
    def seed(self) -> int | None:
        seed = (self.recipe or {}).get(SEED)
        return seed if type(seed) is int else None

    @property
    def setting(self) -> dict[str, str]:
        """The recipe but for its seed, each value as YAML; empty where it cannot be read."""
        return {key: flow(value) for key, value in (self.recipe or {}).items() if key != SEED}


@dataclass(frozen=True)
class Going:
    """How far the runs `others` go together with the runs `reference`; a band of seed noise is known or not.

    `shares` is the share of the numbers that are outside of the band (or differ), over the steps that are kept for showing.
    """

    reference: list[Compared]
    others: list[Compared]
    course: Course
    shares: Series

    @property
    def has_band(self) -> bool:
        return len(self.reference) >= parting.SEEDS


@dataclass(frozen=True)
class Comparison:
    """Runs, and in groups those that have the same recipe but for the seed."""

    runs: list[Compared]
    groups: list[list[Compared]]
    goings: list[Going]
    notices: list[str]

    @property
    def watched(self) -> list[Compared]:
        """The runs with statistics of their layers."""
        return [run for run in self.runs if run.files.statistics]


def read(paths: Sequence[Path]) -> Comparison:
    """Reads run directories; what is damaged becomes a notice.

    Args:
        paths: two or more. In the order given they are called A, B, C, ...

    Raises:
        UserError: fewer than two, or one is no run directory.
    """
    if len(paths) < 2:
        raise UserError(
            f"compare takes two or more run directories. Received: {len(paths)}. `{PROGRAM} runs ls` lists runs."
        )
    notices: list[str] = []
    for path in paths:
        directory.check(Path(path))
    runs = [_read(letter_of(place), Path(path), notices) for place, path in enumerate(paths)]
    for place, run in enumerate(runs):
        same = next((one for one in runs[:place] if one.files.path.resolve() == run.files.path.resolve()), None)
        if same:
            notices.append(f"{run.letter} and {same.letter} are the same run directory.")
    groups = _groups(runs)
    return Comparison(runs, groups, _goings(groups, notices), list(dict.fromkeys(notices)))


def letter_of(place: int) -> str:
    """A, B, ..., Z, A2, B2, ..."""
    return chr(ord("A") + place % 26) + (str(place // 26 + 1) if place >= 26 else "")


def _read(letter: str, path: Path, notices: list[str]) -> Compared:
    files = read_run(path)
    notices += [f"{letter}: {notice}" for notice in files.notices]
    try:
        problems: list[str] = []
        recipe = parse(files.recipe, Source(directory.RECIPE, "."), problems).plain()
    except UserError as error:
        # what is no YAML has been noticed by read_run
        notices.append(f"{letter}: its recipe cannot be read and is not compared: {str(error).splitlines()[0]}")
        return Compared(letter, files, None)
    notices += [f"{letter}: {problem}" for problem in problems[:3]]
    if not isinstance(recipe, dict):
        notices.append(f"{letter}: {directory.RECIPE} holds no sections and is not compared.")
        return Compared(letter, files, None)
    return Compared(letter, files, {dotted(place): value for place, value in leaves(recipe)})


def _groups(runs: Iterable[Compared]) -> list[list[Compared]]:
    groups: dict[object, list[Compared]] = {}
    for run in runs:
        smoke = run.files.summary.smoke if run.files.summary else False
        # a recipe that cannot be read is like no other
        groups.setdefault((smoke, *sorted(run.setting.items())) if run.setting else run.letter, []).append(run)
    return list(groups.values())


def seeds_of(group: Iterable[Compared]) -> dict[int, Compared]:
    """One run for each seed of a group; a seed that was trained twice is no second draw of the noise."""
    found: dict[int, Compared] = {}
    for run in group:
        if run.seed is not None:
            found.setdefault(run.seed, run)
    return found


def _goings(groups: list[list[Compared]], notices: list[str]) -> list[Going]:
    """Every other group against the first that has a band; without one, every other run against the first."""
    watched = [[run for run in group if run.files.statistics] for group in groups]
    watched = [group for group in watched if group]
    with_band = next((group for group in watched if len(seeds_of(group)) >= parting.SEEDS), None)
    if with_band and len(watched) > 1:
        reference = list(seeds_of(with_band).values())
        rest = [group for group in watched if group is not with_band]
    else:
        first, *others = sorted((run for group in watched for run in group), key=lambda run: run.letter) or [None]
        reference, rest = [first], [[run] for run in others]
    found = []
    for others in rest:
        course = parting.first(*([run.files.path for run in runs] for runs in (reference, others)), notices)
        shares = parting.shares(*([run.files.statistics for run in runs] for runs in (reference, others)))
        found.append(Going(reference, others, course, shares))
    return found


def recipe_differences(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Dotted keys whose values differ, each with the value in every run whose recipe can be read, as YAML."""
    recipes = [run.recipe for run in comparison.runs if run.recipe is not None]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    rows = [(key, [flow(recipe[key]) if key in recipe else str(ABSENT) for recipe in recipes]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def environment_differences(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Facts that differ, each with its value in every run; times, paths and the diff of uncommitted changes are left out."""
    facts = [_facts(run.files.environment) for run in comparison.runs]
    names = dict.fromkeys(name for one in facts for name in one)
    rows = [(name, [one.get(name, "") for one in facts]) for name in names if name not in NOT_COMPARED]
    return [(name, values) for name, values in rows if len(set(values)) > 1 and not any(map(_is_path, values))]


def _facts(environment: Mapping) -> dict[str, str]:
    return {f"{group} {name}".strip(): value for group, rows in tables.environment(environment) for name, value in rows}


def _is_path(value: str) -> bool:
    return PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()


def by_group(groups: Iterable[Iterable[Compared]], values: Mapping[str, float]) -> list[float]:
    """The mean of each group's finite values, which are given by letter."""
    found = [
        [values[run.letter] for run in group if math.isfinite(values.get(run.letter, math.nan))] for group in groups
    ]
    return [fmean(one) for one in found if one]
