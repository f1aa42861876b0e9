"""Claims and what was measured -> verdicts, in words and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nrm_keras.report.verdict import number
from nrm_keras.studies import statistics
from nrm_keras.studies.pairs import Pairs, Values, mean, pair
from nrm_keras.studies.schema import Claim, Study
from nrm_keras.studies.statistics import Differences

SUPPORTED, NOT_SUPPORTED, UNCLEAR = "supported", "not supported", "no clear difference"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Judged:
    """What became of a claim.

    Args:
        name: of the claim.
        claim: itself.
        verdict: SUPPORTED, NOT_SUPPORTED or UNCLEAR.
        reason: one sentence with the numbers.
        difference: the mean over seeds of compare minus to; NaN where it cannot be told.
        interval: of the difference at `level`, which never contradicts the verdict; None where there is none.
        level: confidence of the interval: the study's, raised by Holm's correction where it has several claims.
        p: one-sided p value of the claim; the larger of two for `equal`.
        p_adjusted: by Holm, to be compared with (1 - confidence) / 2.
        power: probability that the claim's test finds an effect of the smallest size that matters, given the deviation
            that was seen (of `equal` and its like: that it finds no difference where there is none); None where unknown.
            Of an effect of just that size "supported" is half as likely at most, as the mean must reach it, too.
        n: how many seeds judge.
        seeds: which.
        compared: the mean of compare over these seeds.
        against: the mean of to.
        chosen: the level that was chosen as the best, if the claim chooses.
        pairs: (seed, compare, to) of each seed.
        deviation: the sample standard deviation of the paired differences; None where unknown.
    """

    name: str
    claim: Claim
    verdict: str
    reason: str
    difference: float
    interval: Interval | None
    level: float
    p: float
    p_adjusted: float
    power: float | None
    n: int
    seeds: tuple[int, ...]
    compared: float
    against: float
    chosen: str | None
    pairs: tuple[tuple[int, float, float], ...]
    deviation: float | None


def judge(study: Study, values: Values) -> list[Judged]:
    """The verdict of every claim, in their order.

    All claims of a study are one family: their one-sided p values are corrected by Holm, and the interval of a claim has
    the level at which its p value was tested, so that verdict and interval agree.

    Args:
        study: its claims, with the grid and the seeds that they refer to.
        values: what was measured; NaN where it is not finite. Cells that have not ended are not there.

    Example:

        >>> from nrm_keras.studies.schema import Study
        >>> study = Study.model_validate({
        ...     "title": "T", "claim": "a errs more than b", "source": "nobody", "recipe": "images/mnist_5k",
        ...     "grid": {"norm": {"a": {}, "b": {}}}, "seeds": (0, 1, 2), "measurements": {"error": {"metric": "test.loss"}},
        ...     "claims": {"worse": {"statement": "a errs more than b", "measurement": "error", "compare": {"norm": "a"},
        ...         "to": {"norm": "b"}, "expect": "greater", "smallest_effect": 0.1}}})
        >>> errors = {"a": (0.51, 0.53, 0.50), "b": (0.21, 0.20, 0.22)}
        >>> values = {("error", frozenset({("norm", norm)}), seed): errors[norm][seed] for norm in "ab" for seed in range(3)}
        >>> [found] = judge(study, values)
        >>> found.verdict, found.reason
        ('supported', 'The difference is 0.3033 (95 % interval 0.2408 to 0.3658): above 0, and on average at least 0.1.')
    """
    alpha = (1 - study.confidence) / 2
    found = [pair(study, claim, values) for claim in study.claims.values()]
    p_values = [_p(claim, pairs.differences) for claim, pairs in zip(study.claims.values(), found, strict=True)]
    steps = statistics.holm(p_values, alpha)
    return [
        _judged(name, claim, pairs, p, *step)
        for (name, claim), pairs, p, step in zip(study.claims.items(), found, p_values, steps, strict=True)
    ]


def _judged(name: str, claim: Claim, pairs: Pairs, p: float, p_adjusted: float, alpha: float) -> Judged:
    differences = pairs.differences
    interval = differences.interval(alpha) if differences else None
    level = 1 - 2 * alpha
    verdict, reason = (UNCLEAR, pairs.problem) if differences is None else _verdict(claim, differences, interval, level)
    return Judged(
        name=name,
        claim=claim,
        verdict=verdict,
        reason=reason,
        difference=differences.mean if differences else math.nan,
        interval=interval,
        level=level,
        p=p,
        p_adjusted=p_adjusted,
        power=_power(claim, differences, alpha),
        n=len(pairs.pairs),
        seeds=tuple(seed for seed, *_ in pairs.pairs),
        compared=mean(a for _, a, _ in pairs.pairs),
        against=mean(b for *_, b in pairs.pairs),
        chosen=pairs.chosen,
        pairs=pairs.pairs,
        deviation=differences.deviation if differences else None,
    )


def _tested(claim: Claim) -> Interval:
    """Where the difference lies if the claim's test rejects."""
    margin = claim.smallest_effect
    return {
        "greater": (0.0, math.inf),
        "less": (-math.inf, 0.0),
        "equal": (-margin, margin),
        "not_greater": (-math.inf, margin),
        "not_less": (-margin, math.inf),
    }[claim.expect]


