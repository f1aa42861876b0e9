"""Verbs that make a model ready to be served, and that serve it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from nrm_keras.cli.arguments import add_allow_imports, add_verb
from nrm_keras.errors import UserError


def export(arguments: argparse.Namespace) -> None:
    from nrm_keras.serving.export import export

    export(
        arguments.run,
        arguments.destination,
        version=arguments.version,
        format=arguments.format,
        name=arguments.name,
        classes=arguments.classes,
        specialized=arguments.specialize,
        gate_tolerance=arguments.gate_tolerance,
        tolerance=arguments.tolerance,
        monitor=arguments.monitor,
        allow_imports=arguments.allow_imports,
        **_examples(arguments.inputs),
    )


def _examples(path: str | None) -> dict:
    """The arrays x and y of a file."""
    if path is None:
        return {}
    from nrm_keras.data.files import read_arrays

    arrays = read_arrays(Path(path))
    if "x" not in arrays:
        raise UserError(f"--inputs: an .npz file with x, and y if there are labels. Received: {path}, without x.")
    return {"inputs": arrays["x"], "labels": arrays.get("y")}


def serve(arguments: argparse.Namespace) -> None:
    from nrm_keras.serving import serve as server

    taken = {name: value for name, value in vars(arguments).items() if name in server.Options.__dataclass_fields__}
    taken["max_wait"] = arguments.max_wait / 1e3
    taken["max_body"] = int(arguments.max_body * 2**20)
    server.serve(Path(arguments.directory), server.Options(**taken))


def _number(kind: type, least: float, below: float = math.inf) -> Callable[[str], float]:
    """A parser of numbers from `least` up to, but not including, `below`."""

    def parse(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not least <= number < below:
            said = "a whole number" if kind is int else "a number"
            limit = "" if below == math.inf else f" and below {below}"
            raise argparse.ArgumentTypeError(f"{said} from {least}{limit} is expected. Received: {text}")
        return number

    return parse


def _names(text: str) -> list[str]:
    names = text.split(",")
    if len(set(names)) < len(names) or not all(names):
        raise argparse.ArgumentTypeError(f"different names between commas are expected. Received: {text!r}")
    return names


_port, _count = _number(int, 0, 2**16), _number(int, 1, 2**20)
_share = _number(float, 0, 1)
_amount, _positive = _number(float, 0, 1e6), _number(float, 0.001, 1e6)


def add(subparsers) -> None:
    """Adds these verbs to the parser."""
    _add_export(subparsers)
    _add_serve(subparsers)


def _add_export(subparsers) -> None:
    parser = add_verb(
        subparsers,
        "export",
        export,
        "export a finished run for serving, after checking that it answers as it was trained",
        "export runs/images/digits_adaptive/20260102-030405-abcdef served/digits",
        "export RUN served/digits --version 2",
        "export RUN phones/digits --format litert",
        "export model.keras served/mine --inputs examples.npz --classes cat,dog",
    )
    parser.add_argument("run", metavar="RUN", help="a run directory, or a .keras file")
    parser.add_argument(
        "destination", metavar="DEST", help="the model's directory: DEST/1 is made, with its model card"
    )
    parser.add_argument("--version", type=int, default=1, metavar="N", help="make DEST/N (default: 1)")
    parser.add_argument("--format", default="savedmodel", help="savedmodel, onnx or litert (default: savedmodel)")
    parser.add_argument("--name", help="what servers call the model (default: the name of DEST)")
    parser.add_argument(
        "--no-specialize",
        dest="specialize",
        action="store_false",
        help="export the layers as they were trained: fold no normalizer",
    )
    parser.add_argument(
        "--gate-tolerance",
        type=_share,
        default=1e-3,
        metavar="T",
        help="an adaptive layer whose gate is so close to 1 (or 0) becomes batch (or group) normalization (default: 1e-3)",
    )
    parser.add_argument(
        "--tolerance",
        type=_share,
        default=1e-4,
        metavar="T",
        help="the largest difference from the Keras model that is taken, as a share of the largest output (default: 1e-4)",
    )
    parser.add_argument("--no-monitor", dest="monitor", action="store_false", help="leave the drift monitor out")
    parser.add_argument(
        "--inputs", metavar="FILE", help="for a .keras file: an .npz file with real examples x, labels y"
    )
    parser.add_argument(
        "--classes", type=_names, metavar="A,B,...", help="for a .keras file that classifies: the names of its classes"
    )
    add_allow_imports(parser)


def _add_serve(subparsers) -> None:
    parser = add_verb(
        subparsers,
        "serve",
        serve,
        "serve an exported model over HTTP, with TensorFlow Serving's REST API",
        "serve models/digits",
        "serve models/digits --port 0 --monitor",
        "serve models/digits --host 0.0.0.0 --max-batch 32",
    )
    parser.add_argument("directory", metavar="DIR", help="the folder that `export` wrote; its newest version is served")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=_port, default=8501, help="port, 0 for any that is free (default: 8501)")
    parser.add_argument("--name", help="name of the model in the URL (default: the folder's)")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="serve a model that nrm_keras did not export: that runs a program of its maker",
    )
    parser.add_argument("--monitor", action="store_true", help="judge samples of the requests by the drift monitor")
    parser.add_argument(
        "--max-batch", type=_count, default=64, metavar="ROWS", help="of one call of the model (default: 64)"
    )
    parser.add_argument(
        "--max-wait",
        type=_amount,
        default=5,
        metavar="MS",
        help="that a call waits for clients just answered, under load only (default: 5)",
    )
    parser.add_argument("--max-rows", type=_count, default=1024, metavar="ROWS", help="of one request (default: 1024)")
    parser.add_argument("--max-body", type=_positive, default=16, metavar="MB", help="of one request (default: 16)")
    parser.add_argument(
        "--max-queue",
        type=_count,
        default=2048,
        metavar="ROWS",
        help="that wait for the model; then 503 (default: 2048)",
    )
    parser.add_argument(
        "--max-connections", type=_count, default=512, metavar="N", help="clients at a time; then 503 (default: 512)"
    )
    parser.add_argument(
        "--parallel",
        type=_number(int, 1, 257),
        default=1,
        metavar="N",
        help="calls of the model at a time (default: 1)",
    )
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=30,
        metavar="SECONDS",
        help="to send a request or take an answer (default: 30)",
    )
