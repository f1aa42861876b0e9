"""The data sets that recipes can name, and where they are on this machine."""

from __future__ import annotations

from pathlib import Path

from nrm_keras.data.source import Source, is_own
from nrm_keras.data.sources import SOURCES
from nrm_keras.errors import UserError
from nrm_keras.recipe.problems import did_you_mean

COLUMNS = ("name", "what", "here", "size", "licence", "from")


def rows() -> list[tuple[str, ...]]:
    """A row per source: name, what it is, where it is here, size, licence, where it is from."""
    return [
        (name, source.what, _here(source), source.size, source.licence, source.where_from)
        for name, source in SOURCES.items()
    ]


def _here(source: type[Source]) -> str:
    return "anywhere" if is_own(source) else source.find() or "no"


def prepare(name: str, archives: Path | None = None, accept_checksum: bool = False) -> str:
    """Makes a public data set ready and says where it is; see `Source.prepare`.

    Raises:
        UserError: no such data set, or it can't be had.
    """
    if name not in SOURCES:
        raise UserError(f"data prepare takes public data sets. Received: {name}.{did_you_mean(name, SOURCES)}")
    if archives is not None and not archives.exists():
        raise UserError(f"--from needs an archive or a folder. Received: {archives}, which does not exist.")
    if accept_checksum and archives is None:
        raise UserError("--accept-checksum is for archives. Received: no --from.")
    return str(SOURCES[name].prepare(archives, accept_checksum))
