"""What a claim compares, seed by seed, from the numbers of all cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from nrm_keras.studies import statistics
from nrm_keras.studies.schema import Claim, Selection, Study
from nrm_keras.studies.statistics import Differences

# levels of all factors
Cell = frozenset[tuple[str, str]]
# by measurement, cell and seed
Values = Mapping[tuple[str, Cell, int], float]


@dataclass(frozen=True)
class Pairs:
    """Both sides of a claim, seed by seed; `problem` says why they cannot be judged."""

    pairs: tuple[tuple[int, float, float], ...] = ()
    chosen: str | None = None
    problem: str = ""

    @property
    def differences(self) -> Differences | None:
        """None where there is nothing that a test could be made of."""
        if self.problem or not self.pairs:
            return None
        largest = max(abs(value) for _, *both in self.pairs for value in both)
        return Differences(tuple(a - b for _, a, b in self.pairs), statistics.ROUNDING * largest)


class _Incomplete(Exception):
    """A claim lacks a value."""


def pair(study: Study, claim: Claim, values: Values) -> Pairs:
    """Both sides of a claim with every seed that judges; levels that the claim leaves out are averaged."""
    try:
        judges = tuple(seed for seed in study.seeds if seed not in claim.choose_on)
        target, chosen = _target(study, claim, values)
        here = selected(study, claim.compare)
        there = [] if isinstance(target, float) else selected(study, target)
        other = claim.other_measurement or claim.measurement
        present = [
            seed for seed in judges if _any(values, claim.measurement, here, seed) or _any(values, other, there, seed)
        ]
        pairs = tuple(
            (
                seed,
                _value(values, claim.measurement, here, seed),
                target if isinstance(target, float) else _value(values, other, there, seed),
            )
            for seed in present
        )
    except _Incomplete as problem:
        return Pairs(problem=f"It cannot be judged: {problem}.")
    if not pairs:
        return Pairs(chosen=chosen, problem="It cannot be judged: none of the seeds that judge has ended.")
    lost = [seed for seed, a, b in pairs if not (math.isfinite(a) and math.isfinite(b))]
    if lost:
        return Pairs(pairs, chosen, f"It cannot be judged: the measurement is not finite with {_seeds(lost)}.")
    return Pairs(pairs, chosen)


def selected(study: Study, selection: Selection) -> list[Cell]:
    """The levels of every cell, but for seeds, that a selection names; all levels of factors that it leaves out."""
    choices = [
        [(factor, selection[factor])] if factor in selection else [(factor, level) for level in levels]
        for factor, levels in study.grid.items()
    ]
    return [frozenset(cell) for cell in product(*choices)]


def mean(values: Iterable[float]) -> float:
    """NaN where one of the values is not finite, or without any."""
    values = list(values)
    return fmean(values) if values and all(map(math.isfinite, values)) else math.nan


def _target(study: Study, claim: Claim, values: Values) -> tuple[float | Selection, str | None]:
    """What is compared with: a number, or cells; and the level that was chosen for it."""
    if not isinstance(claim.to, dict):
        return float(claim.to), None
    if not claim.selects:
        return claim.compare, None
    candidates = claim.others()
    if claim.choice is None:
        return candidates[0], None
    seeds = [seed for seed in study.seeds if seed in claim.choose_on]
    means = [
        mean(_value(values, claim.measurement, selected(study, one), seed) for seed in seeds) for one in candidates
    ]
    # one that diverged is not the best
    finite = [(mean, index) for index, mean in enumerate(means) if math.isfinite(mean)]
    if not finite:
        raise _Incomplete(f"no level of {claim.choice} is finite on {_seeds(seeds)}, which choose")
    best = min(finite)[1] if claim.choose == "lowest" else max(finite, key=lambda one: (one[0], -one[1]))[1]
    return candidates[best], candidates[best][claim.choice]


def _any(values: Values, measurement: str, cells: Iterable[Cell], seed: int) -> bool:
    return any((measurement, cell, seed) in values for cell in cells)


def _value(values: Values, measurement: str, cells: Sequence[Cell], seed: int) -> float:
    """The mean over cells, each of which must be there: what is left out would move it."""
    missing = [cell for cell in cells if (measurement, cell, seed) not in values]
    if missing:
        names = ",".join(f"{factor}={level}" for factor, level in sorted(missing[0]))
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise _Incomplete(f"with seed {seed} there is no {measurement} of {names or 'the cell'}{more}")
    return mean(values[measurement, cell, seed] for cell in cells)


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
