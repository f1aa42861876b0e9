"""The clients of server_load.py, and the server process that they ask."""

import collections
import dataclasses
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import numpy as np

TOLERANCE = 1e-5


class Server:
    """A running server process."""

    def __init__(self, process, url: str):
        self.process, self.url = process, url

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            if self.process.wait(60):
                raise RuntimeError("the server did not end well")
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()


def start(directory, *arguments) -> Server:
    """`python -m nrm_keras serve`, as soon as it says that it serves."""
    command = [sys.executable, "-m", "nrm_keras", "serve", str(directory), "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the server did not start: exit status {process.wait()}")
    threading.Thread(target=process.stdout.read, daemon=True).start()
    return Server(process, line.split()[-1])


@dataclasses.dataclass
class Figures:
    """What clients saw: seconds of each request that was answered rightly, and how many were not."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    rate: float = 0.0
    errors: int = 0
    wrong: int = 0

    def __add__(self, other):
        return Figures(
            self.seconds + other.seconds, self.rate + other.rate, self.errors + other.errors, self.wrong + other.wrong
        )

    def quantile(self, share: float) -> float:
        """Milliseconds."""
        return 1e3 * float(np.quantile(self.seconds, share)) if self.seconds else float("nan")


def load(url: str, asked: str, clients: int, seconds: float) -> Figures:
    """So many threads ask for one image after another, for so long."""
    data = np.load(asked)
    bodies = [json.dumps({"instances": [image.tolist()]}).encode() for image in data["image"]]
    until = time.perf_counter() + seconds
    with ThreadPoolExecutor(clients) as pool:
        parts = [pool.submit(_client, url, bodies, data["scores"], until, seed) for seed in range(clients)]
        figures = sum((part.result() for part in parts), Figures())
    figures.rate = len(figures.seconds) / seconds
    return figures


def _client(url: str, bodies: list[bytes], scores, until: float, seed: int) -> Figures:
    figures, choose = Figures(), random.Random(seed)
    where = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
    while (began := time.perf_counter()) < until:
        number = choose.randrange(len(bodies))
        try:
            connection.request("POST", f"{where.path}:predict", bodies[number])
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            figures.errors += 1
            connection.close()
            continue
        taken = time.perf_counter() - began
        if answer.status != 200:
            figures.errors += 1
        elif np.abs(np.array(json.loads(content)["predictions"][0]) - scores[number]).max() > TOLERANCE:
            figures.wrong += 1
        else:
            figures.seconds.append(taken)
    connection.close()
    return figures


def is_answered(server: Server, asked: str) -> bool:
    """Whether the server still gives right answers."""
    figures = load(server.url, asked, 1, 0.5)
    return bool(figures.seconds) and not figures.errors + figures.wrong


def malformed(server: Server, count: int, slow: float) -> dict:
    """How many of the requests, of every kind of fault, got a 4xx; and the seconds of the one that took longest."""
    where = urllib.parse.urlsplit(server.url)
    kinds = [_not_json, _shape, _type, _not_finite, _large, _unknown, _slow_head, _slow_body]
    shares = dict.fromkeys(kinds, count // len(kinds) + 1) | {_large: max(1, count // 25)}
    asked = [kind for kind, share in shares.items() for _ in range(share)]
    asked = (asked + [_not_json] * count)[:count]
    random.Random(0).shuffle(asked)

    def ask(number: int):
        began = time.perf_counter()
        status = _status(where, asked[number], random.Random(number), slow)
        return asked[number].__name__.strip("_"), status, time.perf_counter() - began

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(count)))
    other = [(kind, status) for kind, status, _ in answers if not 400 <= status < 500]
    return {
        "refused": len(answers) - len(other),
        "other": len(other),
        "by_status": dict(collections.Counter(f"{kind} {status}" for kind, status, _ in answers)),
        "longest_s": max(taken for _, _, taken in answers),
    }


def _status(where, kind, choose: random.Random, slow: float) -> int:
    """The HTTP status that a malformed request gets, 0 for none."""
    head, body = kind(where.path, choose)
    try:
        with socket.create_connection((where.hostname, where.port), timeout=12 * slow) as connection:
            connection.sendall(head.encode() + body)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            answer.read()
            return answer.status
    except (OSError, http.client.HTTPException):
        return 0


def _post(path: str, body: bytes, length: int | None = None) -> tuple[str, bytes]:
    size = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n", body


def _predict(path: str, **body) -> tuple[str, bytes]:
    return _post(f"{path}:predict", json.dumps(body).encode())


def _not_json(path, choose):
    return _post(f"{path}:predict", bytes(choose.randrange(256) for _ in range(choose.randrange(2000))))


def _shape(path, choose):
    return _predict(path, instances=np.zeros([choose.randrange(1, 4) for _ in range(choose.randrange(1, 6))]).tolist())


def _type(path, choose):
    return _predict(
        path, instances=np.full((1, 32, 32, 3), choose.choice(["1", 0.5, True, None, 256, -1]), object).tolist()
    )


def _not_finite(path, choose):
    image = np.zeros((1, 32, 32, 3)) + choose.choice([np.nan, np.inf, -np.inf])
    return _predict(path, instances=image.tolist())


def _large(path, choose):
    return _post(f"{path}:predict", b"[" * 100_000_000)


def _unknown(path, choose):
    if choose.random() < 0.5:
        return _predict(path, signature_name="x" * choose.randrange(1, 100), instances=[1])
    return _predict(path.rpartition("/")[0] + "/" + "y" * choose.randrange(1, 100), instances=[1])


def _slow_head(path, choose):
    head, _ = _post(path, b"")
    return head[: choose.randrange(1, len(head) - 1)], b""


def _slow_body(path, choose):
    body = b'{"instances": ' + b"[" * 1000
    return _post(f"{path}:predict", body[: choose.randrange(len(body))], 10_000)
