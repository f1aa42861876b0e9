"""One atomic file with the whole state of a training, and the one before it."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np

from nrm_keras.errors import UserError

CURRENT, PREVIOUS, PARTIAL = "state.npz", "state.previous.npz", "state.partial"


def write(directory: Path, meta: dict, arrays: dict[str, np.ndarray]) -> None:
    """Writes `state.npz` so that a kill at any moment leaves a complete file: either this one or the one before.

    Args:
        directory: made if need be.
        meta: JSON values.
        arrays: any dtype, bfloat16 too.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # as bytes: NumPy's format has no name for bfloat16
    layout = {name: [array.dtype.name, list(array.shape)] for name, array in arrays.items()}
    content = {name: np.frombuffer(array.tobytes(), "uint8") for name, array in arrays.items()}
    text = json.dumps({"meta": meta, "layout": layout}, default=float)  # NumPy's numbers, which callbacks may log
    try:
        with open(directory / PARTIAL, "wb") as file:
            np.savez(file, **content, json=np.frombuffer(text.encode(), "uint8"))
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # most likely the disk is full: what can't be used should not fill it
        (directory / PARTIAL).unlink(missing_ok=True)
        raise
    if (directory / CURRENT).exists():
        os.replace(directory / CURRENT, directory / PREVIOUS)
    os.replace(directory / PARTIAL, directory / CURRENT)
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)  # the renames themselves
    finally:
        os.close(handle)


def read(directory: Path, say=print) -> tuple[dict, dict[str, np.ndarray]] | None:
    """The newest complete snapshot, or None where there is none; says so when it has to fall back.

    Raises:
        UserError: there are files, and none is complete.
    """
    broken = []
    for name in (CURRENT, PREVIOUS):
        path = directory / name
        if not path.exists():
            continue
        try:
            snapshot = _read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, TypeError) as error:
            broken.append(f"{path} ({type(error).__name__}: {error})")
            continue
        if broken:
            say(f"Checkpoint {broken[0]} is damaged; going on from the one before it, {path}.")
        return snapshot
    if broken:
        raise UserError(
            f"Every checkpoint is damaged: {', '.join(broken)}. Delete them to begin again in this directory, or start a new run."
        )
    return None


def _read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    import ml_dtypes  # noqa: F401  makes np.dtype("bfloat16") known

    # zip keeps a checksum of every member, and reading checks it; of a damaged file NumPy would leave the handle open
    with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
        text = json.loads(file["json"].tobytes())
        arrays = {
            name: np.frombuffer(file[name].tobytes(), np.dtype(dtype)).reshape(shape)
            for name, (dtype, shape) in text["layout"].items()
        }
    return text["meta"], arrays
