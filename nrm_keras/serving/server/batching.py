"""Requests that wait for the model are put together and answered by one call.

While a call runs, others queue; when it ends, those of one signature and shape go into the next call together, up to a number of rows
and bytes. So the batch follows the load by itself, and a request that finds the server idle goes at once. Clients that were just
answered come back within moments: for them, and only if there were several, the next call waits a little, or it would often leave with
one request and let all the others wait for the call behind it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus

import numpy as np

from nrm_keras.serving.server.refusal import Refusal
from nrm_keras.serving.server.served_model import Arrays, Signature, bytes_of

Observer = Callable[[Signature, Arrays, float], None]


@dataclass(eq=False)
class _Waiting:
    signature: Signature
    arrays: Arrays
    rows: int
    bytes: int
    answer: asyncio.Future = field(repr=False)

    @property
    def kind(self) -> tuple:
        """Only requests of a kind fit into one call: arrays are put together along their first axis."""
        return self.signature.name, *((name, array.shape[1:]) for name, array in self.arrays.items())


class Batcher:
    """Answers requests with as few calls of the model as the load allows.

    Args:
        max_batch: Rows of one call at most. A longer request is cut.
        max_bytes: What the arrays of one call take at most, if they have more than a row.
        max_wait: Seconds that a call waits at most for clients that were just answered.
        max_queue: Rows that wait at most.
        parallel: Calls at a time.
        observe: Is told the signature, the arrays and the seconds of each call that succeeded.
    """

    def __init__(
        self, *, max_batch: int, max_bytes: int, max_wait: float, max_queue: int, parallel: int = 1, observe: Observer
    ):
        self.max_batch = max_batch
        self.max_bytes = max_bytes
        self.max_wait = max_wait
        self.max_queue = max_queue
        self.queued = 0  # rows
        self._observe = observe
        self._queue: deque[_Waiting] = deque()
        self._changed = asyncio.Event()
        self._expected = 1  # requests that are likely to come together
        self._free_since = 0.0
        self._threads = ThreadPoolExecutor(parallel, "model")
        self._workers = [asyncio.create_task(self._work()) for _ in range(parallel)]

    async def answer(self, signature: Signature, arrays: Arrays) -> dict[str, np.ndarray]:
        """The signature's outputs.

        Raises:
            Refusal: 503 where too many rows wait, 400 where the model refuses the values.
        """
        rows = len(next(iter(arrays.values()))) if signature.by_row else 1
        if self.queued and self.queued + rows > self.max_queue:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"At most {self.max_queue} rows wait for the model. Received: {rows} beside {self.queued}. Try again soon.",
                Retry_After="1",
            )
        pieces = [arrays]
        if signature.by_row:
            most = max(1, min(self.max_batch, self.max_bytes * rows // max(1, bytes_of(arrays))))
            cuts = range(0, rows, most)
            pieces = [{name: array[cut : cut + most] for name, array in arrays.items()} for cut in cuts]
        waiting = [self._enqueue(signature, piece) for piece in pieces]
        try:
            answers = await asyncio.gather(*waiting)
        except BaseException:  # nobody takes the others
            for answer in waiting:
                answer.cancel()
            raise
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in signature.outputs}

    async def close(self) -> None:
        """Ends the workers, behind the call that runs."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._threads.shutdown()

    def _enqueue(self, signature: Signature, arrays: Arrays) -> asyncio.Future:
        rows = len(next(iter(arrays.values()))) if signature.by_row else 1
        answer = asyncio.get_running_loop().create_future()
        waiting = _Waiting(signature, arrays, rows, bytes_of(arrays), answer)
        self._queue.append(waiting)
        self.queued += rows
        self._changed.set()
        answer.add_done_callback(lambda _: self._forget(waiting))
        return answer

    def _forget(self, waiting: _Waiting) -> None:
        """Lets go of a request whose client left while it waited."""
        if waiting in self._queue:
            self._queue.remove(waiting)
            self.queued -= waiting.rows

    async def _work(self) -> None:
        while True:
            await self._changed.wait()
            await self._let_others_come()
            batch = self._take()
            await self._answer_together(batch)
            self._expected = len(batch) + len(self._queue)
            self._free_since = asyncio.get_running_loop().time()

    async def _let_others_come(self) -> None:
        until = self._free_since + self.max_wait
        while self._queue and len(self._queue) < self._expected and self.queued < self.max_batch:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                break

    def _take(self) -> list[_Waiting]:
        """The request that waits longest, and others of its kind, in order."""
        batch, others, rows, size = [], deque(), 0, 0
        for waiting in self._queue:
            fits = rows + waiting.rows <= self.max_batch and size + waiting.bytes <= self.max_bytes
            if not batch or (fits and waiting.signature.by_row and waiting.kind == batch[0].kind):
                batch.append(waiting)
                rows, size = rows + waiting.rows, size + waiting.bytes
            else:
                others.append(waiting)
        self._queue = others
        self.queued -= rows
        if not others:
            self._changed.clear()
        else:
            self._changed.set()
        return batch

    async def _answer_together(self, batch: list[_Waiting]) -> None:
        batch = [waiting for waiting in batch if not waiting.answer.done()]
        if not batch:
            return
        try:
            answers = await self._call(batch)
        except Exception as error:  # noqa: BLE001  whatever a model does
            if len(batch) > 1:  # one request's values must not fail the others: it is searched for by halves
                await self._answer_together(batch[: len(batch) // 2])
                await self._answer_together(batch[len(batch) // 2 :])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(_refused(error))
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    async def _call(self, batch: list[_Waiting]) -> list[Mapping[str, np.ndarray]]:
        """One call of the model, and its answer cut as the requests are."""
        loop = asyncio.get_running_loop()
        signature, first = batch[0].signature, batch[0].arrays
        arrays = first
        if len(batch) > 1:
            arrays = {name: np.concatenate([waiting.arrays[name] for waiting in batch]) for name in first}
        began = loop.time()
        outputs = await loop.run_in_executor(self._threads, signature.run, arrays)
        self._observe(signature, arrays, loop.time() - began)
        rows = [waiting.rows for waiting in batch]
        if signature.by_row and any(len(output) != sum(rows) for output in outputs.values()):
            raise RuntimeError(
                f"{signature.name} gave { ({k: len(v) for k, v in outputs.items()}) } rows for {sum(rows)}"
            )
        if len(batch) == 1:
            return [outputs]
        cuts = np.cumsum(rows)[:-1]
        parts = {name: np.split(output, cuts) for name, output in outputs.items()}
        return [{name: part[number] for name, part in parts.items()} for number in range(len(batch))]


def _refused(error: Exception) -> Exception:
    """A client's fault as a 400: TensorFlow's operations say that their argument is invalid."""
    from tensorflow.errors import InvalidArgumentError

    if not isinstance(error, InvalidArgumentError):
        return error
    reason = next(iter(error.message.splitlines()), "")
    return Refusal(
        HTTPStatus.BAD_REQUEST,
        f"The model takes inputs like those it was trained on. It refused this one: {reason:.300} "
        "Look at the example request in its model card.",
    )
