"""Runs and their results, a row each."""

from __future__ import annotations

from pathlib import Path

from nrm_keras.errors import UserError
from nrm_keras.runs import directory
from nrm_keras.runs.metrics import read_metrics

COLUMNS = ("run", "status", "epochs", "validation", "test")


def rows(root: Path) -> list[tuple[str, ...]]:
    """One row per run below `root`, oldest first.

    Raises:
        UserError: there is no such directory.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such directory. Runs are made in `runs`, or where `run --out` says.")
    return [_row(path) for path in directory.find_all(root)]


def _row(path: Path) -> tuple[str, ...]:
    summary = directory.summary(path)
    if summary is None:
        return (str(path), "unfinished", str(len(read_metrics(path).get("epoch", []))), "", "")
    status = summary.get("status", "unknown") + (", smoke" if summary.get("smoke") else "")
    scores = [_score((summary.get("metrics") or {}).get(split)) for split in ("validation", "test")]
    return (str(path), status, str(summary.get("epochs", "")), *scores)


def _score(metrics: dict | None) -> str:
    """The first metric that is no loss."""
    numbers = {name: value for name, value in (metrics or {}).items() if isinstance(value, (int, float))}
    return next((f"{name} {value:.4f}" for name, value in numbers.items() if name != "loss"), "")
