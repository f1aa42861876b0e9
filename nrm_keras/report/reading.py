"""Reads a run directory for showing: whatever is missing or damaged becomes a notice, never an error."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, Field, ValidationError

from nrm_keras.report import alerts, statistics
from nrm_keras.report.alerts import Finding
from nrm_keras.report.statistics import Statistics
from nrm_keras.runs import directory
from nrm_keras.runs.metrics import read_metrics

LOG_LINES = 20

Count = Annotated[int, Field(ge=0, le=10**12)]


class Baseline(BaseModel):
    """A simple model's scores on the same test split."""

    name: str
    metrics: dict[str, float | None]


class Summary(BaseModel):
    """The part of `summary.json` that is shown."""

    version: int = directory.VERSION
    recipe: str = ""
    title: str = ""
    task: str = ""
    status: str = "finished"
    seed: int | None = None
    smoke: bool = False
    precision: str = ""
    epochs: Count | None = None
    steps: Count | None = None
    best_epoch: Count | None = None
    keep: str = ""
    monitor: str = ""
    metrics: dict[str, dict[str, float | None]] = {}
    parameters: Count | None = None
    examples: dict[str, Count] = {}
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    classes: list[str] = []
    targets: list[str] = []
    notes: list[str] = []
    caveat: str = ""
    baseline: Baseline | None = None


@dataclass(frozen=True)
class RunFiles:
    """What a run directory holds. `summary` is None while the run is unfinished, or where it cannot be read."""

    path: Path
    recipe: str
    command: str
    log: str
    metrics: dict[str, list[float]]
    summary: Summary | None
    environment: dict
    finished: bool
    changed: str
    planned: dict = field(default_factory=dict)
    statistics: Statistics = field(default_factory=Statistics)
    findings: list[Finding] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def epochs(self) -> list[int]:
        return [int(epoch) for epoch in self.metrics.get("epoch", [])]

    @property
    def title(self) -> str:
        """The recipe's title, else its name, else where the run is."""
        named = [self.summary.title, self.summary.recipe] if self.summary else []
        return next((name for name in [*named, str(self.planned.get("title") or "")] if name), self.name)

    @property
    def name(self) -> str:
        """The last folders of the run's path, which name recipe and run; what is above them is nobody's business."""
        return "/".join(self.path.resolve().parts[-3:])


def read_run(run_dir: Path, inside: bool = True) -> RunFiles:
    """Reads all that the page shows.

    Args:
        run_dir: the run directory.
        inside: whether to read statistics and findings, which may be hundreds of megabytes.

    Raises:
        UserError: this is no run directory.
    """
    path = directory.check(Path(run_dir))
    notices: list[str] = []
    recipe = _text(path / directory.RECIPE)
    finished = (path / directory.SUMMARY).exists()
    summary = _summary(_json(path / directory.SUMMARY, notices), notices) if finished else None
    if summary and summary.version > directory.VERSION:
        notices.append(
            f"The run is of version {summary.version} of run directories, and this package knows {directory.VERSION}: what is new in it is not shown. "
            "Update nrm_keras."
        )
    expected = [directory.ENVIRONMENT, *([directory.METRICS] if finished else [])]
    notices += [f"{name} is missing, so what it holds is not shown." for name in expected if not (path / name).exists()]
    found = alerts.read(path, notices) if inside else []
    return RunFiles(
        path=path,
        recipe=recipe,
        command=_text(path / directory.COMMAND).strip(),
        log="" if finished else "\n".join(_text(path / directory.LOG, last=20_000).splitlines()[-LOG_LINES:]),
        metrics=_metrics(path, notices),
        summary=summary,
        environment=_json(path / directory.ENVIRONMENT, notices),
        finished=finished,
        changed=_changed(path),
        planned=_planned(recipe, notices),
        statistics=statistics.read(path, notices, {finding.step for finding in found}) if inside else Statistics(),
        findings=found,
        notices=notices,
    )


def _text(path: Path, last: int | None = None) -> str:
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    return content[-last if last else 0 :].decode("utf-8", errors="replace")


def _json(path: Path, notices: list[str]) -> dict:
    if not path.exists():
        return {}
    try:
        content = json.loads(_text(path))
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}, not a mapping")
        return content
    except (TypeError, ValueError, RecursionError) as error:
        notices.append(f"{path.name} cannot be read and is left out: {error}")
        return {}


def _summary(content: dict, notices: list[str]) -> Summary | None:
    try:
        return Summary.model_validate(content) if content else None
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        notices.append(f"{directory.SUMMARY} is not as expected and is left out: {'; '.join(problems[:3])}")
        return None


def _metrics(path: Path, notices: list[str]) -> dict[str, list[float]]:
    try:
        metrics = read_metrics(path)
    except OSError as error:
        notices.append(f"{directory.METRICS} cannot be read and is left out: {error}")
        return {}
    sound = "epoch" in metrics and all(epoch.is_integer() for epoch in metrics["epoch"])
    if metrics and not sound:
        notices.append(f"{directory.METRICS} is left out: it needs a column `epoch` of whole numbers.")
    return metrics if sound else {}


def _planned(recipe: str, notices: list[str]) -> dict:
    """Top level of the recipe, for what an unfinished run has no summary of."""
    try:
        content = yaml.safe_load(recipe)
    except (yaml.YAMLError, ValueError, RecursionError):
        notices.append(f"{directory.RECIPE} is not YAML; it is shown as it is.")
        return {}
    return content if isinstance(content, dict) else {}


def _changed(path: Path) -> str:
    """When the run last wrote a row, or began."""
    file = path / directory.METRICS if (path / directory.METRICS).exists() else path / directory.RECIPE
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(file.stat().st_mtime))
