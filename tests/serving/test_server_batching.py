"""Requests that are put together: timing and order, on the real loop with a model of NumPy."""

import asyncio
import threading
import time

import numpy as np
import pytest

from nrm_keras.serving.server.batching import Batcher
from nrm_keras.serving.server.refusal import Refusal
from nrm_keras.serving.server.served_model import Signature, TensorSpec

FREE = TensorSpec(np.dtype("float32"), (None, None))
WHOLE = TensorSpec(np.dtype("float32"), ())


class Model:
    """Doubles its input, in `seconds`; `calls` are the rows of each call."""

    def __init__(self, seconds=0.0, whole=False):
        self.seconds = seconds
        self.calls = []
        self.gate = threading.Event()
        self.gate.set()
        self.signature = Signature("double", {"x": FREE}, {"y": WHOLE if whole else FREE}, self.run)

    def run(self, arrays):
        self.gate.wait()
        time.sleep(self.seconds)
        x = arrays["x"]
        self.calls.append(len(x))
        if (x < 0).any():
            raise ValueError("negative")
        return {"y": 2 * x} if self.signature.by_row else {"y": x.sum()}


def rows(*values, width=1):
    return {"x": np.repeat(np.float32(values)[:, None], width, 1)}


async def serve(model, requests, **options):
    """The answers, of requests that arrive while a first one runs and so wait together."""
    settings = {"max_batch": 64, "max_bytes": 2**20, "max_wait": 0.0, "max_queue": 1000, "observe": lambda *_: None}
    batcher = Batcher(**{**settings, **options})
    try:
        model.gate.clear()
        first = asyncio.create_task(batcher.answer(model.signature, rows(0)))
        await asyncio.sleep(0.05)
        tasks = [asyncio.create_task(batcher.answer(model.signature, request)) for request in requests]
        await asyncio.sleep(0.05)
        model.gate.set()
        return (await asyncio.gather(first, *tasks, return_exceptions=True))[1:]
    finally:
        await batcher.close()


def test_what_waits_goes_in_one_call_and_each_gets_its_part():
    model = Model()
    answers = asyncio.run(serve(model, [rows(1), rows(2, 3), rows(4)]))
    assert model.calls == [1, 4]
    assert [answer["y"].ravel().tolist() for answer in answers] == [[2], [4, 6], [8]]


def test_a_call_holds_at_most_max_batch_rows_and_longer_requests_are_cut():
    model = Model()
    answers = asyncio.run(serve(model, [rows(1, 2), rows(3, 4), rows(*range(7)), rows(5)], max_batch=3))
    assert max(model.calls) == 3 and sum(model.calls) == 13
    assert [answer["y"].ravel().tolist() for answer in answers][2] == [2 * value for value in range(7)]
    assert answers[3]["y"].tolist() == [[10]]


def test_a_call_holds_at_most_max_bytes_but_for_a_single_row():
    model = Model()
    answers = asyncio.run(serve(model, [rows(1, 2), rows(3), rows(*range(7)), rows(5, width=9)], max_bytes=12))
    assert sum(model.calls) == 12 and max(model.calls) == 3
    assert [answer["y"][:, 0].tolist() for answer in answers] == [[2, 4], [6], [2 * value for value in range(7)], [10]]


def test_only_one_shape_goes_in_a_call_and_none_is_starved():
    model = Model()
    answers = asyncio.run(serve(model, [rows(1), rows(2, width=2), rows(3), rows(4, width=2)]))
    assert model.calls == [1, 2, 2]
    assert [answer["y"].shape for answer in answers] == [(1, 1), (1, 2)] * 2


def test_signatures_that_answer_as_a_whole_are_called_alone():
    model = Model(whole=True)
    answers = asyncio.run(serve(model, [rows(1, 2), rows(3)], max_batch=1))
    assert model.calls == [1, 2, 1]
    assert [float(answer["y"]) for answer in answers] == [3, 3]


def test_a_failing_request_fails_alone():
    answers = asyncio.run(serve(Model(), [rows(1), rows(-1), rows(2)]))
    assert isinstance(answers[1], ValueError)
    assert [answers[number]["y"].item() for number in (0, 2)] == [2, 4]


def test_a_model_that_loses_rows_does_not_mix_answers_up():
    model = Model()
    model.signature = Signature("first", {"x": FREE}, {"y": FREE}, lambda arrays: {"y": arrays["x"][:1]})
    answers = asyncio.run(serve(model, [rows(1), rows(2), rows(3, 4)]))
    assert [answers[number]["y"].item() for number in (0, 1)] == [1, 2]
    assert isinstance(answers[2], RuntimeError)


def test_what_does_not_fit_into_the_queue_is_refused():
    answers = asyncio.run(serve(Model(), [rows(1, 2), rows(3, 4), rows(5)], max_queue=3))
    assert isinstance(answers[1], Refusal) and answers[1].status == 503
    assert [answers[number]["y"].sum() for number in (0, 2)] == [6, 10]


def test_a_client_that_left_is_not_answered():
    async def leave(model):
        batcher = Batcher(max_batch=8, max_bytes=2**20, max_wait=0, max_queue=9, observe=lambda *_: None)
        model.gate.clear()
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(batcher.answer(model.signature, rows(number))))
            await asyncio.sleep(0.05)
        tasks[1].cancel()
        await asyncio.sleep(0.01)
        model.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.close()
        return answers

    model = Model()
    answers = asyncio.run(leave(model))
    assert isinstance(answers[1], asyncio.CancelledError)
    assert sum(model.calls) == 2 and answers[2]["y"].item() == 4


async def clients(model, count, requests, **options):
    """Seconds that clients need who ask again as soon as they are answered."""
    batcher = Batcher(max_batch=64, max_bytes=2**20, max_queue=1000, observe=lambda *_: None, **options)

    async def client():
        for _ in range(requests):
            await batcher.answer(model.signature, rows(1))
            await asyncio.sleep(0.001)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(count)))
    taken = time.perf_counter() - began
    await batcher.close()
    return taken


def test_a_single_client_never_waits_for_others():
    # half a second for each of 20 requests, if it did
    assert asyncio.run(clients(Model(), 1, 20, max_wait=0.5)) < 5


def test_clients_just_answered_are_waited_for_so_calls_are_full():
    model = Model(seconds=0.01)
    asyncio.run(clients(model, 16, 20, max_wait=0.5))
    # without the wait a call of one alternates with a call of fifteen
    assert sum(model.calls) == 320 and len(model.calls) <= 26


@pytest.mark.parametrize("max_wait", [0.0, 1.0])
def test_an_idle_server_answers_at_once(max_wait):
    async def alone(model):
        batcher = Batcher(max_batch=64, max_bytes=2**20, max_wait=max_wait, max_queue=9, observe=lambda *_: None)
        await asyncio.gather(*(batcher.answer(model.signature, rows(1)) for _ in range(4)))
        await asyncio.sleep(1.5)
        began = time.perf_counter()
        await batcher.answer(model.signature, rows(1))
        taken = time.perf_counter() - began
        await batcher.close()
        return taken

    assert asyncio.run(alone(Model())) < 0.7
