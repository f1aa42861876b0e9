"""How often studies say what, on drawn paired differences of which the truth is known.

    python -m benchmarks.study_verdicts

1,000 studies for each number, by the code that judges real ones. Where two recipes have no difference at all, either order
of a pair is as likely, so that differences are symmetric. The skewed rows are what becomes of two recipes that are alike in
their means and nothing else: there few seeds say too much.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from nrm_keras.studies.statistics import Differences
from nrm_keras.studies.verdict import NOT_SUPPORTED, SUPPORTED, UNCLEAR
from tests.studies.simulated import judged, study

STUDIES, INTERVALS = 1000, 20_000
SEEDS = (3, 5, 10)
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]

# each with mean 0 and deviation 1, but for the rounded one, whose deviation is near 1
DRAWS: dict[str, Draw] = {
    "normal": lambda random, shape: random.normal(size=shape),
    "heavy tails (t, 3 degrees of freedom)": lambda random, shape: random.standard_t(3, shape) / math.sqrt(3),
    "Laplace": lambda random, shape: random.laplace(size=shape) / math.sqrt(2),
    "skewed (exponential)": lambda random, shape: random.exponential(size=shape) - 1,
    "skewed the other way": lambda random, shape: 1 - random.exponential(size=shape),
    "rounded to its deviation": lambda random, shape: np.rint(random.normal(size=shape)),
    "rounded to twice its deviation": lambda random, shape: 2 * np.rint(random.normal(size=shape) / 2),
}


def shares(n: int, claims: list[tuple[str, float]], draw: Draw, mean: float = 0.0) -> dict[str, float]:
    """The share of studies in which any claim gets each verdict."""
    random = np.random.default_rng(n)
    made = study(n, claims)
    found: Counter = Counter()
    for _ in range(STUDIES):
        found.update({one.verdict for one in judged(made, draw(random, (len(claims), n)) + mean)})
    return {verdict: found[verdict] / STUDIES for verdict in (SUPPORTED, NOT_SUPPORTED, UNCLEAR)}


def show(title: str, rows: list[tuple[str, list[str]]], head: list[str]) -> None:
    table = Table(title=title, min_width=100, title_justify="left")
    table.add_column("")
    for name in head:
        table.add_column(name, justify="right")
    for name, cells in rows:
        table.add_row(name, *cells)
    Console(width=120).print(table)


def _counted(claims: int) -> str:
    return f"{claims} {'claim' if claims == 1 else 'claims'}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def by_seeds(*rows: tuple[str, list[tuple[str, float]], Draw, float], verdict: str = SUPPORTED) -> list:
    return [
        (name, [percent(shares(n, claims, draw, mean)[verdict]) for n in SEEDS]) for name, claims, draw, mean in rows
    ]


def coverage(draw: Draw, n: int) -> float:
    drawn = draw(np.random.default_rng(100 + n), (INTERVALS, n))
    ends = [Differences(tuple(row), 1e-9).interval(0.025) for row in drawn]
    return float(np.mean([end is None or end[0] <= 0 <= end[1] for end in ends]))


def main() -> None:
    seeds = [f"{n} seeds" for n in SEEDS]
    for many in (1, 6):
        claims = [("greater", 1e-9)] * many
        rows = by_seeds(*((name, claims, draw, 0.0) for name, draw in DRAWS.items()))
        show(f"No effect, {_counted(many)}: studies that call any of them supported (at most 6 %)", rows, seeds)
    normal = DRAWS["normal"]
    effect = [(f"{_counted(many)}, all true", [("greater", 1.0)] * many, normal, 2.0) for many in (1, 3, 6)]
    effect.append(("1 claim, smallest effect exactly the true one", [("greater", 2.0)], normal, 2.0))
    show("An effect of 2 deviations: studies that call any claim supported", by_seeds(*effect), seeds)
    rows = by_seeds(("smallest effect 1 deviation", [("greater", 1.0)], normal, 1.0), verdict=NOT_SUPPORTED)
    show("The true effect is the smallest that matters: not supported", rows, seeds)
    borders = [
        (f"{expect}, at {sign:+d} x margin of {margin} deviations", [(expect, margin)], normal, sign * margin)
        for expect, sign in (("equal", 1), ("equal", -1), ("not_greater", 1), ("not_less", -1))
        for margin in (1.0, 4.0)
    ]
    show("The difference is exactly the margin: supported (at most 5 to 6 %)", by_seeds(*borders), seeds)
    counts = range(3, 11)
    rows = [(name, [percent(coverage(draw, n)) for n in counts]) for name, draw in DRAWS.items()]
    show("Intervals of 95 % that hold the mean (or are refused)", rows, [f"{n}" for n in counts])


if __name__ == "__main__":
    main()
