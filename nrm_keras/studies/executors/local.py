"""Workers are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil

from nrm_keras.errors import UserError
from nrm_keras.studies import worker
from nrm_keras.studies.executors import CELLS_PER_WORKER, OnEvent, go_on_file, train_all
from nrm_keras.studies.outcome import Job, Outcome


def run(jobs: Sequence[Job], workers: int, on_event: OnEvent, cells_per_worker: int = CELLS_PER_WORKER) -> None:
    """Trains the cells in processes that live until the last one is done.

    Args:
        jobs: of one study.
        workers: how many processes; see `workers_that_fit`.
        on_event: told `("started", cell)` and `("ended", outcome)`.
        cells_per_worker: see `train_all`.

    Raises:
        KeyboardInterrupt: stopped; every worker has written its checkpoint.
    """
    if not jobs:
        return
    with go_on_file(jobs[0].study_dir) as go_on:
        train_all(jobs, workers, lambda: Process(go_on), go_on, on_event, cells_per_worker)


def workers_that_fit(per_worker_gib: float = 1.5) -> int:
    """How many workers this machine has processors and free memory for; one at least."""
    processors = len(psutil.Process().cpu_affinity()) if psutil.LINUX else os.cpu_count() or 1
    return max(1, min(processors, int(psutil.virtual_memory().available / 2**30 / per_worker_gib)))


class Process:
    """One worker process: a pool of one, so that nobody else's death is its own."""

    executor = "local"

    def __init__(self, go_on: Path):
        self._go_on = go_on
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would take over a TensorFlow that is in use
        self._pool = ProcessPoolExecutor(1, context, initializer=worker.start, initargs=(self._go_on,))
        try:
            self.process = self._pool.submit(os.getpid).result()
        except BrokenProcessPool as error:
            raise UserError(
                "A worker is a new Python process that imports the main script, which must not start a study by that."
                " Received: a worker that died at its start, see above. Put the call under `if __name__ == '__main__':`."
            ) from error
        self._handle = next(child for child in multiprocessing.active_children() if child.pid == self.process)

    def submit(self, job: Job) -> Future[Outcome]:
        return self._pool.submit(worker.run_cell, job)

    def replace(self) -> str:
        self._pool.shutdown()
        code = self._handle.exitcode
        self._start()
        if code is None or code >= 0:
            return f"exit status {code}"
        name = signal.Signals(-code).name
        reason = ", by hand or by a system that is short of memory" if name == "SIGKILL" else ""
        return f"it was ended by {name}{reason}"

    def close(self, kill: bool) -> None:
        if kill:
            self._handle.kill()
        self._pool.shutdown()
