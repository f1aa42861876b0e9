"""Rules that tie a study's sections together. Each yields (path, message), as those of recipes do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from nrm_keras.recipe.problems import did_you_mean, shown
from nrm_keras.studies.schema import Claim, Selection, Study

MAX_CELLS = 10_000
LONGEST_NAME = 200  # of a cell; file systems take 255 bytes
FEWEST_JUDGES = 2  # seeds, below which there is no deviation

Problem = tuple[str, str]


def broken(study: Study, without: frozenset[str] = frozenset()) -> list[Problem]:
    """Every broken rule, but for those about the sections in `without`."""
    found = [*_seeds(study), *too_large(study, len(study.seeds)), *_names(study)]
    for name, claim in study.claims.items() if not without & {"grid", "seeds", "measurements", "claims"} else ():
        found += [(f"claims.{name}.{path}".removesuffix("."), message) for path, message in _claim(study, claim)]
    return found


def too_large(study: Study, seeds: int) -> Iterator[Problem]:
    """Whether the grid has more cells than anybody means, counted without making one."""
    sizes = [len(levels) for levels in study.grid.values()]
    cells = math.prod(sizes) * seeds
    if cells > MAX_CELLS:
        factors = " x ".join(f"{name} {len(levels)}" for name, levels in study.grid.items())
        largest = max(study.grid, key=lambda name: len(study.grid[name]))
        message = (
            f"a study has at most {MAX_CELLS:,} cells. Received: {cells:,} ({factors} x {seeds} seeds)."
            f" Cut levels of '{largest}' first, leave a factor out, or split the study."
        )
        yield "grid", message


def _seeds(study: Study) -> Iterator[Problem]:
    twice = sorted({seed for seed in study.seeds if study.seeds.count(seed) > 1})
    if twice:
        yield "seeds", f"a seed pairs cells once. Received: {twice[0]} twice. Remove one of the two."


def _names(study: Study) -> Iterator[Problem]:
    for factor, levels in study.grid.items():
        if len({level.lower() for level in levels}) < len(levels):
            message = f"levels differ in more than capitals, as not all systems tell such folders apart. Received: {shown(tuple(levels))}."
            yield f"grid.{factor}", f"{message} Rename one."
    if "measurement" in study.grid:
        yield "grid.measurement", "'measurement' has a meaning of its own in 'to'. Received: a factor. Rename it."
    longest = ",".join(f"{name}={max(levels, key=len)}" for name, levels in study.grid.items())
    if len(longest) > LONGEST_NAME:
        message = f"a cell's name has at most {LONGEST_NAME} characters. Received: {len(longest)}, '{shown(longest)}'."
        yield "grid", f"{message} Shorten the names of levels."


def _claim(study: Study, claim: Claim) -> Iterator[Problem]:
    known = tuple(study.measurements)
    for path, name in (("measurement", claim.measurement), ("to.measurement", claim.other_measurement)):
        if name is not None and name not in known:
            yield path, f"no measurement is called {shown(name)}.{did_you_mean(str(name), known)}"
    yield from _selection(study, claim.compare, "compare")
    if claim.other_measurement is not None and len(claim.to) > 1:
        yield "to", "{measurement: NAME} stands alone: the cells are those of compare. Remove the other keys."
    for other in claim.others():
        yield from _selection(study, other, "to")
    yield from _same_cells(claim)
    yield from _choice(study, claim)


def _selection(study: Study, selection: Selection, path: str) -> Iterator[Problem]:
    for factor, level in selection.items():
        if factor not in study.grid:
            yield f"{path}.{factor}", f"the grid has no factor '{factor}'.{did_you_mean(factor, tuple(study.grid))}"
        elif isinstance(level, str) and level not in study.grid[factor]:
            hint = did_you_mean(level, tuple(study.grid[factor]))
            yield f"{path}.{factor}", f"'{factor}' has no level {shown(level)}.{hint}"


def _same_cells(claim: Claim) -> Iterator[Problem]:
    if claim.other_measurement == claim.measurement:
        yield "to.measurement", f"a claim compares two measurements. Received: {shown(claim.measurement)} twice."
    for other in claim.others():
        if not any(claim.compare.get(factor, level) != level for factor, level in other.items()):
            received = f"{shown(other)}, where some are those of compare, {shown(claim.compare)}"
            rule = "a claim compares cells with others"
            yield "to", f"{rule}. Received: {received}. Name different levels of a factor on both sides."
            return


def _choice(study: Study, claim: Claim) -> Iterator[Problem]:
    several = [factor for factor, level in claim.to.items() if isinstance(level, tuple)] if claim.selects else []
    if len(several) > 1:
        yield "to", f"one factor may list levels to choose from. Received: {', '.join(several)}. Keep one list."
        return
    if not several:
        if claim.choose or claim.choose_on:
            yield "to", "choose and choose_on choose among the levels that one factor lists. Received: no list in to."
        return
    levels = claim.to[several[0]]
    if len(set(levels)) < max(2, len(levels)):
        yield f"to.{several[0]}", f"a list has different levels, two or more. Received: {shown(levels)}."
    if claim.choose is None:
        yield "", "choose: missing: 'lowest' or 'highest' says which of the listed levels is the best."
    yield from _choosing_seeds(study.seeds, claim.choose_on)


def _choosing_seeds(seeds: Sequence[int], choosing: Sequence[int]) -> Iterator[Problem]:
    if not choosing:
        yield "", "choose_on: missing: the seeds that choose the best level; the others judge. Such as [0, 1, 2]."
        return
    unknown = sorted(set(choosing) - set(seeds))
    if unknown:
        yield "choose_on", f"must be seeds of the study. Received: {unknown[0]}; there are {shown(tuple(seeds))}."
    judges = set(seeds) - set(choosing)
    if len(judges) < FEWEST_JUDGES:
        message = (
            f"at least {FEWEST_JUDGES} other seeds must judge. Received: {len(judges)}. Add seeds, or let fewer choose."
        )
        yield "choose_on", message
