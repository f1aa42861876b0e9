"""Whether a SavedModel may be served: it is a program, and loading one can run it.

Two things are asked before TensorFlow loads anything. Are the files those of an export of ours? The digest in the model card tells,
but whoever can write the folder can write a digest too: it shows mistakes, and models from elsewhere, not a forger. So the graph
itself is searched, ours or not, for operations that read or write files or run Python. What remains is what such a search can't
see: a model may still eat memory or time, or meet a flaw in one of TensorFlow's own operations.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from nrm_keras.errors import UserError
from nrm_keras.serving.digest import MODEL_CARD, digest, files
from nrm_keras.training.interrupt import tidy_on_sigterm

GRAPH = "saved_model.pb"
OTHER_GRAPHS = ("saved_model.pbtxt", "saved_model.cpb")  # some loaders prefer them to the one that was searched
SHOWN = 12  # objections that a message lists


def check(version_dir: Path, *, trust: bool = False) -> None:
    """Raises where a SavedModel should not be served; with trust it only warns, on stderr.

    Args:
        version_dir: The folder that holds saved_model.pb.
        trust: Whether the user vouches for the model.

    Raises:
        UserError: If the folder holds no readable SavedModel, or, without trust, where `objections` finds something.

    Example:

        check(Path("models/digits/1"))
    """
    version_dir = Path(version_dir)
    found = objections(version_dir)
    if not found:
        return
    more = f"\n  - and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    listed = "".join(f"\n  - {objection}" for objection in found[:SHOWN]) + more
    if not trust:
        raise UserError(
            "A SavedModel is a program, and is served if nrm_keras exported it and its graph neither touches files nor runs "
            f"Python. Received: {version_dir}:{listed}\n"
            "Export the run again, or, if you know who made this model and would run a program of theirs, add --trust."
        )
    print(f"Warning: {version_dir} is served because of --trust:{listed}", file=sys.stderr)


@contextlib.contextmanager
def checked(version_dir: Path, *, trust: bool = False) -> Iterator[Path]:
    """The folder to load a checked model from: what was checked can't be changed before it is loaded.

    That is a copy that nobody else can write to, and that goes at the end of the block; with trust, the folder itself.

    Raises:
        UserError: As `check` does, and where the files change meanwhile.
    """
    check(version_dir, trust=trust)
    if trust:
        yield version_dir
        return
    with tidy_on_sigterm(), tempfile.TemporaryDirectory() as private:
        copy = Path(private, version_dir.name)
        shutil.copytree(version_dir, copy, symlinks=True)
        if found := objections(copy):
            raise UserError(
                f"A model stays as it is while it is read. Received: {version_dir}, with {found[0]}. Serve it again."
            )
        yield copy


def objections(version_dir: Path) -> list[str]:
    """What speaks against serving a SavedModel; nothing is loaded, its graph is only read."""
    try:
        places = [name for name, _ in files(version_dir)]
    except UserError as error:
        return [str(error), *_of_graph(version_dir)]
    return [
        *_of_digest(version_dir),
        *(f"{name}, a second graph beside {GRAPH}" for name in OTHER_GRAPHS if name in places),
        *_of_graph(version_dir),
    ]


def card(version_dir: Path) -> dict:
    """The model card as written, empty where there is none that can be read."""
    path = Path(version_dir) / MODEL_CARD
    try:
        read = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _of_digest(version_dir: Path) -> list[str]:
    stated = card(version_dir).get("digest")
    if stated is None:
        return [f"no {MODEL_CARD} with a digest, so it is no export of nrm_keras"]
    actual = digest(version_dir)
    if stated != actual:
        return [f"its files have changed since the export: the card's digest is {stated!r:.90}, theirs is '{actual}'"]
    return []


def _of_graph(version_dir: Path) -> list[str]:
    from nrm_keras.serving.server import operations

    saved_model = read_graph(version_dir)
    # Otherwise TensorFlow loads it as its version 1 did, which runs nodes of the graph.
    if len(saved_model.meta_graphs) != 1 or not saved_model.meta_graphs[0].HasField("object_graph_def"):
        return ["not one graph with objects, as TensorFlow 2 saves it"]
    meta_graph = saved_model.meta_graphs[0]
    found = list(dict.fromkeys(operations.objections(meta_graph)))
    names = [asset.filename for asset in meta_graph.asset_file_def]
    found += [f"an asset outside its folder: {name!r}" for name in names if _leaves(name)]
    return found


def read_graph(version_dir: Path):
    """The SavedModel message of saved_model.pb. To parse it runs nothing of it."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = Path(version_dir) / GRAPH
    try:
        if not path.is_file():  # a pipe would never end
            raise OSError("no file")
        return SavedModel.FromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(
            f"A model's version is a folder with a {GRAPH} that TensorFlow saved. Received: {path}: {error}. "
            "Give the folder that `export` wrote, or export again."
        ) from error


def _leaves(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or "://" in name
