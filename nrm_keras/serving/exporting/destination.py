"""Where an exported model goes: `DEST/VERSION/`, which appears as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from nrm_keras.errors import UserError
from nrm_keras.training.interrupt import tidy_on_sigterm


def check(directory: Path, version: int) -> Path:
    """The path of a version that is still free.

    Raises:
        UserError: the version is no number from 1, or is there already, or there is no place for it.
    """
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise UserError(f"A version is a whole number from 1. Received: {version!r}. Choose one with --version.")
    path = directory / str(version)
    if os.path.lexists(path):
        raise UserError(
            f"{path}: an exported model is never overwritten. Received: a version that is there already."
            f" Add --version {_next_version(directory)}, or choose another directory."
        )
    above = next(parent for parent in (directory, *directory.absolute().parents) if os.path.lexists(parent))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "a directory that is not writable" if above.is_dir() else "a file"
        raise UserError(
            f"{directory}: an export needs a directory to write to. Received: {above}, {what}. Choose another."
        )
    return path


def _next_version(directory: Path) -> int:
    return 1 + max((int(path.name) for path in directory.iterdir() if path.name.isdecimal()), default=0)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path` to write to, which becomes `path` at the end of the block.

    Where the block fails or is interrupted, by Ctrl-C or SIGTERM, the folder goes, and with it the directories that were
    made for it.

    Raises:
        UserError: the system refuses, or another process has made that version meanwhile.
    """
    made = [parent for parent in (path.parent, *path.parent.parents) if not parent.exists()]
    # not the process's number: on a volume that several containers share all of them may be number 1
    partial = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with tidy_on_sigterm():
        try:
            partial.mkdir(parents=True)
            yield partial
            check(path.parent, int(path.name))
            partial.rename(path)
        except OSError as error:
            raise UserError(
                f"{path}: the system refused: {error}. Nothing was exported. Free space or choose another directory."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            for parent in made:  # the innermost first; one with something in it stays
                with contextlib.suppress(OSError):
                    parent.rmdir()
