"""Runs the `monitor` signature on samples of what the server answers, beside the answers' path.

A sample holds up to 64 rows of one shape, gathered over several calls, or what came within a minute. A check is followed by a pause
nine times as long, so the monitor takes a tenth of a thread's time at most; rows that arrive meanwhile are not sampled.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nrm_keras.errors import UserError
from nrm_keras.serving.server.served_model import Arrays, ServedModel, Signature

MONITOR = "monitor"
OUTPUTS = ("score", "p_value")
SAMPLE, PATIENCE, PAUSE = 64, 60.0, 9


def monitor_of(model: ServedModel) -> Signature:
    """The model's `monitor` signature; raises a UserError where it has none."""
    monitor = model.signatures.get(MONITOR)
    if monitor is None or not set(OUTPUTS) <= monitor.outputs.keys():
        raise UserError(
            f"--monitor needs a model with the signature {MONITOR!r}, which gives {' and '.join(OUTPUTS)}. "
            f"Received: {sorted(model.signatures)}. Export the run again with the monitor, or serve without --monitor."
        )
    return monitor


class DriftWatch:
    """Gathers samples and has them judged; `report` is told each answer and the number of rows."""

    def __init__(self, monitor: Signature, report: Callable[[Mapping[str, np.ndarray], int], None], **timing: float):
        self._monitor = monitor
        self._report = report
        self._patience = timing.get("patience", PATIENCE)
        self._sample: list[Arrays] = []
        self._rows = 0
        self._open = True
        self._more = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "monitor")
        self._task = asyncio.create_task(self._work())

    def offer(self, arrays: Arrays) -> None:
        """Takes a call's inputs into the sample, where they fit and one is wanted."""
        if not self._open or arrays.keys() != self._monitor.inputs.keys():
            return
        if self._sample and any(array.shape[1:] != self._sample[0][name].shape[1:] for name, array in arrays.items()):
            return
        wanted = SAMPLE - self._rows
        self._sample.append({name: array[:wanted] for name, array in arrays.items()})
        self._rows += len(next(iter(self._sample[-1].values())))
        self._open = self._rows < SAMPLE
        self._more.set()

    async def close(self) -> None:
        """Ends the watch, behind the check that runs."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._gather()
            sample, rows, self._sample, self._rows, self._open = self._sample, self._rows, [], 0, False
            began = loop.time()
            try:
                arrays = {name: np.concatenate([part[name] for part in sample]) for name in sample[0]}
                self._report(await loop.run_in_executor(self._thread, self._monitor.run, arrays), rows)
            except Exception as error:  # noqa: BLE001  answers go on without it
                print(f"Warning: the drift monitor failed: {type(error).__name__}: {error}", file=sys.stderr)
            await asyncio.sleep(PAUSE * (loop.time() - began))
            self._open = True

    async def _gather(self) -> None:
        """Waits for a first row, and then for a full sample or until patience ends."""
        self._more.clear()
        await self._more.wait()
        try:
            async with asyncio.timeout(self._patience):
                while self._open:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            pass
