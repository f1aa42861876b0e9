"""What can be said of a study's cells before any is trained: what they measure, and whether they may be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nrm_keras.recipe.problems import shown
from nrm_keras.recipe.writing import ABSENT
from nrm_keras.studies import measurements
from nrm_keras.studies.grid import Combination
from nrm_keras.studies.schema import Claim, Study

FREE = (
    "batch_size",
    "evaluation_batch_size",
    "augment",
)  # of the data section, what cells that are compared may have different

Problem = tuple[str, str]


def broken(study: Study, combinations: Sequence[Combination]) -> list[Problem]:
    """Measurements that cells can't have, claims that compare cells with different data, cells for several devices."""
    found = _distributed(combinations)
    found += [problem for name in study.measurements for problem in _measurable(study, name, combinations)]
    for name, claim in study.claims.items():
        found += [(f"claims.{name}", message) for message in _mixed(study, claim, combinations)]
    return found


def _distributed(combinations: Sequence[Combination]) -> list[Problem]:
    strategies = {one.loaded.recipe.train.strategy: one for one in combinations}
    rule = "a cell is trained on one device, so that all executors give the same bits"
    return [
        ("recipe", f"{rule}. Received: train.strategy {shown(name)} in {one.name or 'it'}. Set train.strategy: none.")
        for name, one in strategies.items()
        if name != "none"
    ]


def _measurable(study: Study, name: str, combinations: Sequence[Combination]) -> Iterator[Problem]:
    """Every cell of a claim must have the measurement; without a claim, one of the grid's."""
    judged = [one for one in combinations if any(_uses(claim, name, one) for claim in study.claims.values())]
    where: dict[str, str] = {}  # it is met first
    faulty = 0
    for combination in judged or combinations:
        faults = measurements.check(study.measurements[name], combination.loaded.recipe, study.probes)
        faulty += bool(faults)
        for fault in faults:
            where.setdefault(fault, f" (in {combination.name})" if combination.name else "")
    if judged or faulty == len(combinations):
        yield from ((f"measurements.{name}", fault + place) for fault, place in where.items())


def _uses(claim: Claim, measurement: str, combination: Combination) -> bool:
    if claim.measurement == measurement and any(map(combination.matches, [claim.compare, *claim.others()])):
        return True
    return claim.other_measurement == measurement and combination.matches(claim.compare)


def _mixed(study: Study, claim: Claim, combinations: Sequence[Combination]) -> Iterator[str]:
    """Cells are paired level by level of the factors that neither side names; each group must have the same data."""
    for other in claim.others():
        open_factors = [factor for factor in study.grid if factor not in claim.compare and factor not in other]
        groups: dict[tuple[str, ...], list[Combination]] = {}
        for combination in combinations:
            if combination.matches(claim.compare) or combination.matches(other):
                groups.setdefault(tuple(combination.levels[factor] for factor in open_factors), []).append(combination)
        for first, *rest in groups.values():
            different = next((one for one in rest if _data(one) != _data(first)), None)
            if different is not None:
                yield _difference(first, different)
                return


def _data(combination: Combination) -> dict:
    values = combination.loaded.recipe.data.model_dump()
    return {key: value for key, value in values.items() if key not in FREE}


def _difference(a: Combination, b: Combination) -> str:
    left, right = _data(a), _data(b)
    keys = [key for key in {**left, **right} if left.get(key, ABSENT) != right.get(key, ABSENT)]
    key = "source" if "source" in keys else keys[0]
    return (
        f"cells that are compared have the same data, but for {', '.join(FREE)}. Received: data.{key}"
        f" {shown(left.get(key, ABSENT))} in {a.name} and {shown(right.get(key, ABSENT))} in {b.name}."
        " Compare cells with the same data, or name the level of that factor on both sides."
    )
