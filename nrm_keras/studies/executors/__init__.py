"""Executors train the cells of a study in several workers. Which one did it can't be seen in the results."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Protocol

from nrm_keras.studies.outcome import Job, Outcome, dead

OnEvent = Callable[[tuple[str, str | Outcome]], None]
POLL = 0.2  # seconds
GO_ON = ".workers-go-on-while-this-is-here-"
CELLS_PER_WORKER = 50  # in case that a library keeps something of each


class Slot(Protocol):
    """A place for one worker, and for the next one when that dies."""

    executor: str
    process: int  # the worker's id

    def submit(self, job: Job) -> Future[Outcome]:
        """Begins to train a cell."""

    def replace(self) -> str:
        """Puts a new worker in the place of this one, dead or alive; how it ended, where that can be told."""

    def close(self, kill: bool) -> None:
        """Ends the worker, in the middle of its cell if it must be."""


@contextlib.contextmanager
def go_on_file(study_dir: str) -> Iterator[Path]:
    """A file in the study's directory that workers see as long as they shall go on; those of main processes before go."""
    for old in Path(study_dir).glob(f"{GO_ON}*"):
        old.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(dir=study_dir, prefix=GO_ON)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def train_all(
    jobs: Sequence[Job],
    workers: int,
    new_slot: Callable[[], Slot],
    go_on: Path,
    on_event: OnEvent,
    cells_per_worker: int,
) -> None:
    """Gives the jobs in their order to workers that have nothing to do.

    SIGINT or SIGTERM stops: every worker saves its checkpoint. A second one, or an exception, kills the workers.

    Args:
        jobs: of one study.
        workers: how many at most.
        new_slot: starts one.
        go_on: see `go_on_file`.
        on_event: told `("started", cell)` and `("ended", outcome)`.
        cells_per_worker: how many cells a worker trains, before a new one takes its place.

    Raises:
        KeyboardInterrupt: stopped by a signal.
    """
    waiting, slots, free = deque(jobs), [], []
    running: dict[Future, tuple[Slot, Job, float]] = {}
    trained: Counter[Slot] = Counter()
    kill = True
    try:
        with _signals() as signals:
            while running or (waiting and not signals):
                while waiting and (free or len(slots) < workers) and not signals:
                    if not free:
                        slots.append(new_slot())
                        free.append(slots[-1])
                    slot, job = free.pop(), waiting.popleft()
                    if trained[slot] == cells_per_worker:
                        slot.replace()
                        trained[slot] = 0
                    trained[slot] += 1
                    on_event(("started", job.cell))
                    running[slot.submit(job)] = slot, job, time.monotonic()
                done, _ = wait(running, POLL, FIRST_COMPLETED)
                for future in done:
                    slot, job, began = running.pop(future)
                    on_event(("ended", _outcome(future, slot, job, began)))
                    free.append(slot)
                if signals:
                    go_on.unlink(missing_ok=True)
                if len(signals) > 1:
                    raise KeyboardInterrupt
            kill = False
            if signals:
                raise KeyboardInterrupt
    finally:
        for slot in slots:
            slot.close(kill)


def _outcome(future: Future[Outcome], slot: Slot, job: Job, began: float) -> Outcome:
    process = slot.process
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - each executor has its own for a worker that died
        how = slot.replace() or f"{type(error).__name__}: {error}"
        return dead(job, slot.executor, process, time.monotonic() - began, how)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that came since; outside the main thread, which alone may handle them, there are none."""
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {
        number: signal.signal(number, lambda number, frame: signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
