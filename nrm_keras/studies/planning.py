"""What a study will do, before it does anything: its cells, those that are done, the cost, what its seeds can detect."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nrm_keras.data import sources
from nrm_keras.errors import PROGRAM, UserError
from nrm_keras.recipe.loading import load as load_recipe
from nrm_keras.recipe.problems import RecipeError, shown
from nrm_keras.recipe.writing import difference
from nrm_keras.runs import directory
from nrm_keras.studies import loading, rules, statistics
from nrm_keras.studies.grid import Cell
from nrm_keras.studies.loading import LoadedStudy
from nrm_keras.studies.outcome import CELLS, RUN
from nrm_keras.studies.schema import Study
from nrm_keras.studies.store import STUDY, Store, is_study
from nrm_keras.training.launch import require_files

POWER = 0.8
NAMED = 3


@dataclass(frozen=True)
class Plan:
    """A study that was checked, and what is left to do.

    Args:
        loaded: the study, with the seeds that were asked for.
        path: its directory.
        smoke: two steps of each cell, no verdict.
        cells: those that were asked for.
        done: names of those that have ended for good.
        seconds_per_cell: of one worker; None where nothing tells.
        measured: whether cells of this study told it.
        workers: how many cells are trained at a time.
    """

    loaded: LoadedStudy
    path: Path
    smoke: bool
    cells: tuple[Cell, ...] = field(repr=False)
    done: frozenset[str] = field(repr=False)
    seconds_per_cell: float | None
    measured: bool
    workers: int

    @property
    def left(self) -> list[Cell]:
        """What is to be trained, seed by seed: a level that fails does so early, and what is done pairs."""
        seeds = self.loaded.study.seeds
        return sorted(
            (cell for cell in self.cells if cell.name not in self.done), key=lambda cell: seeds.index(cell.seed)
        )

    @property
    def seconds(self) -> float | None:
        """What is left to do should take; the last cells leave workers without any."""
        if self.seconds_per_cell is None:
            return None
        return self.seconds_per_cell * math.ceil(len(self.left) / self.workers)

    def detectable(self, claim: str) -> tuple[int, float]:
        """How many seeds judge a claim, and the effect (of `equal`: the margin) that they find with 80 % power, in standard
        deviations of the paired differences; at the level that Holm's correction gives the first of several claims."""
        study = self.loaded.study
        judges = [seed for seed in study.seeds if seed not in study.claims[claim].choose_on]
        if len(judges) < rules.FEWEST_JUDGES:
            return len(judges), math.inf
        alpha = (1 - study.confidence) / 2 / len(study.claims)
        equal = study.claims[claim].expect == "equal"
        least = statistics.detectable_margin if equal else statistics.detectable_effect
        return len(judges), least(len(judges), alpha, POWER)


def plan(
    name: str,
    *,
    workers: int,
    seeds: Sequence[int] | None = None,
    cells: str | None = None,
    smoke: bool = False,
    out: str | Path = "studies",
    allow_imports: bool = False,
) -> Plan:
    """Loads a study and checks everything that can be checked before anything is trained.

    Raises:
        UserError: lists what is wrong with the study, or says that data are missing, that no cell is asked for, or that the
            directory has cells of other recipes.
    """
    loaded = loading.load(name, allow_imports=allow_imports)
    if seeds is not None:
        loaded = loaded.with_seeds(seeds)
    wanted = _wanted(loaded, cells)
    path = Path(out).absolute() / (f"{loaded.name}-smoke" if smoke else loaded.name)
    if not smoke:
        _require_data(wanted)
        _require_same_recipes(path, loaded)
    # the directory may be that of other seeds
    store = None if smoke else Store(path, loaded.study)
    seconds, measured = _seconds_per_cell(loaded, store)
    done = frozenset(cell.name for cell in wanted if store and store.done(cell.name))
    return Plan(loaded, path, smoke, tuple(wanted), done, seconds, measured, min(workers, len(wanted)))


def _wanted(loaded: LoadedStudy, pattern: str | None) -> list[Cell]:
    cells = loaded.cells()
    if pattern is None:
        return cells
    found = [cell for cell in cells if fnmatch.fnmatchcase(cell.name, pattern)]
    if not found:
        names = [cell.name for cell in cells]
        raise UserError(
            f"--cells takes a pattern of cells' names, such as '*seed-{cells[0].seed}'. Received: {shown(pattern)}, which"
            f" matches none of {len(names)}. The first is '{names[0]}'."
        )
    return found


def _require_data(cells: Sequence[Cell]) -> None:
    """Names every data set that is missing; smoke runs do without."""
    problems = []
    for recipe in {repr(cell.loaded.recipe.data): cell.loaded.recipe for cell in cells}.values():
        try:
            require_files(recipe)
        except UserError as error:
            problems.append(str(error))
            continue
        if sources.find(recipe.data) is None:
            name = recipe.data.source
            problems.append(
                f"data.source: the data must be on this machine. Received: {name}, which isn't."
                f" Get it: {PROGRAM} data prepare {name}"
            )
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def _require_same_recipes(path: Path, loaded: LoadedStudy) -> None:
    """Cells of one directory belong to one study: those that are there must have the recipes of now."""
    changes = _changed_probes(path, loaded.study) if is_study(path) else []
    for cell in loaded.cells():
        for run in directory.find_all(path / CELLS / cell.name / RUN)[-1:]:
            changes += _changed_recipe(run, cell)[:1]
    if changes:
        listed = "\n".join(f"  {change}" for change in changes[:NAMED])
        more = f"\n  and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
        raise UserError(
            f"{path}: the cells of a study's directory have the study's recipes. Received others:\n{listed}{more}\n"
            f"Choose another directory with --out, or remove {CELLS}/ with these cells in it, to train them again."
        )


def _changed_probes(path: Path, study: Study) -> list[str]:
    try:
        before = loading.read(path / STUDY).probes
    except RecipeError as error:
        raise UserError(f"{error}\nThe same command writes it again when it is removed: {path / STUDY}") from None
    names = [name for name in {**before, **study.probes} if before.get(name) != study.probes.get(name)]
    return [f"probe {name}: it has changed" for name in names]


def _changed_recipe(run: Path, cell: Cell) -> list[str]:
    try:
        then = load_recipe(run / directory.RECIPE, allow_imports=True).recipe
    except RecipeError as error:
        return [f"{cell.name}: {error.problems[0]}"]
    return [f"{cell.name}: {key}: {old!r} -> {new!r}" for key, old, new in difference(then, cell.loaded.recipe)]


def _seconds_per_cell(loaded: LoadedStudy, store: Store | None) -> tuple[float | None, bool]:
    """From the cells that are finished, else what the study declares."""
    found = [one.seconds for one in store.results().values() if store.done(one.cell)] if store else []
    if found:
        return sum(found) / len(found), True
    return loaded.study.seconds_per_cell, False
