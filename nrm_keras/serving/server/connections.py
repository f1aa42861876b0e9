"""Connections with limits that aiohttp does not set: slow heads are answered by 408, and a client must take its answer."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web

SPARE = 64  # connections above the limit that are still told so, rather than dropped


class Connection(web.RequestHandler):
    """One client. A deadline runs while it sends a head, takes an answer, or rests between two requests."""

    __slots__ = ("_clock", "_heard", "_server", "admitted")

    def __init__(self, server: Connections, **options):
        super().__init__(server, **options)
        self._server = server
        self._clock: asyncio.TimerHandle | None = None
        self._heard = False
        self.admitted = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # who came first stays: others are told, and go
        self.admitted = len(self._server.connections) <= self._server.max_connections
        if len(self._server.connections) > self._server.max_connections + SPARE:
            transport.abort()
        self.resting()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.working()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)

    def working(self) -> None:
        """A request is here: its own limits hold now."""
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def resting(self) -> None:
        """The answer is on its way, or the connection new: the deadline starts anew."""
        self.working()
        self._heard = False
        if self.transport is not None:
            self._clock = asyncio.get_running_loop().call_later(self._server.timeout, self._late)

    def handle_error(self, request, status=500, exc=None, message=None):
        """What aiohttp could not read as HTTP, or a fault of ours."""
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        answer = error(HTTPStatus(status), f"The request is HTTP/1.1. Received: {' '.join(str(message).split()):.200}.")
        answer.force_close()
        self._server.count(answer.status)
        return answer

    def _late(self) -> None:
        transport = self.transport
        if transport is None:
            return
        if transport.get_write_buffer_size():  # nobody takes the answer
            transport.abort()
            return
        if self._heard:
            body = error_body(f"A request's head arrives within {self._server.timeout:g} s. Received: part of it.")
            head = (
                "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            transport.write(head.encode() + body)
            self._server.count(HTTPStatus.REQUEST_TIMEOUT)
        self.force_close()


class Connections(web.Server):
    """Makes a Connection for each client. `count` is told the status of what is refused before it is a request."""

    def __init__(self, handler, *, max_connections: int, timeout: float, count: Callable[[HTTPStatus], None]):
        super().__init__(handler, handler_cancellation=True)  # nothing is computed for clients that left
        self.max_connections = max_connections
        self.timeout = timeout
        self.count = count
        self._quiet = logging.getLogger("nrm_keras.serving")
        self._quiet.setLevel(logging.CRITICAL)  # aiohttp reports each bad request with a traceback

    def __call__(self) -> Connection:
        loop = asyncio.get_running_loop()
        return Connection(self, loop=loop, access_log=None, logger=self._quiet, lingering_time=self.timeout)


def error(status: HTTPStatus, message: str, headers: dict | None = None) -> web.Response:
    """An answer as TensorFlow Serving words errors."""
    return web.Response(status=status, body=error_body(message), content_type="application/json", headers=headers)


def error_body(message: str) -> bytes:
    return json.dumps({"error": message}).encode()
