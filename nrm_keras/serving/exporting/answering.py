"""A program: what an exported model answers, in a process that knows nothing of the one that made it.

`python answering.py RUNTIME MODEL REQUESTS ANSWERS` answers the requests of an .npz file, asked for in its array `plan`, and writes
another one. It imports nothing of this package, and of a SavedModel not even Keras: those who deploy it have neither.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import numpy as np

Answer = Callable[[str, dict], dict]


def saved_model(path: str) -> Answer:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)  # a reference of its own: the signatures don't keep it alive
    return lambda signature, inputs: {
        name: value.numpy()
        for name, value in loaded.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()}).items()
    }


def onnx(path: str) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda signature, inputs: dict(zip(names, session.run(names, inputs), strict=True))


def litert(path: str) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    runner = interpreter.get_signature_runner()
    return lambda signature, inputs: runner(**inputs)


RUNTIMES = {"savedmodel": saved_model, "onnx": onnx, "litert": litert}


def answers(answer: Answer, requests: dict[str, np.ndarray], plan: list[dict]) -> dict[str, np.ndarray]:
    """The answers of each request of the plan, one behind the other, by `key/output`."""
    found = {}
    for asked in plan:
        inputs = {name: requests[array] for name, array in asked["inputs"].items()}
        count, size = len(next(iter(inputs.values()))), asked["batch"]
        parts = [
            answer(asked["signature"], {name: values[start : start + size] for name, values in inputs.items()})
            for start in range(0, count, size)
        ]
        join = np.concatenate if asked["rows"] else np.stack
        for name in parts[0]:
            values = join([part[name] for part in parts])
            found[f"{asked['key']}/{name}"] = values.astype("S") if values.dtype == object else values
    return found


def main(runtime: str, model: str, requests: str, written: str) -> None:
    with np.load(requests, allow_pickle=False) as arrays:
        given = dict(arrays)
    plan = json.loads(str(given.pop("plan")))
    np.savez(written, **answers(RUNTIMES[runtime](model), given, plan))


if __name__ == "__main__":
    main(*sys.argv[1:])
