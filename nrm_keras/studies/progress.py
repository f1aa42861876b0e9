"""What a study tells while its cells are trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nrm_keras.report.verdict import duration, number
from nrm_keras.studies.outcome import CELLS, DONE, LOG, Outcome
from nrm_keras.studies.planning import Plan
from nrm_keras.studies.store import Store


class Progress:
    """Takes what executors tell: keeps each outcome at once, and says one line a cell.

    Args:
        plan: what is done.
        store: where outcomes go.
        say: prints one line.
    """

    def __init__(self, plan: Plan, store: Store, say: Callable[[str], None]):
        self.plan, self.store, self.say = plan, store, say
        self.failed: list[Outcome] = []
        self._ended = len(plan.cells) - len(plan.left)
        self._seconds: list[float] = []

    def __call__(self, event: tuple) -> None:
        kind, what = event
        if kind == "started":
            return
        self.store.add(what)
        self.store.write()
        if what.status == "stopped":
            return
        self._ended += 1
        self._seconds.append(what.seconds)
        if what.status not in DONE:
            self.failed.append(what)
        self.say(f"[{self._ended}/{len(self.plan.cells)}] {what.cell}: {self._said(what)}")

    def _said(self, outcome: Outcome) -> str:
        took = f"({duration(outcome.seconds)}){self._outlook()}"
        if outcome.status not in DONE:
            return f"failed {took}. {failure(self.store.path, outcome)}"
        name = next(iter(self.store.study.measurements))
        diverged = "diverged, " if outcome.status == "diverged" else ""
        return f"{diverged}{name} {number(self.store.value(name, outcome.cell))} {took}"

    def _outlook(self) -> str:
        left = len(self.plan.cells) - self._ended
        if not left:
            return ""
        # the first cells of a worker import TensorFlow, so the mean of all is on the safe side
        seconds = sum(self._seconds) / len(self._seconds) * left / self.plan.workers
        return f"; {min(self.plan.workers, left)} running, about {_roughly(seconds)} left"


def failure(path: Path, outcome: Outcome) -> str:
    """What a cell failed of, and where the rest of it is."""
    last = (outcome.error.strip().splitlines() or ["It said nothing."])[-1]
    return f"{last} Log: {path / CELLS / outcome.cell / LOG}"


def _roughly(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
