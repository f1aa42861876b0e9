"""What the server answers at which path."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from nrm_keras.serving.server import rest
from nrm_keras.serving.server.batching import Batcher
from nrm_keras.serving.server.connections import Connection, error
from nrm_keras.serving.server.metrics import ServerMetrics
from nrm_keras.serving.server.refusal import Refusal
from nrm_keras.serving.server.served_model import ServedModel, bytes_of

PATH = re.compile(r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[^/:]+))?(?P<what>/metadata|:[a-z]+)?")
PREDICT = ":predict"
IN_THREAD = 2**18  # bytes of a body that is read beside the loop, so that others are answered meanwhile
BODIES = 16  # times max_body: what all requests under way may take together, first as bodies, then as arrays


@dataclass(frozen=True)
class Limits:
    """What a request, and all of them together, may take."""

    max_rows: int = 1024
    max_body: int = 16 * 2**20
    max_connections: int = 512
    timeout: float = 30.0


class Endpoints:
    """Answers requests; `running` counts those under way, and `stopping` says that there will be no more."""

    def __init__(self, model: ServedModel, batcher: Batcher, metrics: ServerMetrics, limits: Limits):
        self.model, self.batcher, self.metrics, self.limits = model, batcher, metrics, limits
        self.running = 0
        self.stopping = False
        self._held = 0  # bytes of the requests under way
        # one: JSON takes twenty times its length as Python's lists
        self._json = ThreadPoolExecutor(1, "json")

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Any request to its answer."""
        connection: Connection = request.protocol
        connection.working()
        self.running += 1
        try:
            answer = await self._answer(request, connection)
        except Refusal as refusal:
            answer = error(refusal.status, str(refusal), refusal.headers)
        except Exception:  # noqa: BLE001  a fault of the model or ours must not end the server
            traceback.print_exc()
            answer = error(HTTPStatus.INTERNAL_SERVER_ERROR, "The model failed. The server's log tells why.")
        finally:
            self.running -= 1
        whole = request.content.is_eof()
        if whole:
            connection.resting()
        if (
            self.stopping or not connection.admitted or not whole
        ):  # aiohttp drops the rest of a body, for a while, and closes
            answer.force_close()
        self.metrics.count(answer.status)
        return answer

    async def _answer(self, request: web.BaseRequest, connection: Connection) -> web.Response:
        if not connection.admitted:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"At most {self.limits.max_connections} clients are connected. Try again soon.",
                Retry_After="1",
            )
        if request.path == "/metrics":
            _allow(request, "GET", "HEAD")
            return web.Response(body=self.metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})
        what = self._what(request.path)
        if what != PREDICT:
            _allow(request, "GET", "HEAD")
            return _json(self.model.metadata if what else self._status())
        _allow(request, "POST")
        began = time.perf_counter()
        answer = await self._predict(request)
        self.metrics.latency.observe(time.perf_counter() - began)
        return answer

    def _what(self, path: str) -> str | None:
        """What a path asks of this model: its status (None), `/metadata` or `:predict`."""
        found = PATH.fullmatch(path)
        own = f"/v1/models/{self.model.name}"
        if not found or found["what"] not in (None, "/metadata", PREDICT):
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                f"The paths are {own}, {own}/metadata, {own}{PREDICT} and /metrics. Received: {path!r:.100}.",
            )
        if found["name"] != self.model.name or found["version"] not in (None, str(self.model.version)):
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                f"Served here is {self.model.name!r}, version {self.model.version}. Received: {path!r:.100}. Ask {own}.",
            )
        return found["what"]

    def _status(self) -> dict:
        status = {"error_code": "OK", "error_message": ""}
        return {"model_version_status": [{"version": str(self.model.version), "state": "AVAILABLE", "status": status}]}

    async def _predict(self, request: web.BaseRequest) -> web.Response:
        with self._holding() as hold:
            body = await self._read(request, hold)
            asked = (rest.parse, body, self.model.signatures, self.limits.max_rows)
            question = await self._beside(len(body) > IN_THREAD, *asked)
            hold(bytes_of(question.arrays) - len(body))
            del body, asked  # not needed while the arrays wait
            outputs = await self.batcher.answer(question.signature, question.arrays)
            written = await self._beside(rest.is_large(outputs), rest.render, question, outputs)
        return web.Response(body=written, content_type="application/json")

    async def _beside(self, is_large: bool, function: Callable, *given):
        """What a function gives; of what is large, in a thread of its own, one after the other."""
        if not is_large:
            return function(*given)
        return await asyncio.get_running_loop().run_in_executor(self._json, function, *given)

    @contextlib.contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """Counts what a request takes: the block calls `hold` with the bytes more, or fewer, and they are let go at its end."""
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            held += size
            self._held += size
            if size > 0 and self._held > BODIES * self.limits.max_body:
                raise Refusal(
                    HTTPStatus.SERVICE_UNAVAILABLE, "Too many large requests at once. Try again soon.", Retry_After="1"
                )

        try:
            yield hold
        finally:
            self._held -= held

    async def _read(self, request: web.BaseRequest, hold: Callable[[int], None]) -> bytearray:
        """The body, read within the limits of size and time."""
        body = bytearray()
        if (request.content_length or 0) > self.limits.max_body:
            raise self._too_large(f"{request.content_length} bytes")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        try:
            async with asyncio.timeout(self.limits.timeout):
                async for part in request.content.iter_any():
                    body += part
                    hold(len(part))
                    if len(body) > self.limits.max_body:
                        raise self._too_large("more")
        except TimeoutError:
            raise Refusal(
                HTTPStatus.REQUEST_TIMEOUT,
                f"A body arrives within {self.limits.timeout:g} s. Received: {len(body)} bytes of it. "
                "Send less at a time, or start the server with a longer --timeout.",
            ) from None
        except web.RequestPayloadError as failure:
            raise Refusal(
                HTTPStatus.BAD_REQUEST, f"The body is sent as its head says. Received: {failure!s:.200}."
            ) from None
        return body

    def _too_large(self, received: str) -> Refusal:
        return Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"A body has at most {self.limits.max_body} bytes. Received: {received}. "
            "Send fewer rows at a time, or start the server with a larger --max-body.",
        )


def _allow(request: web.BaseRequest, *methods: str) -> None:
    if request.method not in methods:
        raise Refusal(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"{request.path:.100} takes {methods[0]}. Received: {request.method:.20}.",
            Allow=", ".join(methods),
        )


def _json(answer) -> web.Response:
    return web.Response(body=orjson.dumps(answer, option=orjson.OPT_INDENT_2), content_type="application/json")
