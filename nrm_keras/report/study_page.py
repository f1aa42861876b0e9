"""A study's `report.html`: its claims, its measurements and every cell, from its directory alone, without TensorFlow."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from nrm_keras.errors import PROGRAM, UserError
from nrm_keras.recipe.writing import flow
from nrm_keras.report import page, study_charts
from nrm_keras.report.tables import Table
from nrm_keras.report.verdict import duration, number
from nrm_keras.runs import directory
from nrm_keras.studies.outcome import DONE, LOG, Outcome
from nrm_keras.studies.store import NOT_JUDGED, STUDY, Store
from nrm_keras.studies.summary import expectation
from nrm_keras.studies.verdict import NOT_SUPPORTED, SUPPORTED, UNCLEAR, Judged

KINDS = {SUPPORTED: "for", NOT_SUPPORTED: "against", UNCLEAR: "unclear", NOT_JUDGED: "unclear"}
LOG_LINES = 30


@dataclass(frozen=True)
class Card:
    """A claim as it is shown."""

    judged: Judged
    kind: str
    facts: list[tuple[str, str]]
    pairs: Table | None


@dataclass(frozen=True)
class Row:
    """A cell as it is shown; `link` is the address of its report, beside this page."""

    name: str
    levels: list[str]
    seed: int
    status: str
    numbers: list[str]
    time: str
    link: str


def write(study_dir: Path) -> Path:
    """Writes `report.html` into a study's directory, at any time, also while cells are still trained.

    Returns:
        The page's path.

    Raises:
        UserError: this is no study's directory, or it cannot be written to.
    """
    store = Store(study_dir)
    return page.save(store.path / directory.REPORT, render(store))


def render(store: Store) -> str:
    """The page as text."""
    judged, results, study = store.judged(), store.results(), store.study
    notices: list[str] = []
    started = environments(store, results)
    content = {
        "study": study,
        "name": store.name,
        "first": judged[0],
        "statements": [one.claim.statement[:1].upper() + one.claim.statement[1:] for one in judged],
        "kinds": KINDS,
        "notices": notices,
        "tiles": _tiles(store, judged, results),
        "cards": [_card(store, one) for one in judged],
        "forests": study_charts.forests(study, judged),
        "family": _family(judged, study.confidence),
        "measurements": study_charts.measurements(study, store.values),
        "columns": [study_charts.title_of(*one) for one in study.measurements.items()],
        "factors": [factor.replace("_", " ") for factor in study.grid],
        "rows": _rows(store, results),
        "failed": [(one, _log(store, one)) for one in results.values() if one.status == "failed"],
        "command": shlex.join([*PROGRAM.split(), "study", store.name]),
        "made": _made(store, results, started),
        "yaml": (store.path / STUDY).read_text("utf-8").strip(),
    }
    notices += _notices(store, results)
    return page.fill("study.html", content)


def _notices(store: Store, results: dict[str, Outcome]) -> list[str]:
    statuses = Counter(outcome.status for outcome in results.values())
    left = len(store.cells) - sum(statuses[status] for status in (*DONE, "failed"))
    found = []
    if store.smoke:
        found.append("This was a smoke test: its numbers say nothing about the claims.")
    if left:
        found.append(f"{left} of {len(store.cells)} cells are not trained yet.")
    if statuses["failed"]:
        found.append(f"{statuses['failed']} of {len(store.cells)} cells failed; their logs are below.")
    if statuses["diverged"]:
        found.append(f"{statuses['diverged']} of {len(store.cells)} cells diverged: their loss was not finite.")
    return found


def _tiles(store: Store, judged: list[Judged], results: dict[str, Outcome]) -> list[tuple[str, str, str]]:
    done = [one for one in results.values() if one.status in DONE]
    verdicts = Counter(one.verdict for one in judged)
    seeds = store.study.seeds
    tiles = [
        ("claims", str(len(judged)), ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())),
        ("seeds", str(len(seeds)), ", ".join(map(str, seeds))),
        (
            "cells",
            f"{len(done)} of {len(store.cells)}",
            " x ".join(f"{len(one)} {name.replace('_', ' ')}" for name, one in store.study.grid.items()),
        ),
    ]
    if done:
        seconds = sum(one.seconds for one in results.values())
        tiles.append(("time", duration(seconds), f"{duration(seconds / len(results))} a cell"))
    return tiles


def _family(judged: list[Judged], confidence: float) -> str:
    """What the claims have in common."""
    alpha = number((1 - confidence) / 2)
    if len(judged) == 1:
        return f"A paired t test over seeds; p is one-sided and compared with {alpha}."
    return (
        f"Paired t tests over seeds. The {len(judged)} claims are corrected together by Holm: p is one-sided, adjusted, and compared "
        f"with {alpha}. An interval has the level of its claim's step, so that it agrees with the verdict."
    )


def _card(store: Store, judged: Judged) -> Card:
    claim = judged.claim
    unit = store.study.measurements[claim.measurement].unit
    facts = [("expected", expectation(claim)), ("smallest effect", _with_unit(claim.smallest_effect, unit))]
    if judged.chosen:
        on = ", ".join(map(str, claim.choose_on))
        facts.append(("chosen", f"{judged.chosen}, {claim.choose} on the seeds {on}"))
    if judged.interval or judged.verdict != NOT_JUDGED:
        facts += [
            ("means", f"{number(judged.compared)} against {number(judged.against)}"),
            ("difference", _with_unit(judged.difference, unit)),
            (f"{level_words(judged.level)} interval", interval_words(judged)),
            ("p (Holm)", number(judged.p_adjusted)),
            ("power", power_words(judged)),
        ]
    facts.append(("seeds that judge", ", ".join(map(str, judged.seeds)) or "none"))
    rows = [[str(seed), number(a), number(b), number(a - b)] for seed, a, b in judged.pairs]
    pairs = Table(["seed", "compare", "to", "difference"], rows) if rows else None
    return Card(judged, KINDS[judged.verdict], facts, pairs)


def level_words(level: float) -> str:
    return f"{100 * level:.4g} %"


def interval_words(judged: Judged) -> str:
    return f"{number(judged.interval[0])} to {number(judged.interval[1])}" if judged.interval else "none"


def power_words(judged: Judged) -> str:
    """The probability that the smallest effect is told from none, given the deviation that was seen."""
    return "unknown" if judged.power is None else f"{100 * judged.power:.0f} %"


def _with_unit(value: float, unit: str) -> str:
    return f"{number(value)} {unit}".strip()


def _rows(store: Store, results: dict[str, Outcome]) -> list[Row]:
    rows = []
    for cell in store.cells:
        outcome = results.get(cell.name)
        values = [store.value(name, cell.name) for name in store.study.measurements]
        link = f"{outcome.run}/{directory.REPORT}" if outcome and outcome.run else ""
        rows.append(
            Row(
                cell.name,
                list(cell.levels.values()),
                cell.seed,
                outcome.status if outcome else "not trained",
                ["" if value is None else number(value) for value in values],
                duration(outcome.seconds) if outcome else "",
                quote(link) if link and (store.path / link).is_file() else "",
            )
        )
    return rows


def _log(store: Store, outcome: Outcome) -> str:
    try:
        text = (store.folder(outcome.cell) / LOG).read_text("utf-8", errors="replace")
    except OSError:
        text = ""
    return "\n".join(text.splitlines()[-LOG_LINES:]) or outcome.error


def environments(store: Store, results: dict[str, Outcome]) -> list[dict]:
    """What each run says of what it ran on."""
    runs = [store.path / outcome.run for outcome in results.values() if outcome.run]
    found = []
    for run in runs:
        try:
            found.append(directory.environment(run))
        except UserError:  # damaged
            continue
    return found


def _made(store: Store, results: dict[str, Outcome], environments: list[dict]) -> list[tuple[str, str]]:
    """(name, words): what one needs to make it again. Cells that differ in something say all of it."""
    study, outcomes = store.study, list(results.values())
    grid = [(f"grid: {name}", ", ".join(levels)) for name, levels in study.grid.items()]

    def of(*path: str) -> str:
        return "; ".join(dict.fromkeys(words for one in environments if (words := _at(one, path))))

    return [
        (name, words)
        for name, words in [
            ("recipe", study.recipe),
            ("overrides", flow(study.overrides) if study.overrides else ""),
            *grid,
            ("seeds", ", ".join(map(str, study.seeds))),
            ("confidence", level_words(study.confidence)),
            ("executor", "; ".join(dict.fromkeys(one.executor for one in outcomes))),
            ("threads a cell", "; ".join(dict.fromkeys(str(one.threads) for one in outcomes if one.threads))),
            ("worker processes", str(len({one.process for one in outcomes})) if outcomes else ""),
            ("total time of cells", duration(sum(one.seconds for one in outcomes)) if outcomes else ""),
            ("machine", of("machine", "processor")),
            ("processors", of("machine", "processors")),
            ("commit", commits(environments)),
            *(
                (name, of("versions", name))
                for name in ("nrm_keras", "python", "tensorflow", "keras", "numpy", "scipy")
            ),
        ]
        if words
    ]


def commits(environments: list[dict]) -> str:
    """Of the code that cells were trained with."""
    found = [
        f"{commit[:10]}{' with uncommitted changes' if _at(one, ('git', 'dirty')) == 'True' else ''}"
        for one in environments
        if (commit := _at(one, ("git", "commit")))
    ]
    return "; ".join(dict.fromkeys(found))


def _at(content: dict, path: tuple[str, ...]) -> str:
    """What a file that may hold anything says there."""
    for name in path:
        content = content.get(name, "") if isinstance(content, dict) else ""
    return str(content)
