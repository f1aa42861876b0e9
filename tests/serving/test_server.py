import base64
import concurrent.futures
import json
import re
import shutil
import time

import numpy as np
import pytest

from tests.serving import served

LABELS = np.array(["cat", "dog", "owl"])


@pytest.fixture(scope="module")
def model():
    return served.network()


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("served") / "zoo"
    served.save_network(model, directory / "10")
    shutil.copytree(directory / "10", directory / "9")  # the lower number, which is the last of the names
    with served.serving(directory, "--monitor", "--max-batch", "16") as server:
        yield server
        assert server.stop() == 0
        assert not [line for line in server.errors if "Traceback" in line or "Warning" in line], server.errors


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 8, 6, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(model, images):
    logits = np.asarray(model(images.astype(np.float32)), np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def is_answer(predictions, scores):
    np.testing.assert_allclose([row["scores"] for row in predictions], scores, atol=1e-6)
    assert [row["labels"] for row in predictions] == LABELS[np.argmax(scores, -1)].tolist()


@pytest.mark.parametrize("rows", [[0], [3, 1, 2], range(40)])
def test_rows_are_answered_as_the_keras_model_answers(server, images, expected, rows):
    answer = server.predict(instances=[images[row].tolist() for row in rows])
    assert answer.keys() == {"predictions"}
    is_answer(answer["predictions"], expected[list(rows)])


def test_formats_of_tensorflow_serving(server, images, expected):
    rows = images[:2].tolist()
    named = server.predict(instances=[{"image": row} for row in rows], signature_name="serving_default")
    is_answer(named["predictions"], expected[:2])
    for inputs in (rows, {"image": rows}):
        outputs = server.predict(inputs=inputs)["outputs"]
        np.testing.assert_allclose(outputs["scores"], expected[:2], atol=1e-6)
        assert outputs["labels"] == LABELS[np.argmax(expected[:2], -1)].tolist()
    # a single output has no name
    bare = server.predict(signature_name="features", instances=rows)["predictions"]
    assert np.shape(bare) == (2, 4)
    assert server.predict(signature_name="features", inputs=rows)["outputs"] == bare
    pair = [{"inputs": [1, 2.5], "domain": 1}, {"inputs": [0, 0], "domain": 0}]
    assert server.predict(signature_name="domain", instances=pair)["predictions"] == [[21.0, 22.5], [10.0, 10.0]]
    columns = {"inputs": [[1, 2.5]], "domain": [1]}
    assert server.predict(signature_name="domain", inputs=columns)["outputs"] == [[21.0, 22.5]]


def test_strings_and_binary_strings(server):
    binary = bytes(range(256))
    text = ["aé", {"b64": base64.b64encode(binary).decode()}]
    first, second = server.predict(signature_name="text", instances=text)["predictions"]
    encoded = base64.b64encode("aé".encode()).decode()
    assert first == {"upper": "Aé", "raw": "aé", "raw_bytes": {"b64": encoded}}
    assert base64.b64decode(second["raw"]["b64"]) == base64.b64decode(second["raw_bytes"]["b64"]) == binary


def test_a_signature_that_answers_as_a_whole(server, images):
    asked = images[:2].tolist()
    outputs = server.predict(signature_name="monitor", inputs=asked)["outputs"]
    assert outputs["score"] == pytest.approx(images[:2].mean())
    assert outputs["layers"] == ["a", "b"]
    status, answer = server.post(json.dumps({"signature_name": "monitor", "instances": asked}).encode())
    assert status == 400 and "Send 'inputs'" in answer["error"]


def test_status_metadata_and_versions(server, images):
    assert server.url.endswith("/v1/models/zoo")
    expected = {"version": "10", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("", "/versions/10"):
        assert served.ask(server.url + path) == (200, {"model_version_status": [expected]})
    status, answer = served.ask(server.url + "/metadata")
    assert status == 200 and answer["model_spec"] == {"name": "zoo", "signature_name": "", "version": "10"}
    taken = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["image"]
    assert taken["dtype"] == "DT_UINT8"
    assert [size["size"] for size in taken["tensor_shape"]["dim"]] == ["-1", "-1", "-1", "3"]
    assert served.ask(server.url + "/versions/10/metadata") == (200, answer)
    body = json.dumps({"instances": images[:1].tolist()}).encode()
    assert server.post(body, "/versions/10:predict") == server.post(body)
    assert served.ask(server.url, method="HEAD") == (200, None)


def body(**body):
    return json.dumps(body).encode()


IMAGE = [[[0, 0, 0]]]
MALFORMED = {
    "no JSON": (b"image=1", "JSON"),
    "nothing": (b"", "JSON"),
    "not UTF-8": (b'{"instances": ["\xff"]}', "JSON"),
    "NaN": (b'{"signature_name": "logarithm", "instances": [NaN]}', "without NaN"),
    "Infinity": (b'{"signature_name": "logarithm", "instances": [-Infinity]}', "without NaN"),
    "too large": (body(signature_name="logarithm", instances=[1e39]), "finite"),
    "far too large": (b'{"signature_name": "logarithm", "instances": [1e999]}', "JSON|finite"),
    "deep": (b'{"instances": ' + b"[" * 5000 + b"]" * 5000 + b"}", "JSON|deep"),
    "rather deep": (b'{"instances": ' + b"[" * 500 + b"]" * 500 + b"}", "deep"),
    "list": (b"[1]", "object"),
    "no instances": (body(signature_name="serving_default"), "'instances' or 'inputs'"),
    "both": (body(instances=[IMAGE], inputs=[IMAGE]), "'instances' or 'inputs'"),
    "unknown key": (body(instances=[IMAGE], signature="features"), "signature_name"),
    "unknown signature": (body(instances=[IMAGE], signature_name="x"), "one of"),
    "signature of a kind": (body(instances=[IMAGE], signature_name=["x"]), "one of"),
    "no rows": (body(instances=[]), "at least one row"),
    "instances of a kind": (body(instances=3), "at least one row"),
    "rank": (body(instances=IMAGE), "shape"),
    "channels": (body(instances=[[[[0, 0]]]]), r"\(1, 1, 1, 2\)"),
    "empty image": (body(instances=[[]]), "shape"),
    "ragged": (body(instances=[[[[0, 0, 0], [0, 0]]]]), "different lengths"),
    "lists and values": (body(instances=[[[[0, 0, 0], 1]]]), "beside"),
    "fractions": (body(instances=[[[[0, 0, 0.5]]]]), "whole numbers"),
    "texts": (body(instances=[[[["0", "0", "0"]]]]), "whole numbers"),
    "truth": (body(instances=[[[[True, 0, 0]]]]), "whole numbers"),
    "null": (body(instances=[[[[None, 0, 0]]]]), "null"),
    "out of range": (body(instances=[[[[0, 0, 256]]]]), "from 0 to 255"),
    "huge": (b'{"instances": [[[[0, 0, 1' + b"0" * 400 + b"]]]]}", "JSON|whole|255"),
    "unknown input": (body(instances=[{"picture": IMAGE}]), "keys"),
    "mixed": (body(instances=[{"image": IMAGE}, IMAGE]), "row 1"),
    "missing input": (body(signature_name="domain", inputs={"inputs": [[1, 2]]}), "keys"),
    "bare, of two inputs": (body(signature_name="domain", instances=[[1, 2]]), "keys"),
    "columns differ": (body(signature_name="domain", inputs={"inputs": [[1, 2]], "domain": [0, 1]}), "as many rows"),
    "unknown domain": (body(signature_name="domain", instances=[{"inputs": [1, 2], "domain": 7}]), "refused"),
    "number for text": (body(signature_name="text", instances=["a", 1]), "strings"),
    "bad base64": (body(signature_name="text", instances=[{"b64": "?"}]), "BASE64"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_bodies_get_400_with_rule_and_next_step(server, case):
    sent, words = MALFORMED[case]
    status, answer = server.post(sent)
    assert status == 400, answer
    assert answer.keys() == {"error"}
    assert re.search(words, answer["error"]), answer
    assert "Received" in answer["error"] or "refused" in answer["error"]
    assert len(answer["error"]) < 1000


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("x", "GET", 404),
        ("/versions/9", "GET", 404),
        ("/versions/x:predict", "POST", 404),
        ("/labels/stable", "GET", 404),
        (":classify", "POST", 404),
        ("/../../../etc/passwd", "GET", 404),
        (":predict", "GET", 405),
        (":predict", "DELETE", 405),
        ("", "POST", 405),
        ("/metadata", "PUT", 405),
    ],
)
def test_unknown_paths_and_methods(server, path, method, status):
    answer = served.ask(server.url + path, b"{}" if method == "POST" else None, method)
    assert answer[0] == status and "Received" in answer[1]["error"]


def test_a_body_of_100_mb_gets_413(server):
    status, answer = server.post(b" " * 100_000_000)
    assert status == 413 and "at most 16777216 bytes" in answer["error"]


def test_an_answer_that_is_not_finite_fails_its_request_only(server):
    def logarithm(value):
        return server.post(body(signature_name="logarithm", instances=[1.0, value]))

    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(logarithm, [1.0, 0.0] * 20))
    assert {status for status, _ in answers[::2]} == {200}
    assert {status for status, _ in answers[1::2]} == {422}
    assert "rows [1]" in answers[1][1]["error"]


def test_a_refused_request_does_not_fail_the_others(server):
    def ask(domain):
        return server.post(body(signature_name="domain", instances=[{"inputs": [domain, 0], "domain": domain}]))[0]

    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        assert list(clients.map(ask, [0, 1, 7, 1] * 10)) == [200, 200, 400, 200] * 10


def test_parallel_clients_get_their_own_answers_from_common_calls(server, images, expected):
    before = server.metrics()

    def ask(number):
        rows = [number % 40, (7 * number + 3) % 40][: 1 + number % 2]
        is_answer(server.predict(instances=images[rows].tolist())["predictions"], expected[rows])

    with concurrent.futures.ThreadPoolExecutor(16) as clients:
        list(clients.map(ask, range(160)))
    after = server.metrics()
    calls, rows = (
        after[f"nrm_keras_batch_rows_{of}"] - before[f"nrm_keras_batch_rows_{of}"] for of in ("count", "sum")
    )
    assert rows == 240
    assert calls <= 80, "hardly any requests were put together"
    assert after['nrm_keras_batch_rows_bucket{le="16.0"}'] == after["nrm_keras_batch_rows_count"]
    name = 'nrm_keras_requests_total{status="200"}'
    assert after[name] - before[name] == 161  # with the metrics' own
    assert after["nrm_keras_request_seconds_count"] - before["nrm_keras_request_seconds_count"] == 160


def test_the_monitor_judges_samples_of_the_traffic(server, images):
    until = time.monotonic() + 30
    # all alike: whichever of them a sample holds, its score is known
    bright = np.full_like(images, 3).tolist()
    while time.monotonic() < until:
        server.predict(instances=bright)
        figures = server.metrics()
        if figures["nrm_keras_drift_score"] == 3:
            break
    assert figures["nrm_keras_drift_score"] == 3
    assert figures["nrm_keras_drift_p_value"] == pytest.approx(np.exp(-3), rel=1e-5)
    assert figures['nrm_keras_drift_distance{layer="b"}'] == 1.5
    assert figures["nrm_keras_drift_rows"] == 64
    assert figures["nrm_keras_drift_alarms_total"] <= figures["nrm_keras_drift_checks_total"]


def test_prints_what_to_type(server):
    printed = "\n".join(server.lines)
    assert f"curl {server.url}/metadata" in printed
    assert f'curl -d \'{{"signature_name": "logarithm", "instances": [1.0]}}\' {server.url}:predict' in printed
