"""Public data sets through TensorFlow Datasets (TFDS), from wherever their bytes can be had.

The order: a prepared TFDS directory, archives the user put into the manual directory (or gave to `data prepare`), an
installed Debian package, a download.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import logging
import shutil
import sys
import urllib.request
from pathlib import Path

import numpy as np

from nrm_keras.data.examples import Examples, Split, holdout
from nrm_keras.data.source import data_dir
from nrm_keras.errors import UserError


def manual_dir() -> Path:
    """Where TFDS looks for archives that were downloaded by hand."""
    return data_dir() / "downloads" / "manual"


class _TfdsSource:
    """A TFDS image classification set with the splits train and test."""

    name: str
    what: str
    archives: tuple[str, ...]  # the file names TFDS knows them by
    shape: tuple[int, ...]
    classes: tuple[str, ...] | None = None  # where TFDS only numbers them
    package: str | None = None  # a Debian package with the same data

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
        if cls._prepared():
            return cls._examples(data, *cls._tfds_splits(limit))
        if cls.package:
            tried.append(f"Debian package {cls.package}")
            if splits := cls._package_splits():
                return cls._examples(data, splits, cls.classes, f"Debian package {cls.package}")
        cls.download(tried)
        return cls._examples(data, *cls._tfds_splits(limit))

    @classmethod
    def download(cls, tried: list[str]) -> Path:
        """Lets TFDS download the data; if that fails, says what was `tried` before it and what supplies the data."""
        try:
            return prepare(cls)
        except UserError as error:
            raise UserError(cls._how_to_supply([*tried, "a download through TFDS"], error)) from error

    @classmethod
    def _examples(cls, data, splits, classes, origin) -> Examples:
        train, validation = holdout(splits["train"], data.validation, data.split_seed)
        return Examples(classes, train, validation, splits["test"], origin, cls.shape)

    @classmethod
    def _prepared(cls) -> Path | None:
        versions = sorted((data_dir() / cls.name).glob("*/dataset_info.json"))
        return versions[-1].parent if versions else None

    @classmethod
    def _missing_archives(cls, folder: Path) -> list[str]:
        return [name for name in cls.archives if not (folder / name).is_file()]

    @classmethod
    def _tfds_splits(cls, limit):
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(str(cls._prepared()))
        part = f"[:{limit}]" if limit else ""
        splits = {}
        for name in ("train", "test"):
            # batch_size=-1 is the whole split at once; 180 MB for CIFAR-10
            images, labels = builder.as_dataset(split=f"{name}{part}", batch_size=-1, as_supervised=True)
            splits[name] = Split(images.numpy(), labels.numpy().astype("int32"))
        return splits, cls.classes or tuple(builder.info.features["label"].names), str(cls._prepared())

    @classmethod
    def _package_splits(cls):
        return None

    @classmethod
    def _how_to_supply(cls, tried: list[str], error: Exception) -> str:
        ways = [
            f"python -m nrm_keras data prepare {cls.name} --from FOLDER   (a folder with {', '.join(cls.archives)})"
        ]
        if cls.package:
            ways.append(f"apt-get install {cls.package}")
        return "\n".join(
            [f"{cls.name}: the data is not on this machine. Tried, in this order:"]
            + [f"  {number}. {what}" for number, what in enumerate(tried, 1)]
            + [f"The download failed: {error}", "Any of these supplies it:"]
            + [f"  {way}" for way in ways]
        )


class FashionMnist(_TfdsSource):
    """Fashion-MNIST (Xiao et al. 2017)."""

    name = "fashion_mnist"
    what = "60,000 + 10,000 pictures of clothes, 28x28 grey, 10 classes"
    archives = tuple(f"{s}-{k}-ubyte.gz" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1"))
    shape = (28, 28, 1)
    classes = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    package = "dataset-fashion-mnist"
    package_dir = Path("/usr/share/datasets/fashion-mnist")

    @classmethod
    def _package_splits(cls):
        if cls._missing_archives(cls.package_dir):
            return None
        return _IdxSplits(cls.package_dir, {"train": "train", "test": "t10k"})


class Cifar10(_TfdsSource):
    """CIFAR-10 (Krizhevsky 2009)."""

    name = "cifar10"
    what = "50,000 + 10,000 colour pictures, 32x32, 10 classes"
    archives = ("cifar-10-binary.tar.gz",)
    shape = (32, 32, 3)


SOURCES = {source.name: source for source in (FashionMnist, Cifar10)}


class _IdxSplits:
    """Reads MNIST's idx files at the first use, so that `find` opens nothing."""

    def __init__(self, folder: Path, prefixes: dict[str, str]):
        self._folder, self._prefixes = folder, prefixes

    def __getitem__(self, split: str) -> Split:
        prefix = self._prefixes[split]
        images = _read_idx(self._folder / f"{prefix}-images-idx3-ubyte.gz")
        return Split(images[..., None], _read_idx(self._folder / f"{prefix}-labels-idx1-ubyte.gz").astype("int32"))


def _read_idx(path: Path) -> np.ndarray:
    """One idx file: two zero bytes, 8 for uint8, the rank, the big-endian sizes, the values (LeCun's MNIST page)."""
    with gzip.open(path) as file:
        content = file.read()
    rank = content[3]
    if content[:3] != b"\0\0\x08":
        raise UserError(f"{path}: not an idx file of bytes. Received: it starts with {content[:4].hex()}.")
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, "uint8", offset=4 + 4 * rank).reshape(shape)


def prepare(source: type[_TfdsSource], archives: Path | None = None, accept_checksum: bool = False) -> Path:
    """Lets TFDS build its files, from archives in a folder or, without one, from a download.

    Args:
        source: one of `SOURCES`.
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
