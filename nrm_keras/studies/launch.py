"""Runs a study: trains the cells that are not done, and says what becomes of its claims."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nrm_keras.errors import PROGRAM
from nrm_keras.report import study_page
from nrm_keras.runs import directory
from nrm_keras.studies import planning
from nrm_keras.studies.executors import local
from nrm_keras.studies.outcome import CELLS, Job, Outcome
from nrm_keras.studies.planning import Plan
from nrm_keras.studies.progress import Progress
from nrm_keras.studies.store import Store
from nrm_keras.studies.verdict import Judged

HERE = "here"  # a Ray cluster on this machine, for the time of the study


@dataclass(frozen=True)
class Result:
    """What a study came to.

    Args:
        path: its directory.
        judged: its claims, in their order.
        failed: cells that could not be trained.
        problems: measurements that cells which are done don't have.
        codes: how many cells were trained with each state of this package's code.
        smoke: whether it was a smoke run.
        report: the page.
    """

    path: Path
    judged: tuple[Judged, ...]
    failed: tuple[Outcome, ...]
    problems: tuple[str, ...]
    codes: dict[str, int]
    smoke: bool
    report: Path


def study(
    name: str | Path,
    *,
    seeds: Sequence[int] | None = None,
    cells: str | None = None,
    smoke: bool = False,
    out: str | Path = "studies",
    ray: str | None = None,
    workers: int | None = None,
    allow_imports: bool = False,
    say: Callable[[str], None] = print,
) -> Result:
    """Trains every cell of a study that is not done, and judges its claims.

    Args:
        name: of a shipped study, or a path.
        seeds: in place of the study's.
        cells: a pattern of cells' names; only these are trained, and only claims that have all their values are judged.
        smoke: two steps of every cell, in a directory of its own, and no verdict: does everything work?
        out: where the study's directory is made.
        ray: the address of a Ray cluster, or `HERE`; None: processes of this machine.
        workers: how many cells are trained at a time; None: as many as this machine has processors and memory for.
        allow_imports: whether recipes that are not shipped may import the modules they list.
        say: prints one line.

    Raises:
        UserError: the study, its data or its directory are not in order. Nothing was trained.
        KeyboardInterrupt: stopped; the same call goes on.

    Example:

        >>> from nrm_keras.studies.launch import study
        >>> result = study("first_epoch", seeds=(0, 1))  # doctest: +SKIP
        >>> [(one.name, one.verdict) for one in result.judged]  # doctest: +SKIP
    """
    plan = planning.plan(
        str(name),
        workers=workers or local.workers_that_fit(),
        seeds=seeds,
        cells=cells,
        smoke=smoke,
        out=out,
        allow_imports=allow_imports,
    )
    plan.path.mkdir(parents=True, exist_ok=True)
    with directory.lock(plan.path):
        if smoke:  # whether everything works now, not some time ago
            shutil.rmtree(plan.path / CELLS, ignore_errors=True)
        store = Store.create(plan.path, plan.loaded.name, plan.loaded.study, smoke)
        progress = Progress(plan, store, say)
        say(f"Study directory: {plan.path}")
        say(_beginning(plan))
        try:
            _run(plan, ray, allow_imports, progress)
        except KeyboardInterrupt:
            store.write()
            study_page.write(plan.path)
            say(_stopped(plan, store, name, seeds, cells, out, ray, workers, allow_imports))
            raise
        judged = store.write()
        report = study_page.write(plan.path)
        return Result(plan.path, tuple(judged), tuple(progress.failed), store.problems, store.codes, smoke, report)


def _run(plan: Plan, ray: str | None, allow_imports: bool, progress: Progress) -> None:
    probes = {name: probe.model_dump() for name, probe in plan.loaded.study.probes.items()}
    jobs = [
        Job(str(plan.path), cell.name, cell.recipe, cell.overrides, probes, plan.smoke, allow_imports)
        for cell in plan.left
    ]
    if ray is None:
        local.run(jobs, plan.workers, progress)
    else:
        from nrm_keras.studies.executors import cluster

        cluster.run(jobs, None if ray == HERE else ray, plan.workers, progress)


def _beginning(plan: Plan) -> str:
    left, done = len(plan.left), len(plan.done)
    known = f"{done} of {len(plan.cells)} cells are done already" if done else ""
    if not left:
        return known
    known += "; " if known else ""
    return f"{known}{left} to train, {min(plan.workers, left)} at a time, with one thread each"


def _stopped(plan: Plan, store: Store, name, seeds, cells, out, ray, workers, allow_imports: bool) -> str:
    done = sum(store.done(cell.name) for cell in plan.cells)
    words = [
        *PROGRAM.split(),
        "study",
        str(name),
        *(["--seeds", ",".join(map(str, seeds))] if seeds is not None else []),
        *(["--cells", cells] if cells is not None else []),
        *(["--smoke"] if plan.smoke else []),
        *(["--out", str(out)] if str(out) != "studies" else []),
        *(["--ray", *([ray] if ray != HERE else [])] if ray is not None else []),
        *(["--workers", str(workers)] if workers is not None else []),
        *(["--allow-imports"] if allow_imports else []),
    ]
    return (
        f"Stopped. {done} of {len(plan.cells)} cells are done, and nothing is lost; this goes on: {shlex.join(words)}"
    )
