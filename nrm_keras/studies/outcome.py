"""A cell of a study to be trained, and what became of it: what its worker, its executor and the study's directory share."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from nrm_keras.runs import directory

CELLS, RUN, LOG, RESULT = "cells", "run", "log.txt", "result.json"
DONE = ("finished", "diverged")


@dataclass(frozen=True)
class Job:
    """One cell to train, as plain values that any process understands.

    Args:
        study_dir: the study's directory, absolute.
        cell: its name, which is its folder too.
        recipe: the name of a shipped recipe, NAME@variant, or an absolute path.
        overrides: dotted path to value, the seed among them.
        probes: name to `{"type": ..., options}`; measured on the trained model.
        smoke, allow_imports: as in `launch.run`.
    """

    study_dir: str
    cell: str
    recipe: str
    overrides: dict
    probes: dict[str, dict]
    smoke: bool = False
    allow_imports: bool = False

    @property
    def folder(self) -> Path:
        return Path(self.study_dir) / CELLS / self.cell

    def newest_run(self) -> str | None:
        """The cell's newest run directory, relative to the study's; None where it has none."""
        found = directory.find_all(self.folder / RUN)
        return str(found[-1].relative_to(self.study_dir)) if found else None


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Args:
        cell: its name.
        status: finished, diverged, failed (it is trained again next time) or stopped (it goes on next time).
        run: its run directory, relative to the study's; None where there is none.
        probes: name to field to value; NaN where it is not finite.
        seconds, processor_seconds: what this process took for it, by the clock and on all threads together.
        threads: of TensorFlow within and between its operations, whichever are more; 0 where it was not reached.
        process: the worker's process id.
        executor: local or ray.
        error: why it failed.
    """

    cell: str
    status: str
    run: str | None
    probes: dict[str, dict[str, float]]
    seconds: float
    processor_seconds: float
    threads: int
    process: int
    executor: str
    error: str = ""

    def write(self, folder: Path) -> None:
        """Writes `result.json` into the cell's folder, as a whole."""
        directory.write_json(folder / RESULT, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """What is in the cell's folder; None where it has none, or one of another version: the cell is trained again."""
        try:
            content = json.loads((folder / RESULT).read_text("utf-8"))
            probes = {
                name: {field: math.nan if value is None else value for field, value in fields.items()}
                for name, fields in content.pop("probes").items()
            }
            return cls(**content, probes=probes)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            return None


def dead(job: Job, executor: str, process: int, seconds: float, how: str) -> Outcome:
    """What became of a cell whose worker died; written for it, since it can't any more."""
    error = f"its worker died: {how}. The same command goes on from where it can."
    with contextlib.suppress(FileNotFoundError), open(job.folder / LOG, "a", encoding="utf-8") as log:
        log.write(f"{error}\n")
    outcome = Outcome(job.cell, "failed", job.newest_run(), {}, round(seconds, 3), 0.0, 0, process, executor, error)
    job.folder.mkdir(parents=True, exist_ok=True)
    outcome.write(job.folder)
    return outcome
