"""What clients may not do to the server, and how it starts and ends."""

import concurrent.futures
import contextlib
import gzip
import http.client
import json
import signal
import socket
import time

import numpy as np
import pytest

from tests.serving import served

LIMITS = ("--timeout", "2", "--max-body", "0.05", "--max-rows", "8", "--max-connections", "20", "--max-queue", "24")
LIMITS += ("--max-batch", "4", "--host", "127.0.0.1")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served") / "zoo"
    served.save_network(served.network(), directory / "1")
    return directory


@pytest.fixture(scope="module")
def server(directory):
    with served.serving(directory, *LIMITS) as server:
        yield server
        assert server.stop(signal.SIGINT) == 0


@pytest.fixture(autouse=True)
def _goes_on_answering(server):
    yield
    answer = server.predict(signature_name="logarithm", instances=[1.0, 2.0])["predictions"]
    np.testing.assert_allclose(answer, np.log([1, 2]), rtol=1e-6)


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def read(connection):
    """Status and body of the answer, up to the end of the connection."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    with answer:
        return answer.status, answer.read()


def head(length, *more):
    lines = ["POST /v1/models/zoo:predict HTTP/1.1", "Host: x", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    "sent",
    [b"POST /v1/models/zoo:predict HT", head(100)[:-2], head(100), head(100) + b'{"instances": ['],
    ids=["line", "head", "no body", "body"],
)
def test_a_slow_sender_gets_408(server, sent):
    with connect(server) as connection:
        connection.sendall(sent)
        began = time.monotonic()
        status, body = read(connection)
        assert status == 408 and b"within 2 s" in body
        assert time.monotonic() - began < 20
        assert connection.recv(1) == b""


def test_drops_do_not_extend_the_time(server):
    with connect(server) as connection:
        connection.sendall(head(50_000))
        began = time.monotonic()
        connection.settimeout(0.1)
        while time.monotonic() - began < 20:
            try:
                connection.sendall(b"[")
                answer = connection.recv(1000)
                break
            except TimeoutError:
                pass
        assert b"408" in answer


def test_who_is_silent_between_requests_is_let_go_without_an_answer(server):
    with connect(server) as connection:
        connection.sendall(b"GET /v1/models/zoo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read(connection)[0] == 200
        assert connection.recv(1) == b""


def chunks():
    for _ in range(100):
        yield b"[" * 1000


def test_large_bodies_get_413(server):
    status, answer = server.post(b" " * 60_000)
    assert status == 413 and "--max-body" in answer["error"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(
        "POST", "/v1/models/zoo:predict", chunks(), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_that_grows_as_it_is_unpacked(server):
    packed = gzip.compress(b" " * 10_000_000)
    assert len(packed) < 50_000
    assert server.post(packed, **{"Content-Encoding": "gzip"})[0] == 413
    body = gzip.compress(json.dumps({"signature_name": "logarithm", "instances": [1.0]}).encode())
    assert server.post(body, **{"Content-Encoding": "gzip"}) == (200, {"predictions": [0.0]})
    assert server.post(b"no gzip", **{"Content-Encoding": "gzip"})[0] == 400


def test_who_asks_first_is_told_before_sending(server):
    with connect(server) as connection:
        connection.sendall(head(100_000_000, "Expect: 100-continue"))
        assert read(connection)[0] == 413
    with connect(server) as connection:
        body = b'{"signature_name": "logarithm", "instances": [1.0]}'
        connection.sendall(head(len(body), "Expect: 100-continue"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert read(connection)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 20_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        head(0, "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"") + b"xyz\r\n",
    ],
    ids=["TLS", "no path", "version", "long path", "many headers", "long header", "length", "two lengths", "chunk"],
)
def test_what_is_no_http_gets_a_4xx(server, sent):
    with connect(server) as connection:
        connection.sendall(sent)
        status, body = read(connection)
        assert 400 <= status < 500
        assert "error" in json.loads(body)


def test_rows_beyond_the_limits(server):
    status, answer = server.post(json.dumps({"signature_name": "logarithm", "instances": [1.0] * 9}).encode())
    assert status == 400 and "at most 8 rows" in answer["error"]
    # longer than a call's 4 rows, so it is cut and put together again
    assert server.predict(
        signature_name="domain", inputs={"inputs": [[n, 0] for n in range(7)], "domain": [0] * 7}
    ) == {"outputs": [[n + 10.0, 10.0] for n in range(7)]}


def test_more_than_may_wait_get_503_and_the_others_their_answer(server):
    asked = json.dumps({"signature_name": "slow", "instances": [1.0] * 8}).encode()
    with concurrent.futures.ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: server.post(asked), range(12)))
    assert {status for status, _ in answers} == {200, 503}
    assert all(answer["predictions"] == [1.0] * 8 for status, answer in answers if status == 200)


def test_nothing_is_computed_for_clients_that_left(server):
    asked = json.dumps({"signature_name": "slow", "instances": [1.0] * 4}).encode()
    before = server.metrics()["nrm_keras_call_seconds_count"]
    leaving = [connect(server) for _ in range(5)]
    for connection in leaving:
        connection.sendall(head(len(asked)) + asked)
    time.sleep(0.05)
    for connection in leaving:
        connection.close()
    server.predict(signature_name="slow", instances=[1.0])
    # one ran already, or two; the others were waiting
    assert server.metrics()["nrm_keras_call_seconds_count"] - before <= 3


def test_more_clients_than_allowed_get_503(server):
    silent = [connect(server) for _ in range(20)]
    try:
        time.sleep(0.2)
        status, answer = served.ask(server.url)
        assert status == 503 and "At most 20 clients" in answer["error"]
        silent[0].sendall(b"GET /v1/models/zoo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in silent[0].recv(100)
    finally:
        for connection in silent:
            connection.close()
    until = time.monotonic() + 10
    while served.ask(server.url)[0] == 503 and time.monotonic() < until:
        time.sleep(0.05)


def test_a_client_that_takes_no_answer_is_dropped(server):
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        many = b"GET /v1/models/zoo/metadata HTTP/1.1\r\nHost: x\r\n\r\n" * 2000
        connection.settimeout(1)
        until = time.monotonic() + 30
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < until:
                with contextlib.suppress(TimeoutError):  # no room
                    connection.sendall(many)
        time.sleep(0.1)
    assert served.ask(server.url)[0] == 200


def test_requests_under_way_are_answered_before_the_end(directory):
    with served.serving(directory, "--timeout", "30", "--max-batch", "1") as server:
        asked = json.dumps({"signature_name": "slow", "instances": [2.0]}).encode()
        with concurrent.futures.ThreadPoolExecutor(4) as clients, connect(server) as half, connect(server) as idle:
            half.sendall(head(len(asked)) + asked[:10])
            idle.sendall(b"GET /v1/models/zoo HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read(idle)[0] == 200
            answers = [clients.submit(server.post, asked) for _ in range(3)]
            while server.metrics()["nrm_keras_queued_rows"] < 2:
                assert not answers[0].done(), "too quick for this test"
            server.process.send_signal(signal.SIGTERM)
            until = time.monotonic() + 10
            while "Stopping" not in server.lines[-1] and time.monotonic() < until:
                time.sleep(0.01)
            with pytest.raises(ConnectionRefusedError):
                connect(server)
            half.sendall(asked[10:])
            assert read(half)[0] == 200
            assert [answer.result() for answer in answers] == [(200, {"predictions": [2.0]})] * 3
        assert server.process.wait(60) == 0


def run(*arguments):
    """Exit status and standard error of the command, in a process that has to end by itself."""
    server = served.Server(*arguments)
    try:
        status = server.process.wait(120)
    finally:
        server.kill()
    return status, "\n".join(server.errors)


def test_a_taken_port_and_bad_arguments_end_with_status_2(directory, server, tmp_path):
    cases = {
        (directory, "--port", str(server.port)): "free port",
        (directory, "--host", "203.0.113.1"): "address of this machine",
        (directory, "--name", "a/b"): "--name",
        (directory, "--max-batch", "0"): "from 1",
        (directory, "--port", "65536"): "below 65536",
        (directory, "--timeout", "0"): "from 0.001",
        (tmp_path / "none",): "`export` wrote",
        (tmp_path,): "folder for each version",
        (directory / "1",): f"give {directory}",
    }
    with concurrent.futures.ThreadPoolExecutor(2) as runs:
        for (status, errors), words in zip(runs.map(lambda case: run(*case), cases), cases.values(), strict=True):
            assert status == 2 and words in errors, errors
            assert "Traceback" not in errors
