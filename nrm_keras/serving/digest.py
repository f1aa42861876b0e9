"""The digest of an exported model's files, which its model card states: whether they are still those of the export."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path

from nrm_keras.errors import UserError

MODEL_CARD = "model_card.json"
README = "README.md"
EXAMPLE_REQUEST = "assets.extra/example_request.json"  # the body of a predict request, as curl sends it
NOT_COUNTED = (MODEL_CARD, README)  # the card holds the digest, and both are for people


def digest(version_dir: Path) -> str:
    """`sha256:` and the SHA-256 of the list of a version folder's files, each line as sha256sum prints it, sorted by name.

    The model card and its README.md are left out, and empty folders don't count.

    Args:
        version_dir: The folder that holds saved_model.pb.

    Raises:
        UserError: If it is no folder, or holds a link, a pipe or the like, or a file whose name does not fit on a line.

    Example:

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "saved_model.pb").write_bytes(b"graph")
    >>> digest(folder)[:20]
    'sha256:2a5e2aac00de0'
    """
    lines = []
    for name, path in files(Path(version_dir)):
        if name in NOT_COUNTED:
            continue
        with open(path, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The relative name and the path of every file in a folder and its folders, sorted by the names' bytes."""
    if not folder.is_dir():
        raise UserError(
            f"A version of a model is a folder. Received: {folder}. Give the folder that holds saved_model.pb."
        )
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name, path in sorted(found.items(), key=lambda item: item[0].encode(errors="surrogateescape")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise UserError(
                f"An exported model holds files only, no links, pipes or devices. Received: {path}. "
                "Put the file itself in its place, or export the model again."
            )
        if not name.isprintable() or "\\" in name:
            raise UserError(
                f"The names of an exported model's files are printable and have no backslash. Received: {name!r}. "
                "Rename the file, or export the model again."
            )
        yield name, path
