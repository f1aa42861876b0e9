"""The layers that runs have in common, number by number, those that differ most first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nrm_keras.report.comparison import Comparison, by_group
from nrm_keras.report.statistics import Series
from nrm_keras.report.verdict import number

# A hundredth is added to shares: 0.001 against 0.002 is no doubling that matters.
SHARE = 0.01


@dataclass(frozen=True)
class Quantity:
    """A number of a layer: where its records have it, what is shown, and whether it is a share."""

    name: str
    kind: str
    column: str
    shown: Callable[[float], float] = float
    is_share: bool = False


MEAN = Quantity("activation mean", "activation", "mean")
DEVIATION = Quantity(
    "activation standard deviation", "activation", "variance", lambda v: math.sqrt(v) if v >= 0 else math.nan
)
QUANTITIES = (
    MEAN,
    DEVIATION,
    Quantity("gradient rms", "activation", "gradient_rms"),
    Quantity("dead share", "activation", "dead", is_share=True),
    Quantity("update ratio", "weight", "update_ratio"),
)


@dataclass(frozen=True)
class Row:
    """A number of a layer by the letter of the run; `size` sorts, `words` say how much it differs."""

    layer: str
    quantity: Quantity
    values: dict[str, float]
    size: float
    words: str


def last_step(comparison: Comparison) -> int | None:
    """The last step that all runs with statistics have recorded (and that is not thinned out); None without any."""
    kinds = dict.fromkeys(quantity.kind for quantity in QUANTITIES)
    records = [run.files.statistics.of(kind) for run in comparison.watched for kind in kinds]
    # each kind is thinned by itself
    steps = [{record["step"] for record in one} for one in records if one]
    return max(set.intersection(*steps), default=None) if steps else None


def rows(comparison: Comparison) -> list[Row]:
    """At the last common step, else at each run's own last one. Groups of seeds are compared by their means."""
    step = last_step(comparison)
    deviations = values(comparison, DEVIATION, step)
    found = []
    for quantity in QUANTITIES:
        for layer, one in values(comparison, quantity, step).items():
            groups = comparison.groups if len(comparison.groups) > 1 else [[run] for run in comparison.runs]
            means = by_group(groups, one)
            size, words = _difference(quantity, one, means, deviations.get(layer, {}))
            found.append(Row(layer, quantity, one, size, words))
    return sorted(found, key=lambda row: -row.size)


def values(comparison: Comparison, quantity: Quantity, step: int | None) -> dict[str, dict[str, float]]:
    """Layers of all runs with statistics, in the first one's order: letter -> value."""
    layers = {run.letter: run.files.statistics.by_layer(quantity.kind, quantity.column) for run in comparison.watched}
    if len(layers) < 2:
        return {}
    common = [layer for layer in next(iter(layers.values())) if all(layer in one for one in layers.values())]
    return {
        layer: {letter: quantity.shown(_at(one[layer], step)) for letter, one in layers.items()} for layer in common
    }


def _at(series: Series, step: int | None) -> float:
    if step is None:
        return series.values[-1]
    return dict(zip(series.steps, series.values, strict=True)).get(step, math.nan)


def _difference(quantity: Quantity, one: dict, means: Sequence[float], deviations: dict) -> tuple[float, str]:
    """A logarithm of how many times, or standard deviations, the largest is above the smallest; and that in words."""
    if not all(map(math.isfinite, one.values())):
        return (math.inf, "not finite") if any(map(math.isfinite, one.values())) else (0.0, "")
    low, high = min(means), max(means)
    if quantity is MEAN:
        deviation = max((value for value in deviations.values() if math.isfinite(value)), default=0.0)
        shift = (high - low) / deviation if deviation > 0 else 0.0
        return math.log1p(shift), f"{number(shift)} sd"
    if quantity.is_share:
        return math.log((high + SHARE) / (low + SHARE)), f"{number(100 * (high - low))} points"
    if high == low:
        return 0.0, "equal"
    if low <= 0:
        return math.inf, "0 in one"
    return math.log(high / low), f"{number(high / low)} times"
