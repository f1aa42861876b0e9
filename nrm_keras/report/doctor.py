"""What `doctor` tells: versions against their lower bounds, devices, the precision that makes sense here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version
from rich.console import Group
from rich.table import Table
from rich.text import Text

from nrm_keras.runs import environment
from nrm_keras.version import __version__

GOOD, BAD = "good", "bad"
STYLES = {GOOD: "green", BAD: "bold red", "": ""}


@dataclass(frozen=True)
class Row:
    """One fact; `state` is `GOOD`, `BAD` or, where there is nothing to judge, empty."""

    name: str
    value: str
    note: str = ""
    state: str = ""


@dataclass(frozen=True)
class Section:
    title: str
    rows: list[Row]


def doctor(timeout: float = 60, more: Sequence[Section] = ()) -> list[Section]:
    """Examines this installation and machine. Asks TensorFlow in another process for at most `timeout` seconds.

    Args:
        more: sections shown behind our own, such as the data that is here.
    """
    found = environment.devices(timeout)
    return [_versions(), _machine(), _devices(found), *more]


def healthy(sections: Sequence[Section]) -> bool:
    return all(row.state != BAD for section in sections for row in section.rows)


def render(sections: Sequence[Section]) -> Group:
    """The sections as rich tables."""
    return Group(*(part for section in sections for part in (_table(section), Text())))


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", title_style="bold", box=None, show_header=False)
    for row in section.rows:
        table.add_row(Text(row.name), Text(row.value, STYLES[row.state]), Text(row.note, "dim"))
    return table


def requirements() -> list[Requirement]:
    """What nrm_keras depends on without extras: from the installed metadata, else from `setup.cfg` of a checkout."""
    try:
        lines = importlib.metadata.requires("nrm_keras") or []
    except importlib.metadata.PackageNotFoundError:
        setup = ConfigParser(interpolation=None)
        setup.read(Path(__file__).resolve().parents[2] / "setup.cfg", "utf-8")
        lines = setup.get("options", "install_requires", fallback="").split("\n")
    parsed = [Requirement(line) for line in lines if line.strip()]
    return [one for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]


def _versions() -> Section:
    python = environment.versions()["python"]
    return Section("Versions", [Row("python", python), _own_version(), *map(_dependency, requirements())])


def _own_version() -> Row:
    try:
        importlib.metadata.version("nrm_keras")
        return Row("nrm_keras", __version__)
    except importlib.metadata.PackageNotFoundError:
        return Row("nrm_keras", __version__, "used from a checkout; `pip install -e .` installs it")


def _dependency(requirement: Requirement) -> Row:
    bound = str(requirement.specifier) or "any version"
    remedy = f"needs {bound}: pip install -U '{requirement.name}{requirement.specifier}'"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Row(requirement.name, "missing", remedy, BAD)
    if requirement.specifier.contains(Version(version), prereleases=True):
        return Row(requirement.name, version, bound, GOOD)
    return Row(requirement.name, version, remedy, BAD)


def _machine() -> Section:
    facts = environment.machine()
    usable = facts.get("processors_usable", facts["processors"])
    rows = [Row("system", facts["platform"]), Row("processor", facts["processor"])]
    rows.append(Row("cores", str(usable), f"of {facts['processors']}" if usable != facts["processors"] else ""))
    if "memory_gib" in facts:
        rows.append(Row("memory", f"{facts['memory_gib']} GiB"))
    return Section("Machine", rows)


def _devices(found: dict) -> Section:
    rows = [Row("TensorFlow", "no answer", found["problem"], BAD)] if "problem" in found else []
    for device in found.get("devices", []):
        facts = [f"{device['memory_gib']} GiB for TensorFlow"] if "memory_gib" in device else []
        if "compute_capability" in device:
            facts.append(f"compute capability {device['compute_capability']}")
        rows.append(Row(device["type"], device["name"], ", ".join(facts), GOOD))
    for kind, works in found.get("xla", {}).items():
        rows.append(Row(f"XLA on {kind}", "compiles" if works else "does not compile", "", GOOD if works else BAD))
    rows.append(Row("precision", found["precision"], found["reason"]))
    return Section("Devices", rows)
