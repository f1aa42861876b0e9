"""Reads `metrics.csv`, also while a training is still writing it."""

from __future__ import annotations

import csv
from pathlib import Path

from nrm_keras.runs.directory import METRICS


def smaller_is_better(name: str) -> bool:
    """Whether a metric of that name is an error: a loss, rmse, mae."""
    return name.endswith(("loss", "error", "rmse", "mae"))


def read_metrics(run_dir: Path) -> dict[str, list[float]]:
    """The columns of a run's `metrics.csv`, each with one value an epoch; empty where nothing was written yet.

    An empty cell is NaN. Torn and damaged rows are skipped; of an epoch that was written twice the last row counts.
    """
    try:
        text = (Path(run_dir) / METRICS).read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    # a last line without its end may be cut within a number, which would still parse
    header, *rows = [line for line in text.split("\n")[:-1] if line.strip()] or [""]
    names = next(csv.reader([header]), [])
    parsed = [values for row in rows if (values := _parse(row, len(names))) is not None]
    if "epoch" in names:
        column = names.index("epoch")
        parsed = list({values[column]: values for values in parsed}.values())
    return {name: [values[index] for values in parsed] for index, name in enumerate(names)}


def _parse(row: str, columns: int) -> list[float] | None:
    try:
        cells = next(csv.reader([row]), [])
        return [float(cell or "nan") for cell in cells] if len(cells) == columns else None
    except (ValueError, csv.Error):
        return None
