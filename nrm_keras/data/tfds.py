"""Public data sets through TensorFlow Datasets (TFDS), from wherever their bytes can be had.

The order: a prepared TFDS directory, archives the user put into the manual directory (or gave to `data prepare`), an
installed Debian package, a download.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import shutil
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from nrm_keras.data.examples import Examples, Split
from nrm_keras.data.source import Source, data_dir, not_here
from nrm_keras.errors import PROGRAM, UserError

SPLITS = ("train", "validation", "test")


def manual_dir() -> Path:
    """Where TFDS looks for archives that were downloaded by hand."""
    return data_dir() / "downloads" / "manual"


class TfdsSource(Source):
    """A TFDS data set. Its own splits are used; what it lacks is held out.

    Attributes:
        archives: the file names TFDS knows them by.
        config: the folder of TFDS's configuration, where it has several.
        package: a Debian package with the same data.
    """

    archives: tuple[str, ...]
    config = ""
    package: str | None = None
    where_from = "TensorFlow Datasets"

    @classmethod
    def find(cls, data=None) -> str | None:
        if cls._prepared():
            return str(cls._prepared())
        if cls._missing_archives(manual_dir()) == []:
            return str(manual_dir())
        return f"Debian package {cls.package}" if cls._package_splits() else None

    @classmethod
    def load(cls, data, limit=None) -> Examples:
        tried = [f"prepared TFDS data in {data_dir() / cls.name}"]
        if not cls._prepared():
            tried.append(f"{', '.join(cls.archives)} in {manual_dir()}")
            if cls._missing_archives(manual_dir()) == []:
                prepare(cls, manual_dir())
        if not cls._prepared() and cls.package:
            tried.append(f"Debian package {cls.package}")
            if read := cls._package_splits():
                return cls._examples(data, read(), None, f"Debian package {cls.package}")
        if not cls._prepared():
            cls.download(tried)
        return cls._from_tfds(data, limit)

    @classmethod
    def prepare(cls, archives: Path | None = None, accept_checksum: bool = False) -> Path | str:
        if archives is not None:
            return prepare(cls, archives, accept_checksum)
        return cls.find() or cls.download([])

    @classmethod
    def download(cls, tried: list[str]) -> Path:
        """Lets TFDS download the data; if that fails, says what was `tried` before it and what supplies the data."""
        try:
            return prepare(cls)
        except UserError as error:
            tried = [*tried, "a download through TFDS"]
            raise UserError(not_here(cls.name, tried, error, cls._ways())) from error

    @classmethod
    def _from_tfds(cls, data, limit: int | None) -> Examples:
        """The examples, from the prepared TFDS directory."""
        builder = open_builder(cls._prepared())
        part = f"[:{cls._enough(limit)}]" if limit else ""
        present = [name for name in SPLITS if name in builder.info.splits]
        splits = {name: cls._read(builder.as_dataset(split=f"{name}{part}"), data) for name in present}
        names = tuple(builder.info.features["label"].names)
        return cls._examples(data, splits, names, str(cls._prepared()))

    @classmethod
    def _enough(cls, limit: int) -> int:
        """How many examples to read so that `limit` are left."""
        return limit

    @classmethod
    def _read(cls, dataset, data) -> Split:
        """All of a split, a `tf.data.Dataset` of the features by name."""
        raise NotImplementedError

    @classmethod
    def _examples(cls, data, splits, names: tuple[str, ...] | None, origin: str) -> Examples:
        """The examples of the splits that there are; `names` are TFDS's of the classes."""
        raise NotImplementedError

    @classmethod
    def _prepared(cls) -> Path | None:
        found = (data_dir() / cls.name / cls.config).glob("*/dataset_info.json")
        versions = sorted(path.parent for path in found if "incomplete" not in path.parent.name)  # of a killed process
        return versions[-1] if versions else None

    @classmethod
    def _missing_archives(cls, folder: Path) -> list[str]:
        return [name for name in cls.archives if not (folder / name).is_file()]

    @classmethod
    def _package_splits(cls) -> Callable | None:
        """What reads the splits out of the Debian package; None where it is not installed."""
        return None

    @classmethod
    def _ways(cls) -> list[str]:
        ways = [
            f"{PROGRAM} data prepare {cls.name}   (where there is a network)",
            f"{PROGRAM} data prepare {cls.name} --from FOLDER   (a folder with {', '.join(cls.archives)})",
        ]
        return ways + ([f"apt-get install {cls.package}"] if cls.package else [])


def open_builder(folder: Path):
    """TFDS's builder of a prepared folder.

    Raises:
        UserError: the folder is damaged.
    """
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(str(folder))
    except Exception as error:  # JSON, protobuf and files, each with errors of its own
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{folder}: not a prepared TFDS folder. Received: {why}. Remove it and prepare it again."
        ) from error


def prepare(source: type[TfdsSource], archives: Path | None = None, accept_checksum: bool = False) -> Path:
    """Lets TFDS build its files, from archives in a folder or, without one, from a download.

    Args:
        source: a TFDS source.
        archives: the folder with the archives, or the one archive.
        accept_checksum: take archives whose checksum differs from the registered one, such as a subset of the data.
    """
    if archives is not None:
        archives = archives if archives.is_dir() else archives.parent
        if missing := source._missing_archives(archives):
            raise UserError(
                f"{archives}: {source.name} is made from {', '.join(source.archives)}. Missing: {', '.join(missing)}."
            )
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its ten retries, a warning each
    builder = tfds.builder(source.name, data_dir=str(data_dir()))
    if accept_checksum:
        _register_checksums(builder, archives)
    if archives is None:
        url = next(iter(builder.url_infos))
        _require_answer(url)
        print(f"{source.name}: downloading from {url.rpartition('/')[0]}; Ctrl-C stops it", file=sys.stderr, flush=True)
    config = tfds.download.DownloadConfig(manual_dir=str(archives) if archives else None)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # sizes it calls unknown; its progress bar is on stderr
            builder.download_and_prepare(download_config=config)
    except Exception as error:  # TFDS raises whatever its HTTP client does
        shutil.rmtree(f"{builder.data_dir}.incomplete", ignore_errors=True)
        raise UserError(_why(error, source)) from error
    return Path(builder.data_dir)


def _require_answer(url: str) -> None:
    """TFDS tries ten times, over minutes; a machine without a network should hear so at once."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except (OSError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        raise UserError(f"{url} does not answer: {reason}") from error


def _register_checksums(builder, archives: Path) -> None:
    from tensorflow_datasets.core.download import checksums

    for url, info in list(builder.url_infos.items()):
        builder.url_infos[url] = checksums.compute_url_info(archives / info.filename)


def _why(error: Exception, source) -> str:
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    if isinstance(error, NonMatchingChecksumError):
        return (
            f"{source.name}: an archive's checksum is not the registered one, so it is damaged or another data set."
            " Get it again, or add --accept-checksum if you made it yourself."
        )
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]
