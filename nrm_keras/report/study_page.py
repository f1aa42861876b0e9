"""Placeholder until the page is merged."""

from __future__ import annotations

from pathlib import Path


def write(path: Path) -> Path:
    return path / "report.html"
