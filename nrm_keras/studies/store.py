"""A study's directory: what its cells left behind, the numbers measured on them, and what the claims become of it.

    <out>/<study>/study.yaml     the study, complete, with nothing that depends on where its file was
                  cells/<cell>/  run/ with the run directory, log.txt, result.json
                  results.csv    a row a cell: levels, seed, status, measurements
                  study.json     verdicts, counts, versions
                  report.html    the page

Reading it needs no TensorFlow.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from nrm_keras.errors import UserError
from nrm_keras.recipe.writing import dump
from nrm_keras.runs import directory, environment
from nrm_keras.studies import grid, loading, measurements, verdict
from nrm_keras.studies.outcome import CELLS, DONE, Outcome
from nrm_keras.studies.schema import Claim, Study

VERSION = 1
STUDY, SUMMARY, RESULTS, REPORT = "study.yaml", "study.json", "results.csv", "report.html"
NOT_JUDGED = "not judged"
NAMED = 3  # of what a claim lacks

Key = tuple[str, frozenset[tuple[str, str]], int]


def is_study(path: Path) -> bool:
    """Whether a directory is that of a study."""
    return (Path(path) / STUDY).is_file()


class Store:
    """What is in a study's directory.

    Args:
        path: the directory.
        study: as which its cells are read; None: as its `study.yaml` says.

    Raises:
        UserError: it is none.
    """

    def __init__(self, path: Path, study: Study | None = None):
        self.path = Path(path)
        if study is None and not is_study(self.path):
            raise UserError(
                f"{path}: a study's directory has {STUDY}. Received: one without. `python -m nrm_keras study NAME` makes one."
            )
        self.study: Study = study or loading.read(self.path / STUDY)
        about = self._summary()
        self.name = str(about.get("name", self.path.name))
        self.smoke = about.get("smoke") is True
        self.cells = grid.places(self.study)
        self._outcomes = {
            cell.name: outcome for cell in self.cells if (outcome := Outcome.read(self.folder(cell.name))) is not None
        }
        self._numbers: dict[tuple[str, str], float | None] = {}
        self._problems: dict[tuple[str, str], str] = {}
        self._code_of: dict[str, str] = {}

    @classmethod
    def create(cls, path: Path, name: str, study: Study, smoke: bool = False) -> Store:
        """Makes the directory, or takes the one that is there, whose cells stay."""
        path.mkdir(parents=True, exist_ok=True)
        directory.write_text(path / STUDY, dump(study))
        directory.write_json(path / SUMMARY, {"version": VERSION, "name": name, "smoke": smoke})
        return cls(path, study)

    def folder(self, cell: str) -> Path:
        return self.path / CELLS / cell

    def results(self) -> dict[str, Outcome]:
        """What became of each cell that ended, in the grid's order."""
        return {cell.name: self._outcomes[cell.name] for cell in self.cells if cell.name in self._outcomes}

    def add(self, outcome: Outcome) -> None:
        """Takes the outcome of a cell that just ended."""
        self._outcomes[outcome.cell] = outcome
        self._code_of.pop(outcome.cell, None)
        for name in self.study.measurements:
            self._numbers.pop((name, outcome.cell), None)
            self._problems.pop((name, outcome.cell), None)

    def done(self, cell: str) -> bool:
        """Whether the cell has ended for good and is not trained again."""
        return cell in self._outcomes and self._outcomes[cell].status in DONE

    def value(self, measurement: str, cell: str) -> float | None:
        """A measurement of a cell; NaN where it isn't finite, None where the cell isn't done or doesn't have it."""
        key = measurement, cell
        if key not in self._numbers:
            self._numbers[key] = self._measure(measurement, cell) if self.done(cell) else None
        return self._numbers[key]

    def _measure(self, measurement: str, cell: str) -> float | None:
        outcome = self._outcomes[cell]
        try:
            run = self.path / outcome.run
            return measurements.value(self.study.measurements[measurement], run, outcome.probes)
        except UserError as error:
            self._problems[measurement, cell] = str(error)
            return math.nan if outcome.status == "diverged" else None

    @property
    def codes(self) -> dict[str, int]:
        """How many cells that are done were trained with each state of this package's code."""
        return dict(Counter(self._code(cell) for cell in self.results() if self.done(cell)))

    def _code(self, cell: str) -> str:
        if cell not in self._code_of:
            try:
                git = directory.environment(self.path / self._outcomes[cell].run).get("git") or {}
            except UserError:
                git = {}
            changed = " with changes" if git.get("dirty") else ""
            self._code_of[cell] = git.get("commit", "unknown")[:10] + changed
        return self._code_of[cell]

    @property
    def problems(self) -> tuple[str, ...]:
        """What cells that are done can't be measured for, one of each kind."""
        by_measurement = {name: f"{name} of {cell}: {problem}" for (name, cell), problem in self._problems.items()}
        return tuple(by_measurement.values())

    @property
    def values(self) -> dict[Key, float]:
        """Every number that was measured, by measurement, levels and seed."""
        numbers = {
            (name, cell.key, cell.seed): self.value(name, cell.name)
            for name in self.study.measurements
            for cell in self.cells
        }
        return {key: number for key, number in numbers.items() if number is not None}

    # Claims -----------------------------------------------------------------------------------------------------------

    def judged(self) -> list[verdict.Judged]:
        """The verdict of each claim; `NOT_JUDGED` where values are missing, or after a smoke run."""
        values = self.values
        return [self._unless_missing(judged, values) for judged in verdict.judge(self.study, values)]

    def _unless_missing(self, judged: verdict.Judged, values: dict[Key, float]) -> verdict.Judged:
        needed = list(self._needed(judged.claim))
        missing = [(name, cell) for name, cell in needed if (name, cell.key, cell.seed) not in values]
        if self.smoke:
            reason = "A smoke run tells whether everything works, nothing else."
        elif judged.claim.choose_on and not set(judged.claim.choose_on) < set(self.study.seeds):
            choosing, seeds = (", ".join(map(str, some)) for some in (judged.claim.choose_on, self.study.seeds))
            reason = f"Seeds {choosing} choose what it is compared with, and others judge. Received: {seeds}."
        elif missing:
            shown = _listed([self._why(name, cell.name) for name, cell in missing])
            reason = f"{len(missing)} of {len(needed)} values are missing: {shown}."
        else:
            return replace(judged, reason=judged.reason + self._diverged(judged, needed))
        nothing = {"difference": math.nan, "interval": None, "p": 1.0, "p_adjusted": 1.0, "power": None}
        return replace(judged, verdict=NOT_JUDGED, reason=reason, **nothing)

    def _diverged(self, judged: verdict.Judged, needed: Sequence[tuple[str, grid.Place]]) -> str:
        """What a reader must know of cells that diverged: those with numbers have them of the weights that they kept."""
        choice = judged.claim.choice
        unused = set(judged.claim.to[choice]) - {judged.chosen} if choice else set()
        found: dict[bool, dict[str, None]] = {True: {}, False: {}}
        for name, cell in needed:
            chooses = cell.seed in judged.claim.choose_on
            if self._outcomes[cell.name].status == "diverged" and (chooses or cell.levels.get(choice) not in unused):
                found[math.isfinite(self.value(name, cell.name))][cell.name] = None
        words = {True: "Diverged, and counted with the weights that it kept", False: "Diverged, without a number"}
        return "".join(f" {words[finite]}: {_listed(list(cells))}." for finite, cells in found.items() if cells)

    def _needed(self, claim: Claim) -> Iterator[tuple[str, grid.Place]]:
        """Measurements and cells without which a claim can't be judged."""
        for cell in self.cells:
            chosen_on = cell.seed in claim.choose_on
            if not chosen_on and claim.compare.items() <= cell.levels.items():
                yield claim.measurement, cell
                if claim.other_measurement:
                    yield claim.other_measurement, cell
            if any(other.items() <= cell.levels.items() for other in claim.others()):
                yield claim.measurement, cell

    def _why(self, measurement: str, cell: str) -> str:
        if (measurement, cell) in self._problems:
            problem = self._problems[measurement, cell].replace(f"{self.path}/", "").removesuffix(".")
            return f"{cell} has no {measurement} ({problem})"
        outcome = self._outcomes.get(cell)
        return f"{cell} {outcome.status if outcome else 'is not trained'}"

    # Files ------------------------------------------------------------------------------------------------------------

    def write(self) -> list[verdict.Judged]:
        """Writes `results.csv` and `study.json`; returns the verdicts in it."""
        directory.write_text(self.path / RESULTS, self._table())
        judged = self.judged()
        results = self.results().values()
        content = {
            "version": VERSION,
            "name": self.name,
            "title": self.study.title,
            "claim": self.study.claim,
            "source": self.study.source,
            "smoke": self.smoke,
            "cells": {"all": len(self.cells), **Counter(outcome.status for outcome in results)},
            "seconds": round(sum(outcome.seconds for outcome in results), 1),
            "seeds": self.study.seeds,
            "confidence": self.study.confidence,
            "claims": {one.name: _of_claim(one) for one in judged},
            "code": self.codes,
            "versions": environment.versions(),
        }
        directory.write_json(self.path / SUMMARY, content)
        return judged

    def _table(self) -> str:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow([*self.study.grid, "seed", "status", *self.study.measurements, "seconds", "run"])
        for cell in self.cells:
            outcome = self._outcomes.get(cell.name)
            numbers = [self.value(name, cell.name) for name in self.study.measurements]
            rest = ["", ""] if outcome is None else [outcome.seconds, outcome.run or ""]
            rows.writerow(
                [
                    *cell.levels.values(),
                    cell.seed,
                    outcome.status if outcome else "",
                    *("" if number is None else repr(number) for number in numbers),
                    *rest,
                ]
            )
        return text.getvalue()

    def _summary(self) -> dict:
        try:
            content = json.loads((self.path / SUMMARY).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            content = None
        return content if isinstance(content, dict) else {}  # damaged: the next cell writes it anew


def _listed(words: Sequence[str]) -> str:
    more = [f"and {len(words) - NAMED} more"] if len(words) > NAMED else []
    return "; ".join([*words[:NAMED], *more])


def _of_claim(judged: verdict.Judged) -> dict:
    content = asdict(judged)
    del content["name"], content["claim"]
    return {"statement": judged.claim.statement, **content}
