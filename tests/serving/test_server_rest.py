"""Answers that are written in pieces, and what is refused before any model is asked."""

import json
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from nrm_keras.errors import UserError
from nrm_keras.serving.server import rest, served_model
from nrm_keras.serving.server.refusal import Refusal
from nrm_keras.serving.server.served_model import Signature, TensorSpec


def request(row_format, **outputs):
    spec = TensorSpec(np.dtype("float32"), (None,))
    signature = Signature("any", {"x": spec}, dict.fromkeys(outputs, spec), None)
    return rest.Request(signature, {"x": np.zeros(1, "float32")}, row_format)


@pytest.mark.parametrize("shape", [(20_000,), (9_000, 3), (3, 20_000), (2, 3, 30, 400), (2, 0, 5), (1, 1)])
@pytest.mark.parametrize("row_format", [True, False])
def test_an_answer_in_pieces_is_the_same_json(shape, row_format):
    values = np.random.default_rng(0).normal(size=shape).astype("float32")
    labels = np.full(shape[:1], "é".encode(), object)
    answer = json.loads(rest.render(request(row_format, a=values), {"a": values}))
    assert np.float32(answer["predictions" if row_format else "outputs"]).tolist() == values.tolist()
    answer = json.loads(rest.render(request(row_format, a=values, b=labels), {"a": values, "b": labels}))
    if row_format:
        assert np.float32([row["a"] for row in answer["predictions"]]).tolist() == values.tolist()
        assert [row["b"] for row in answer["predictions"]] == ["é"] * shape[0]
    else:
        assert np.float32(answer["outputs"]["a"]).tolist() == values.tolist()
        assert answer["outputs"]["b"] == ["é"] * shape[0]


def test_others_run_while_a_large_answer_is_written():
    values = np.random.default_rng(0).normal(size=(1, 5_000_000))
    writer = threading.Thread(target=rest.render, args=(request(True, a=values), {"a": values}))
    writer.start()
    longest, last = 0.0, time.perf_counter()
    while writer.is_alive():
        time.sleep(0.001)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    assert longest < 0.2, "in one piece it takes about a second"


def test_too_many_rows_are_refused_before_they_are_looked_at():
    signature = request(True, a=None).signature
    for key in ("instances", "inputs"):
        body = json.dumps({"signature_name": "any", key: [{}] * 9}).encode()  # no numbers at all
        with pytest.raises(Refusal, match="at most 8 rows. Received: 9"):
            rest.parse(body, {"any": signature}, 8)


FOREIGN = {
    "'y' of complex64": (lambda x: {"y": tf.cast(x, tf.complex64)}, [tf.TensorSpec((None,), name="x")]),
    "no inputs": (lambda: {"y": tf.constant([1.0])}, []),
}


@pytest.mark.parametrize("received", FOREIGN)
def test_signatures_that_json_cannot_say_are_refused_at_the_start(received, tmp_path):
    function, signature = FOREIGN[received]
    module = tf.Module()
    module.answer = tf.function(function, input_signature=signature)
    tf.saved_model.save(module, tmp_path / "1", signatures={"odd": module.answer})
    with pytest.raises(UserError, match=f"signature 'odd' with {received}"):
        served_model.load(tmp_path / "1", "foreign")
