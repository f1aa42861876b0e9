"""The data sets that recipes can name, and where they are on this machine."""

from __future__ import annotations

from pathlib import Path

from nrm_keras.data import tfds
from nrm_keras.errors import PROGRAM, UserError
from nrm_keras.recipe.problems import did_you_mean

COLUMNS = ("name", "what", "where")

_OWN = {"npz": "your own NumPy archive: data.path", "folder": "your own folder of images: data.path"}


def rows() -> list[tuple[str, str, str]]:
    """A row per source: name, what it is, where it is here."""
    public = [
        (name, source.what, source.find() or f"not here; {PROGRAM} data prepare {name} gets it")
        for name, source in tfds.SOURCES.items()
    ]
    digits = ("digits", "1,797 handwritten digits, 8x8, 10 classes", "scikit-learn")
    return [digits, *public, *((name, what, "anywhere") for name, what in _OWN.items())]


def prepare(name: str, archives: Path | None = None, accept_checksum: bool = False) -> str:
    """Makes a public data set ready and says where it is; see `tfds.prepare`.

    Raises:
        UserError: no such data set, or it can't be had.
    """
    if name == "digits":
        return "scikit-learn brings it; nothing to prepare"
    if name not in tfds.SOURCES:
        known = ("digits", *tfds.SOURCES)
        raise UserError(f"data prepare takes one of {', '.join(known)}. Received: {name}.{did_you_mean(name, known)}")
    if archives is not None and not archives.exists():
        raise UserError(f"--from needs an archive or a folder. Received: {archives}, which does not exist.")
    if accept_checksum and archives is None:
        raise UserError("--accept-checksum is for archives. Received: no --from.")
    source = tfds.SOURCES[name]
    if archives is None and (where := source.find()):
        return where
    if archives is None:
        return str(source.download([]))
    return str(tfds.prepare(source, archives, accept_checksum))
