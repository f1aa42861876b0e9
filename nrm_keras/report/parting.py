"""Where runs part: the first step, layer and number at which they differ by more than their seeds do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from nrm_keras.report import statistics
from nrm_keras.report.statistics import Series, Statistics, number_of

# A band takes so many seeds, and is the mean and so many sample standard deviations to both sides.
SEEDS, WIDTH = 3, 2
# Without a band, the relative difference that counts; and in any case what is 0 up to float32's rounding.
TOLERANCE, NOTHING = 1e-3, 1e-7
# A step in the order in which it is computed: weights, forward pass, loss, gradients, update.
ORDER = (
    ("weight", ("norm",)),
    ("activation", ("mean", "variance", "dead", "saturated")),
    ("step", ("loss",)),
    ("activation", ("gradient_rms",)),
    ("weight", ("gradient_norm",)),
    ("step", ("gradient_norm", "learning_rate")),
    ("weight", ("update_norm",)),
)
KINDS = ("weight", "activation", "step")
SHARES = ("dead", "saturated")

Key = tuple[str, str, str]  # kind, layer (or the path of a weight, or empty), column


@dataclass(frozen=True)
class Parting:
    """The first number that differs, and how many of those of its step do."""

    step: int
    kind: str
    layer: str
    column: str
    reference: tuple[float, ...]
    others: tuple[float, ...]
    outside: int
    compared: int


@dataclass(frozen=True)
class Course:
    """How far runs go together.

    `steps` are those that all of them have recorded up to the parting, or to the end without one: their number, the first
    and the last; `compared` is whether they have any number in common.
    """

    parting: Parting | None
    steps: tuple[int, int, int] | None
    compared: bool


def first(reference: Sequence[Path], others: Sequence[Path], notices: list[str]) -> Course:
    """Reads run directories side by side until they part; every recorded step counts, and one at a time is in memory.

    Args:
        reference: one run, or as many seeds of one recipe as a band takes (`SEEDS`).
        others: runs of one recipe. They part where all of them differ from the reference to the same side.
        notices: what of the files could not be compared is added here.
    """
    runs = [statistics.steps_of(path, KINDS, notices) for path in (*reference, *others)]
    count, start, step, compared = 0, 0, 0, False
    for step, lines in _together(runs):
        start = step if count == 0 else start
        count += 1
        if all(one == lines[0] for one in lines):
            compared = True
            continue
        records = [filter(None, (statistics.parse(line, statistics.is_record) for line in one)) for one in lines]
        numbers = [_numbers(one) for one in records]
        keys, outside = _outside(numbers[: len(reference)], numbers[len(reference) :])
        compared = compared or keys > 0
        if outside:
            (kind, layer, column), *_ = outside
            values = tuple(one[outside[0]][0] for one in numbers)
            parted = Parting(
                step, kind, layer, column, values[: len(reference)], values[len(reference) :], len(outside), keys
            )
            return Course(parted, (count, start, step), True)
    return Course(None, (count, start, step) if count else None, compared)


def shares(reference: Sequence[Statistics], others: Sequence[Statistics]) -> Series:
    """The share of the numbers that differ as in `first`, over the steps that all runs keep for showing."""
    by_step = [_by_step(one) for one in (*reference, *others)]
    steps = [step for step in by_step[0] if all(step in one for one in by_step)]
    found = Series([], [])
    for step in steps:
        numbers = [_numbers(one[step]) for one in by_step]
        keys, outside = _outside(numbers[: len(reference)], numbers[len(reference) :])
        if keys:
            found.steps.append(step)
            found.values.append(len(outside) / keys)
    return found


def chance(seeds: int, others: int) -> float:
    """How often a number is outside of the band if nothing but the seed differs.

    The band of a few seeds is itself uncertain, so this is more than the 5 % of a known one. By simulation, of independent
    normal numbers; for a single other run it is Student's: P(|t| > WIDTH / sqrt(1 + 1 / seeds)), seeds - 1 degrees of freedom.
    """
    import numpy as np

    draws = np.random.default_rng(0).normal(size=(200_000, seeds + others))
    band, rest = draws[:, :seeds], draws[:, seeds:]
    middle, half = band.mean(1, keepdims=True), WIDTH * band.std(1, ddof=1, keepdims=True)
    return float(np.mean((rest > middle + half).all(1) | (rest < middle - half).all(1)))


def _together(runs: list[Iterator]) -> Iterator[tuple[int, list[list[bytes]]]]:
    """The steps that all have, each with the lines of each."""
    current = [next(run, None) for run in runs]
    while all(current):
        latest = max(step for step, _ in current)
        if all(step == latest for step, _ in current):
            yield latest, [lines for _, lines in current]
            latest += 1
        current = [one if one[0] >= latest else next(run, None) for one, run in zip(current, runs, strict=True)]


def _by_step(one: Statistics) -> dict[int, list[dict]]:
    found: dict[int, list[dict]] = {}
    for kind in KINDS:
        for record in one.of(kind):
            found.setdefault(record["step"], []).append(record)
    return dict(sorted(found.items()))


def _numbers(records: Iterable[dict]) -> dict[Key, tuple[float, float]]:
    """The numbers of a step, each with what counts as 1 beside it (0 for the number itself), in the order of computation."""
    by_kind: dict[str, list[dict]] = {}
    for record in records:
        by_kind.setdefault(record["kind"], []).append(record)
    return {
        (kind, str(record.get("layer", "")), column): (number_of(record, column), _scale(record, column))
        for kind, columns in ORDER
        for record in by_kind.get(kind, ())
        for column in columns
        # null is a number that is not finite, but a share that does not exist
        if column in record and (record[column] is not None or column not in SHARES)
    }


def _scale(record: dict, column: str) -> float:
    """A mean near 0, behind a normalizer, is rounding: it is measured in standard deviations."""
    variance = number_of(record, "variance")
    if column == "mean" and math.isfinite(variance) and variance > 0:
        return math.sqrt(variance)
    return 1.0 if column in SHARES else 0.0


def _outside(reference: list[dict], others: list[dict]) -> tuple[int, list[Key]]:
    """How many numbers all runs have, and which of them differ."""
    runs = [*reference, *others]
    keys = [key for key in reference[0] if all(key in one for one in runs)]
    return len(keys), [key for key in keys if _differs([one[key] for one in reference], [one[key] for one in others])]


def _differs(reference: list[tuple[float, float]], others: list[tuple[float, float]]) -> bool:
    values = [value for value, _ in reference]
    sides = {_side(values, value, max(scale for _, scale in (*reference, *others))) for value, _ in others}
    return len(sides) == 1 and "inside" not in sides


def _side(reference: list[float], value: float, scale: float) -> str:
    finite = {math.isfinite(one) for one in reference}
    if len(finite) > 1:
        return "inside"  # seeds some of which broke down have no band
    if finite == {False} or not math.isfinite(value):
        return "inside" if finite == {math.isfinite(value)} else "broken"
    middle = fmean(reference)
    half = max(TOLERANCE * max(scale, abs(middle), abs(value)), NOTHING)
    if len(reference) >= SEEDS:
        half = max(half, WIDTH * stdev(reference))
    return "inside" if abs(value - middle) <= half else "above" if value > middle else "below"
