"""Plans and results of studies as tables and sentences for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nrm_keras.recipe.writing import flow
from nrm_keras.report.verdict import duration, number
from nrm_keras.studies.planning import Plan
from nrm_keras.studies.progress import failure
from nrm_keras.studies.schema import Claim

if TYPE_CHECKING:  # launching writes the page, and the page says what is expected as here
    from nrm_keras.studies.launch import Result


@dataclass(frozen=True)
class Part:
    """A heading with sentences and a table."""

    title: str
    head: tuple[str, ...] = ()
    rows: Sequence[Sequence[str]] = ()
    sentences: Sequence[str] = ()


# Before ---------------------------------------------------------------------------------------------------------------


def of_plan(plan: Plan) -> list[Part]:
    """What --dry-run prints."""
    study = plan.loaded.study
    about = [f"{study.title}: {study.claim}", f"Source: {study.source}", f"Directory: {plan.path}"]
    claims = [(name, *_claim_row(plan, name, claim)) for name, claim in study.claims.items()]
    head = ("claim", "expected", "smallest effect", "seeds", "detectable")
    statements = [f"{name}: {claim.statement}" for name, claim in study.claims.items()]
    note = (
        "Detectable: the difference that so many seeds tell from none in 80 % of such studies (of equal: the margin that they"
        " need), in standard deviations (sd) of the paired difference."
    )
    grid = [(factor, str(len(levels)), " ".join(levels)) for factor, levels in study.grid.items()]
    seeds = " ".join(map(str, study.seeds))
    return [
        Part("", sentences=about),
        Part("Claims", head, claims, sentences=statements),
        Part("", sentences=[note]),
        Part("Grid", ("factor", "levels", "names"), [*grid, ("seeds", str(len(study.seeds)), seeds)]),
        Part("Cells", sentences=_cost(plan)),
    ]


def _claim_row(plan: Plan, name: str, claim: Claim) -> tuple[str, ...]:
    seeds, effect = plan.detectable(name)
    unit = plan.loaded.study.measurements[claim.measurement].unit
    margin = f"{number(claim.smallest_effect)} {unit}".strip()
    return expectation(claim), margin, str(seeds), f"{number(effect)} sd" if math.isfinite(effect) else "nothing"


def expectation(claim: Claim) -> str:
    """Such as `error of {norm: batch} greater than that of {norm: group}`."""
    where = f" of {flow(claim.compare)}" if claim.compare else ""
    if claim.other_measurement:
        target = claim.other_measurement
    elif claim.selects:
        target = f"that of {flow(claim.to)}" + (f" ({claim.choose})" if claim.choose else "")
    else:
        target = number(float(claim.to))
    words = {"greater": "greater than", "less": "less than", "equal": "equal to"}
    words |= {"not_greater": "not greater than", "not_less": "not less than"}
    return f"{claim.measurement}{where} {words[claim.expect]} {target}"


def _cost(plan: Plan) -> list[str]:
    study = plan.loaded.study
    all_cells = len(plan.loaded.combinations) * len(study.seeds)
    product = " x ".join([*(str(len(levels)) for levels in study.grid.values()), f"{len(study.seeds)} seeds"])
    asked = f"; {len(plan.cells)} are asked for" if len(plan.cells) < all_cells else ""
    lines = [f"{product} = {all_cells} cells{asked}; {len(plan.done)} are done, {len(plan.left)} are left."]
    if plan.smoke:
        return [*lines, "A smoke run trains two steps of each and gives no verdict."]
    if not plan.left:
        return lines
    if plan.seconds is None:
        return [*lines, "Their cost is unknown until the first cell is done: the study has no seconds_per_cell."]
    source = "as the finished cells took" if plan.measured else "as the study says"
    workers = f"{plan.workers} worker{'s' if plan.workers > 1 else ''}"
    each = f"{duration(plan.seconds_per_cell)} a cell, {source}"
    return [*lines, f"Estimated: {duration(plan.seconds)} with {workers} ({each})."]


# After ----------------------------------------------------------------------------------------------------------------


def of_result(result: Result) -> list[Part]:
    """The claims with their verdicts, and cells that failed."""
    parts = [_of_smoke(result) if result.smoke else _of_claims(result)]
    if result.failed:
        failed = [f"{one.cell}: {failure(result.path, one)}" for one in result.failed]
        parts.append(Part("Failed cells", sentences=[*failed, "The same command trains them again."]))
    return parts


def _of_claims(result: Result) -> Part:
    head = ("claim", "verdict", "difference", "interval", "seeds")
    rows = [(one.name, one.verdict, _number(one.difference), _interval(one), str(one.n)) for one in result.judged]
    sentences = [f"{one.name}: {one.claim.statement}. {one.reason}" for one in result.judged]
    if len(result.codes) > 1:
        states = ", ".join(f"{code} ({count})" for code, count in result.codes.items())
        sentences.append(f"Notice: cells were trained with different states of this package's code: {states}.")
    return Part("Claims", head, rows, sentences)


def _of_smoke(result: Result) -> Part:
    works = "some cells failed" if result.failed else "every cell works"
    # two steps have no third epoch, so that this is no failure yet
    missing = [f"Not measured after two steps: {problem}" for problem in result.problems]
    return Part("Smoke", sentences=[f"No verdict: {works}.", *missing])


def _number(value: float) -> str:
    return number(value) if math.isfinite(value) else ""


def _interval(judged) -> str:
    if judged.interval is None:
        return ""
    low, high = judged.interval
    return f"[{number(low)}, {number(high)}] at {100 * judged.level:.4g} %"
