"""Workers are actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

from nrm_keras.errors import UserError
from nrm_keras.studies import worker
from nrm_keras.studies.executors import CELLS_PER_WORKER, OnEvent, go_on_file, remains, train_all
from nrm_keras.studies.outcome import Job, Outcome

START_SECONDS, REACH_SECONDS = 120, 10


def run(
    jobs: Sequence[Job],
    address: str | None,
    workers: int,
    on_event: OnEvent,
    cells_per_worker: int = CELLS_PER_WORKER,
) -> None:
    """Trains the cells in actors of a Ray cluster, one processor each.

    Args:
        jobs: of one study, whose directory every machine of the cluster sees under the same path.
        address: of a cluster, as `ray.init` takes it; None starts one on this machine, and ends it behind the last cell.
        workers: how many actors.
        on_event: told `("started", cell)` and `("ended", outcome)`.
        cells_per_worker: see `train_all`.

    Raises:
        UserError: Ray is not installed, the cluster can't be reached or has no free processors, or its machines don't see the
            study's directory.
        KeyboardInterrupt: stopped; every worker has written its checkpoint.
    """
    if not jobs:
        return
    workers = min(workers, len(jobs))
    with _cluster(address, workers) as ray, go_on_file(jobs[0].study_dir) as go_on:
        train_all(jobs, workers, lambda: Actor(ray, go_on), go_on, on_event, cells_per_worker)


@contextlib.contextmanager
def _cluster(address: str | None, workers: int) -> Iterator:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send them to Ray's makers
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"--ray needs Ray. Received: {error}. Install it: pip install 'nrm_keras[ray]'; or leave --ray out."
        ) from error
    if ray.is_initialized():
        raise UserError(
            "--ray connects this process to a cluster. Received: one that is connected. Call ray.shutdown()."
        )
    with contextlib.ExitStack() as stack:
        if address:
            where = {"address": address}
        else:
            own = {"num_cpus": workers, "include_dashboard": False, "_temp_dir": stack.enter_context(_folder())}
            where = {"address": "local", **own}
        stack.callback(ray.shutdown)
        _connect(ray, address, where)
        yield ray


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A temporary folder for a cluster; when this process ends, also by SIGKILL, both end with it.

    Ray itself leaves its logs behind, and some of its processes live for minutes after one that was killed.
    """
    folder = tempfile.mkdtemp(prefix="ray-")
    # a session of its own, so that a terminal's Ctrl-C spares it
    watch = subprocess.Popen([sys.executable, remains.__file__, folder], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield folder
    finally:
        watch.communicate()


def _connect(ray, address: str | None, where: dict) -> None:
    try:
        if address:
            _reach(address)
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(
            f"--ray takes the address of a running cluster, such as auto or HOST:6379. Received: {address}: {str(error).rstrip('.')}."
            " `ray status` tells whether one runs. One that `ray start` gave a token wants RAY_AUTH_MODE=token"
            " in the environment. --ray without an address starts one here."
        ) from error


def _reach(address: str) -> None:
    """Raises if nothing listens at HOST:PORT; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()


class Actor:
    """One worker on the cluster."""

    executor = "ray"

    def __init__(self, ray, go_on: Path):
        self._ray = ray
        self._go_on = go_on
        self._start()

    def _start(self) -> None:
        kind = self._ray.remote(num_cpus=1, runtime_env={"env_vars": worker.ENVIRONMENT})(Remote)
        self._actor = kind.remote()
        errors = self._ray.exceptions
        try:
            self.process, sees = self._ray.get(self._actor.start.remote(str(self._go_on)), timeout=START_SECONDS)
        except errors.GetTimeoutError as error:
            raise UserError(
                f"A worker needs a free processor of the Ray cluster. Received: none in {START_SECONDS} s. `ray status`"
                " shows what is taken; choose fewer with --workers."
            ) from error
        except errors.RayError as error:
            raise UserError(
                "Every machine of the Ray cluster needs nrm_keras and what it depends on, in the same versions."
                f" Received: {error}"
            ) from error
        if not sees and self._go_on.exists():
            raise UserError(
                f"Every machine of the Ray cluster must see the study's directory. Received: {self._go_on.parent}, which"
                " a worker does not see. Choose a directory of a shared file system with --out."
            )

    def submit(self, job: Job) -> Future[Outcome]:
        return self._actor.run_cell.remote(job).future()

    def replace(self) -> str:
        self.close(kill=True)
        self._start()
        return ""

    def close(self, kill: bool) -> None:
        self._ray.kill(self._actor)


class Remote:
    """What runs on the cluster."""

    def start(self, go_on: str) -> tuple[int, bool]:
        """Prepares the process, if it sees the file; its id, and whether it does."""
        sees = Path(go_on).exists()
        if sees:
            worker.start(Path(go_on))
        return os.getpid(), sees

    def run_cell(self, job: Job) -> Outcome:
        return worker.run_cell(job, "ray")
