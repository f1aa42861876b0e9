"""Reads `alerts.jsonl`: what the diagnostics found, the gravest first."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from nrm_keras.diagnostics.rule_names import RULE_NAMES
from nrm_keras.report.statistics import lines_of, notice_damage, parse
from nrm_keras.runs import directory


class Finding(BaseModel):
    """One alert, as `InternalStatistics` writes it."""

    rule: str
    step: int
    layer: str | None = None
    value: float | None = None
    threshold: float | None = None
    evidence: str = ""
    reason: str = ""
    advice: str = ""
    others: list[str] = []

    @property
    def title(self) -> str:
        name = self.rule.replace("_", " ")
        return f"{name[:1].upper()}{name[1:]}{f': {self.layer}' if self.layer else ''}"


def read(run_dir: Path, notices: list[str]) -> list[Finding]:
    """The findings, the gravest rule first, then as they came; whatever is damaged becomes a notice."""
    found, damaged = [], 0
    try:
        for line in lines_of(run_dir / directory.ALERTS):
            record = parse(line, lambda record: True)
            try:
                found.append(Finding.model_validate(record))
            except ValidationError:
                damaged += 1
    except OSError as error:
        notices.append(f"{directory.ALERTS} cannot be read and is left out: {error}")
    notice_damage(directory.ALERTS, damaged, notices)
    gravity = {name: place for place, name in enumerate(RULE_NAMES)}
    return sorted(found, key=lambda finding: (gravity.get(finding.rule, len(gravity)), finding.step))
