"""What several seeds of a recipe say together: mean, spread and intervals, and the paired difference of two recipes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nrm_keras.report.reading import read_run
from nrm_keras.report.tables import Table
from nrm_keras.report.verdict import label, number

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Several values of one quantity.

    Args:
        mean: NaN where one of the values is not finite: leaving it out would make the rest look better than they are.
        deviation: the sample standard deviation, with n - 1; None with one value.
        interval: t interval of the mean, of 95 % unless said otherwise; None with one value, or where one is not finite.
        n: how many values.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class Paired:
    """The mean of the differences between pairs, with their 95 % paired t interval; see `Spread`."""

    difference: float
    interval: tuple[float, float] | None
    n: int


def summary_of(values: Sequence[float], confidence: float = CONFIDENCE) -> Spread:
    """Mean, sample standard deviation and t interval of the mean.

    Args:
        values: one at least.
        confidence: of the interval.

    Raises:
        ValueError: there is no value.

    Example:

        >>> found = summary_of([1.0, 2.0, 3.0])
        >>> found.mean, found.deviation, [round(end, 3) for end in found.interval]
        (2.0, 1.0, [-0.484, 4.484])
    """
    values = [float(value) for value in values]
    if not values:
        raise ValueError("a summary needs one value at least. Received: none.")
    n = len(values)
    if not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan if n > 1 else None, None, n)
    mean = statistics.fmean(values)
    if n == 1:
        return Spread(mean, None, None, n)
    from scipy.stats import t  # slow to import, and most uses of this package need none

    deviation = statistics.stdev(values)
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * deviation / math.sqrt(n)
    return Spread(mean, deviation, (mean - half, mean + half), n)


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """The mean of `a - b`, pair by pair, with its 95 % paired t interval.

    Raises:
        ValueError: there is no pair, or a value without a partner.
    """
    found = summary_of([x - y for x, y in zip(a, b, strict=True)])
    return Paired(found.mean, found.interval, found.n)


@dataclass(frozen=True)
class Scores:
    """What the seeds of one recipe reached: metric -> one value a seed, in the order of `seeds`."""

    name: str
    split: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, tuple[float, ...]]


def scores(name: str, runs: Mapping[int, Path]) -> Scores:
    """Test metrics of finished runs; those of validation where there is no test split.

    Args:
        name: of the recipe.
        runs: run directories by seed.
    """
    summaries = [read_run(path, inside=False).summary for path in runs.values()]
    found = [summary.metrics if summary else {} for summary in summaries]
    split = next((split for split in ("test", "validation") if all(one.get(split) for one in found)), "test")
    measured = [one.get(split, {}) for one in found]
    names = [metric for metric in measured[0] if all(metric in one for one in measured)]
    # summary.json says null where a value is not finite
    values = {metric: tuple(math.nan if one[metric] is None else one[metric] for one in measured) for metric in names}
    return Scores(name, split, tuple(runs), values)


def table(found: Scores) -> Table:
    """Seeds downwards, then what they say together; metrics across."""
    spreads = [summary_of(values) for values in found.metrics.values()]
    rows = [
        [str(seed), *(number(values[index]) for values in found.metrics.values())]
        for index, seed in enumerate(found.seeds)
    ]
    return Table(
        ["seed", *map(label, found.metrics)],
        [
            *rows,
            ["mean", *(number(spread.mean) for spread in spreads)],
            ["standard deviation", *(_deviation(spread) for spread in spreads)],
            ["95 % interval of the mean", *(_interval(spread) for spread in spreads)],
        ],
    )


def difference_table(a: Scores, b: Scores) -> Table:
    """The paired difference of every metric that both have, and in words which of them the seeds can tell apart."""
    pairs = {name: paired(a.metrics[name], b.metrics[name]) for name in a.metrics if name in b.metrics}
    rows = [
        [
            label(name),
            *(number(summary_of(one.metrics[name]).mean) for one in (a, b)),
            number(found.difference),
            _interval(found),
        ]
        for name, found in pairs.items()
    ]
    return Table(["metric", a.name, b.name, "difference", "95 % interval of the difference"], rows, _told_apart(pairs))


def _interval(found: Spread | Paired) -> str:
    """An interval in words, or why there is none."""
    if found.interval is None:
        return "none (one seed)" if found.n == 1 else "none"
    return f"{number(found.interval[0])} to {number(found.interval[1])}"


def _deviation(spread: Spread) -> str:
    return "none (one seed)" if spread.deviation is None else number(spread.deviation)


def _told_apart(pairs: Mapping[str, Paired]) -> str:
    """What the intervals mean for the question whether the recipes differ."""
    kinds: dict[str, list[str]] = {}
    for name, found in pairs.items():
        if found.interval is not None:
            low, high = found.interval
            kind = "same" if low == high else "holds 0" if low <= 0 <= high else "without 0"
            kinds.setdefault(kind, []).append(label(name))
    words = {
        "without 0": "0 is outside of the interval: {}.",
        "holds 0": "0 is within the interval, so that these seeds do not tell the recipes apart: {}.",
        "same": "Every seed has the same difference, which says little about further seeds: {}.",
    }
    return "\n".join(text.format(", ".join(kinds[kind])) for kind, text in words.items() if kind in kinds)
