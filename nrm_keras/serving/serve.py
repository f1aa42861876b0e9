"""`serve`: an HTTP server that speaks TensorFlow Serving's REST API for one exported model."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import ipaddress
import json
import re
import shlex
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nrm_keras.errors import UserError
from nrm_keras.serving.digest import EXAMPLE_REQUEST

NEEDS = ("aiohttp", "orjson", "prometheus_client")
INLINE = 200  # characters of an example that a command line shows
BACKLOG = 1024


@dataclass(frozen=True)
class Options:
    """How to serve; sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8501
    name: str | None = None
    trust: bool = False
    monitor: bool = False
    max_batch: int = 64
    max_wait: float = 0.005
    max_queue: int = 2048
    parallel: int = 1
    max_rows: int = 1024
    max_body: int = 16 * 2**20
    max_connections: int = 512
    timeout: float = 30.0


@dataclass(frozen=True)
class _Example:
    """A request from the model card, and the file that may hold it too."""

    body: Mapping | None
    file: Path

    def command(self, url: str) -> str | None:
        """A command line that sends it."""
        text = json.dumps(self.body)
        if isinstance(self.body, Mapping) and len(text) <= INLINE and "'" not in text:
            return f"curl -d '{text}' {url}:predict"
        return f"curl -d @{shlex.quote(str(self.file))} {url}:predict" if self.file.is_file() else None


def serve(directory: Path, options: Options | None = None) -> None:
    """Serves the newest version in a folder until SIGTERM or SIGINT; requests under way are answered first.

    Args:
        directory: The folder that `export` wrote, with a folder for each version.
        options: How to serve. None stands for the defaults.

    Raises:
        UserError: If the folder holds no model, it may not be served (see `trust.check`), the address is taken, or the extra
            `serve` is not installed.

    Example:

        serve(Path("models/digits"), Options(port=0))
    """
    options = options or Options()
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"`serve` needs {' and '.join(missing)}. Received: none. pip install 'nrm_keras[serve]'")
    from nrm_keras.serving.server import served_model, trust
    from nrm_keras.training.startup import quiet_start

    version_dir = served_model.newest_version(Path(directory))
    name = options.name or Path(directory).resolve().name
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise UserError(
            f"A model's name in a URL is letters, digits, '_', '-' and '.'. Received: {name!r}. Give --name."
        )
    listener = bind(options.host, options.port)
    with contextlib.closing(listener):
        with quiet_start():
            import tensorflow  # noqa: F401
        with trust.checked(version_dir, trust=options.trust) as folder:
            model = served_model.load(folder, name)
        example = trust.card(version_dir).get("example_request")
        asyncio.run(_serve(model, options, listener, _Example(example, version_dir / EXAMPLE_REQUEST)))


def bind(host: str, port: int) -> socket.socket:
    """A socket at that address, not yet listening: a taken port shows before the model is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError, OverflowError) as error:
        raise _refused(host, port, error) from error
    if not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
        print(
            f"Warning: {host} can be reached from other machines, and the server asks nobody who they are. "
            "Put a proxy with authentication in front of it.",
            file=sys.stderr,
        )
    return listener


def _refused(host: str, port: int, error: Exception) -> UserError:
    return UserError(
        f"The server needs an address of this machine with a free port. Received: {host}, port {port}: {error}. "
        "Give another --port (0 takes any), or stop what listens there."
    )


async def _serve(model, options: Options, listener: socket.socket, example: _Example) -> None:
    from nrm_keras.serving.server.batching import Batcher
    from nrm_keras.serving.server.connections import Connections
    from nrm_keras.serving.server.drift_watch import DriftWatch, monitor_of
    from nrm_keras.serving.server.endpoints import Endpoints, Limits
    from nrm_keras.serving.server.metrics import ServerMetrics

    metrics = ServerMetrics(options.max_batch, lambda: batcher.queued)
    monitor = monitor_of(model) if options.monitor else None
    watch = None

    def observe(signature, arrays, seconds):
        metrics.call.observe(seconds)
        metrics.batch.observe(len(next(iter(arrays.values()))))
        if watch is not None and signature.by_row:
            watch.offer(arrays)

    batcher = Batcher(
        max_batch=options.max_batch,
        max_bytes=options.max_body,
        max_wait=options.max_wait,
        max_queue=options.max_queue,
        parallel=options.parallel,
        observe=observe,
    )
    limits = Limits(options.max_rows, options.max_body, options.max_connections, options.timeout)
    endpoints = Endpoints(model, batcher, metrics, limits)
    connections = Connections(
        endpoints.handle, max_connections=options.max_connections, timeout=options.timeout, count=metrics.count
    )
    await _warm_up(batcher, model, example.body)
    # what is loaded stays: to look through all of TensorFlow's objects would stop every answer for a quarter of a second
    gc.collect()
    gc.freeze()
    if monitor is not None:  # from here on: the warm-up is no traffic
        metrics.watch_drift()
        watch = DriftWatch(monitor, metrics.drift)
    stop = _on_signals()
    try:
        server = await asyncio.get_running_loop().create_server(connections, sock=listener, backlog=BACKLOG)
    except OSError as error:
        raise _refused(options.host, options.port, error) from error
    print(_greeting(model, listener, example), flush=True)
    await stop.wait()
    print("Stopping: requests under way are answered first.", flush=True)
    server.close()
    await _drain(endpoints, connections, options.timeout)
    await batcher.close()
    if watch is not None:
        await watch.close()


def _on_signals() -> asyncio.Event:
    """Set by SIGTERM and SIGINT. A second one ends the process as usual."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def stopped():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped)
    return stop


async def _drain(endpoints, connections, timeout: float) -> None:
    """Waits until the requests under way are answered; their connections close behind them."""
    endpoints.stopping = True
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            while endpoints.running:
                await asyncio.sleep(0.01)
    connections.pre_shutdown()
    await connections.shutdown(max(0.1, deadline - loop.time()))


async def _warm_up(batcher, model, example) -> None:
    """Answers the model card's example once: the first call of a model takes much longer than others."""
    from nrm_keras.serving.server import rest

    if not isinstance(example, Mapping):
        return
    try:
        question = rest.parse(json.dumps(example).encode(), model.signatures, max_rows=1024)
        await batcher.answer(question.signature, question.arrays)
    except Exception as error:  # noqa: BLE001  requests will tell the same
        print(f"Warning: the model card's example request is not answered: {error}", file=sys.stderr)


def _greeting(model, listener: socket.socket, example: _Example) -> str:
    host, port = listener.getsockname()[:2]
    root = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    url = f"{root}/v1/models/{model.name}"
    lines = [f"Serving {model.name}, version {model.version}, at {url}", f"  curl {url}/metadata"]
    if command := example.command(url):
        lines.append(f"  {command}")
    lines += [f"Metrics for Prometheus: {root}/metrics", "Ctrl-C stops the server."]
    return "\n".join(lines)
