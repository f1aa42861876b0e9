"""Reads `statistics.jsonl` for showing: as many steps as can be told apart, whatever is damaged left out and said."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nrm_keras.runs import directory

# Of each kind of record about so many are kept, and not fewer steps than this if there are as many.
RECORDS, STEPS = 20_000, 60
LONGEST_LINE = 1_000_000
# How InternalStatistics begins a line. Others are read too, but slower.
HEAD = re.compile(rb'\{"step": (\d{1,15}), "epoch": \d+, "kind": "([^"\\]+)"')
# Beyond it a step is damage, and charts could not tell neighbours apart.
LAST_STEP = 10**15
# Each channel's moments end a record, and are the longest part of it. A quotation mark inside a name would be escaped.
CHANNELS = b', "channel_mean": ['


@dataclass(frozen=True)
class Series:
    """Numbers over steps; NaN where a number is not finite or not there."""

    steps: list[int]
    values: list[float]

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]


@dataclass(frozen=True)
class Statistics:
    """The records of a run by kind, in the order of the file, of the steps that are shown.

    `counts` has for each kind how many steps there are in the file, and how many are shown.
    """

    records: dict[str, list[dict]] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.records.values())

    def of(self, kind: str, **wanted) -> list[dict]:
        """The records of a kind whose fields are as wanted."""
        return [r for r in self.records.get(kind, []) if all(r.get(key) == value for key, value in wanted.items())]

    def single(self, kind: str, column: str) -> Series:
        """A number of a kind that has one record a step."""
        records = self.of(kind)
        return Series([r["step"] for r in records], [number_of(r, column) for r in records])

    def by_layer(self, kind: str, column: str, **wanted) -> dict[str, Series]:
        """A number by layer, in the model's order; layers that never have it are left out."""
        found: dict[str, Series] = {}
        for record in self.of(kind, **wanted):
            layer = record.get("layer")
            if isinstance(layer, str):
                series = found.setdefault(layer, Series([], []))
                series.steps.append(record["step"])
                series.values.append(number_of(record, column))
        return {layer: series for layer, series in found.items() if series.finite}


def number_of(record: dict, column: str) -> float:
    """The number that a record has in a column; NaN where there is none."""
    return as_number(record.get(column))


def as_number(value) -> float:
    """What JSON holds as a float; NaN where it is no number, or a whole one beyond the floats."""
    if type(value) not in (int, float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def read(run_dir: Path, notices: list[str], always: Collection[int] = ()) -> Statistics:
    """The statistics of a run, also while it is still training.

    Args:
        run_dir: the run directory.
        notices: what is damaged is added here.
        always: steps that are kept in any case, such as those of findings.
    """
    kinds: dict[str, _Thinned] = defaultdict(lambda: _Thinned(frozenset(always)))
    damaged = 0
    try:
        for line in lines_of(run_dir / directory.STATISTICS):
            head = HEAD.match(line)
            line = _without_channels(line)
            if head is None:
                record = parse(line, is_record)
                damaged += record is None
                if record is not None:
                    kinds[record["kind"]].add(record["step"], record)
            else:
                kinds[head[2].decode("utf-8", "replace")].add(int(head[1]), line)
    except OSError as error:
        notices.append(f"{directory.STATISTICS} cannot be read and is left out: {error}")
        return Statistics()
    records = {}
    for kind, thinned in kinds.items():
        parsed = [line if isinstance(line, dict) else parse(line, is_record) for line in thinned.lines()]
        records[kind] = [record for record in parsed if record is not None]
        damaged += len(parsed) - len(records[kind])
    notice_damage(directory.STATISTICS, damaged, notices)
    return Statistics(records, {kind: (thinned.count, thinned.shown) for kind, thinned in kinds.items()})


def steps_of(run_dir: Path, kinds: Collection[str], notices: list[str]) -> Iterator[tuple[int, list[bytes]]]:
    """Every step with the lines of these kinds, none thinned out; one step at a time is in memory.

    Lines of a step below one that has been there are left out, and said in `notices` at the end of the file.
    """
    wanted = frozenset(kind.encode() for kind in kinds)
    current, lines, late = -1, [], 0
    try:
        for line in lines_of(run_dir / directory.STATISTICS):
            head = HEAD.match(line)
            line = _without_channels(line)
            record = None if head else parse(line, is_record)
            if not head and record is None:
                continue
            step, kind = (int(head[1]), head[2]) if head else (record["step"], record["kind"].encode())
            if kind not in wanted:
                continue
            if step > current:
                if lines:
                    yield current, lines
                current, lines = step, []
            late += step < current
            if step == current:
                lines.append(line)
    except OSError:
        return  # `read` has said so
    if lines:
        yield current, lines
    if late:
        many = "line of an earlier step is" if late == 1 else "lines of earlier steps are"
        notices.append(f"{directory.STATISTICS}: {late:,} {many} not compared: later ones are in front of it.")


def lines_of(path: Path) -> Iterable[bytes]:
    """The lines of a file that may not be there, without a last one that is still being written."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def parse(line: bytes, is_record: Callable[[dict], bool]) -> dict | None:
    """The line's record; None where it is damaged."""
    try:
        record = json.loads(line) if len(line) <= LONGEST_LINE else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and is_record(record) else None


def notice_damage(file: str, lines: int, notices: list[str]) -> None:
    """Says how many lines of the file are damaged, if any."""
    if lines:
        notices.append(f"{file}: {lines:,} damaged {'line is' if lines == 1 else 'lines are'} left out.")


def is_record(record: dict) -> bool:
    """Whether it has a step and a kind, as every record has."""
    step = record.get("step")
    return type(step) is int and abs(step) < LAST_STEP and isinstance(record.get("kind"), str)


def _without_channels(line):
    end = line.find(CHANNELS)
    return line if end < 0 else line[:end] + b"}"


class _Thinned:
    """Lines by step, of every step at first; each time there are too many, of every other one of those that are left."""

    def __init__(self, always: frozenset[int]):
        self._always = always
        self._kept: dict[int, tuple[int, list]] = {}  # by the step's number in the file, from 1
        self._stride, self._lines = 1, 0
        self.count = 0

    @property
    def shown(self) -> int:
        return len(self._kept)

    def add(self, step: int, line) -> None:
        if self.count not in self._kept or self._kept[self.count][0] != step:
            self.count += 1
            self._kept[self.count] = (step, [])
            self._drop([self.count - 1])
            if self._lines > RECORDS and self.shown > 2 * STEPS:
                self._stride *= 2
                self._drop(list(self._kept))
        self._kept[self.count][1].append(line)
        self._lines += 1

    def lines(self) -> Iterable:
        return (line for _, lines in self._kept.values() for line in lines)

    def _drop(self, numbers):
        """Those of the numbers that are neither on the grid nor wanted in any case; the latest stays until the next comes."""
        for number in numbers:
            step, lines = self._kept.get(number, (0, []))
            off_grid = (number - 1) % self._stride and number != self.count
            if off_grid and step not in self._always and lines:
                del self._kept[number]
                self._lines -= len(lines)
