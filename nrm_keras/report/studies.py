"""The table of studies in `RESULTS.md`: what became of each claim, a row each, from the studies' directories alone."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from nrm_keras.errors import UserError
from nrm_keras.report.reading import read_run
from nrm_keras.report.study_page import commits, environments, power_words
from nrm_keras.report.verdict import duration, number
from nrm_keras.studies.outcome import DONE, Outcome
from nrm_keras.studies.store import SUMMARY, Store
from nrm_keras.studies.verdict import Judged

COLUMNS = (
    *("study", "claim", "data", "seeds", "difference", "verdict", "p (Holm)", "smallest effect", "power for it"),
    *("cells", "time", "commit"),
)
DAMAGED, SMOKE = "damaged study", "smoke test of a study"
ABOUT = (
    "A row is a claim; the first of a study is the one that the study is about. The difference is the mean of the paired differences "
    "over the seeds that judge, with its interval at the level of the claim's step in Holm's correction. p is one-sided, adjusted for "
    "the study's claims, and compared with half of 1 - confidence, 0.025 unless a study says otherwise. Power is the probability to "
    "tell the smallest effect from none, given the deviation that was seen. Time is that of all cells together."
)


def find_all(roots: Iterable[Path]) -> list[Path]:
    """Every study's directory below `roots`, or itself one of them, in the order of their names."""
    found = {path.resolve(): path for root in roots for path in _below(root)}
    return sorted(found.values(), key=lambda path: (path.name, str(path)))


def _below(root: Path) -> Iterator[Path]:
    for folder, inner, files in os.walk(root):
        inner[:] = [] if SUMMARY in files else [name for name in inner if not name.startswith(".")]
        if SUMMARY in files:
            yield Path(folder)


def rows(paths: Iterable[Path]) -> tuple[list[tuple[str, ...]], Counter]:
    """A row for each claim, and how many studies were left out and why."""
    found: list[tuple[str, ...]] = []
    left_out: Counter = Counter()
    for path in paths:
        try:
            store = Store(path)
        except UserError:
            left_out[DAMAGED] += 1
            continue
        if store.smoke:
            left_out[SMOKE] += 1
            continue
        found += _rows(store)
    return found, left_out


def _rows(store: Store) -> list[tuple[str, ...]]:
    results = store.results()
    started = environments(store, results)
    done = sum(one.status in DONE for one in results.values())
    failed = sum(one.status == "failed" for one in results.values())
    cells = f"{done} of {len(store.cells)}{f' ({failed} failed)' if failed else ''}"
    seconds = sum(one.seconds for one in results.values())
    common = cells, duration(seconds), commits(started) or "not recorded"
    data = _data(store, results)
    return [(store.name, *_claim(store, one, data), *common) for one in store.judged()]


def _data(store: Store, results: dict[str, Outcome]) -> str:
    """The sources that cells were trained on, each once."""
    runs = [read_run(store.path / one.run, inside=False) for one in results.values() if one.run]
    sources = [data.get("source") for run in runs if isinstance(data := run.planned.get("data"), dict)]
    return ", ".join(dict.fromkeys(str(source) for source in sources if source)) or "not recorded"


def _claim(store: Store, judged: Judged, data: str) -> tuple[str, ...]:
    unit = store.study.measurements[judged.claim.measurement].unit
    chosen = f" (chosen: {judged.chosen})" if judged.chosen else ""
    return (
        f"{judged.claim.statement}{chosen}",
        data,
        ", ".join(map(str, judged.seeds)) or "none",
        _difference(judged, unit),
        judged.verdict,
        number(judged.p_adjusted) if judged.interval else "none",
        f"{number(judged.claim.smallest_effect)} {unit}".strip(),
        power_words(judged),
    )


def _difference(judged: Judged, unit: str) -> str:
    if math.isnan(judged.difference):
        return "none"
    interval = f" [{number(judged.interval[0])}, {number(judged.interval[1])}]" if judged.interval else ""
    return f"{number(judged.difference)}{interval} {unit}".strip()
