"""The verb that makes a model ready to be served."""

from __future__ import annotations

import argparse
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
        classes=arguments.classes and arguments.classes.split(","),
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


def add(subparsers) -> None:
    """Adds this verb to the parser."""
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
        type=float,
        default=1e-3,
        metavar="T",
        help="an adaptive layer whose gate is so close to 0 or 1 becomes that normalizer (default: 1e-3)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        metavar="T",
        help="the largest difference from the Keras model that is taken, as a share of the largest output (default: 1e-4)",
    )
    parser.add_argument("--no-monitor", dest="monitor", action="store_false", help="leave the drift monitor out")
    parser.add_argument(
        "--inputs", metavar="FILE", help="for a .keras file: an .npz file with real examples x, labels y"
    )
    parser.add_argument(
        "--classes", metavar="A,B,...", help="for a .keras file that classifies: the names of its classes"
    )
    add_allow_imports(parser)