def _claimed(claim: Claim) -> Interval:
    """Where the difference lies if the claim is true: one that matters, where a difference is claimed."""
    by_size = {"greater": (claim.smallest_effect, math.inf), "less": (-math.inf, -claim.smallest_effect)}
    return by_size.get(claim.expect) or _tested(claim)


def _p(claim: Claim, differences: Differences | None) -> float:
    if differences is None:
        return 1.0
    low, high = _tested(claim)
    sides = [
        *([differences.p_above(low)] if math.isfinite(low) else []),
        *([differences.p_below(high)] if math.isfinite(high) else []),
    ]
    return max(sides)


def _power(claim: Claim, differences: Differences | None, alpha: float) -> float | None:
    if differences is None or not differences.deviation:
        return None
    power = statistics.power_of_equality if claim.expect == "equal" else statistics.power_of_direction
    return power(claim.smallest_effect, differences.deviation, differences.n, alpha)


def _verdict(claim: Claim, differences: Differences, interval: Interval | None, level: float) -> tuple[str, str]:
    average = differences.mean
    if interval is None:
        why = (
            "one seed has no interval"
            if differences.n == 1
            else f"{differences.n} seeds with the same difference say too little of how much it varies: it takes {_fewest_alike(level)}"
        )
        return UNCLEAR, f"The difference is {number(average)}, and {why}."
    low, high = interval
    shown = f"The difference is {number(average)} ({100 * level:.4g} % interval {number(low)} to {number(high)})"
    tested, claimed = _tested(claim), _claimed(claim)
    if high < claimed[0] or low > claimed[1]:
        return NOT_SUPPORTED, f"{shown}: {_against(claim, interval)}."
    clear = tested[0] < low and high < tested[1]
    if clear and claimed[0] <= average <= claimed[1]:
        return SUPPORTED, f"{shown}: {_for(claim)}."
    return UNCLEAR, f"{shown}: {_between(claim, clear)}."


def _fewest_alike(level: float) -> int:
    """How many seeds with the same difference an interval takes, see `Differences`."""
    return math.ceil(-math.log2((1 - level) / 2))


def _for(claim: Claim) -> str:
    margin = number(claim.smallest_effect)
    return {
        "greater": f"above 0, and on average at least {margin}",
        "less": f"below 0, and on average by at least {margin}",
        "equal": f"within {margin} of 0",
        "not_greater": f"below {margin}",
        "not_less": f"above -{margin}",
    }[claim.expect]


def _against(claim: Claim, interval: Interval) -> str:
    margin = number(claim.smallest_effect)
    other_way = interval[1] < 0 if claim.expect == "greater" else interval[0] > 0
    if claim.expect in ("greater", "less") and other_way:
        return "it goes the other way"
    return {
        "greater": f"an effect as large as {margin} is excluded",
        "less": f"an effect as large as -{margin} is excluded",
        "equal": f"more than {margin} from 0",
        "not_greater": f"above {margin}",
        "not_less": f"below -{margin}",
    }[claim.expect]


def _between(claim: Claim, clear: bool) -> str:
    margin = number(claim.smallest_effect)
    if clear:
        return f"on the claimed side of 0, but on average smaller than {margin}, which is possible too"
    if claim.expect in ("greater", "less"):
        return f"no difference and one of {'-' if claim.expect == 'less' else ''}{margin} are both possible"
    beyond = {"equal": f"more than {margin} from 0", "not_greater": f"above {margin}", "not_less": f"below -{margin}"}
    return f"it may be {beyond[claim.expect]} or not"
