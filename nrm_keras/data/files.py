"""A user's own data: NumPy archives and folders of images."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from nrm_keras.data.examples import Examples, Split, with_held_out
from nrm_keras.data.source import OwnSource
from nrm_keras.errors import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
_OTHER_IMAGES = {".bmp", ".gif", ".tif", ".tiff", ".webp"}  # found, so that they are refused and not passed over
_FORMATS = {"PNG", "JPEG", "MPO"}  # MPO: what phones write into .jpg, a JPEG with more pictures behind the first
_JPEG_END = b"\xff\xd9"  # nowhere inside of a JPEG's compressed pixels (ITU T.81, B.1.1.5)
_TAIL = 4096  # bytes; what cameras write behind the end is usually shorter
_MAX_CLASSES = 2**16
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


class Npz(OwnSource):
    """`x_train, y_train[, x_val, y_val][, x_test, y_test][, classes]`, or `x, y[, classes]` to be split.

    With `data.targets`, y are numbers to be predicted.
    """

    name = "npz"
    what = "your own NumPy archive: data.path"
    needs = "an .npz file"

    @classmethod
    def find(cls, data=None) -> str | None:
        return data.path if data and Path(data.path).is_file() else None

    @classmethod
    def load(cls, data, limit=None) -> Examples:
        arrays = read_arrays(Path(data.path))
        classes = _class_names(arrays["classes"], data.path) if "classes" in arrays else None
        limit = len(classes) if classes else _MAX_CLASSES
        learned = (
            (lambda y, what: _targets(y, data.targets, what))
            if data.targets
            else (lambda y, what: _labels(y, limit, what))
        )
        splits = {name: _npz_split(arrays, names, learned, data.path) for name, names in SPLIT_FOLDERS.items()}
        if splits["train"] is None:
            splits["train"] = _npz_split(arrays, ("",), learned, data.path)
        if splits["train"] is None:
            raise UserError(
                f"{data.path}: an npz source holds x_train and y_train, or x and y. Received: {', '.join(arrays) or 'nothing'}."
                " Save it with np.savez(path, x_train=..., y_train=...)."
            )
        _require_one_shape(splits, data.path)
        splits = with_held_out(splits, data)
        shape = splits["train"].inputs.shape[1:]
        if data.targets:
            return Examples((), **splits, origin=data.path, shape=shape, targets=data.targets)
        if classes is None:
            classes = tuple(map(str, range(1 + max(int(split.labels.max(initial=0)) for split in splits.values()))))
        return Examples(classes, **splits, origin=data.path, shape=shape)


class Folder(OwnSource):
    """`train/CLASS/picture.png`, `validation/...`, `test/...`; or `CLASS/picture.png` to be split."""

    name = "folder"
    what = "your own folder of images: data.path"
    needs = "a folder of images"

    @classmethod
    def find(cls, data=None) -> str | None:
        return data.path if data and Path(data.path).is_dir() else None

    @classmethod
    def load(cls, data, limit=None) -> Examples:
        root = Path(data.path)
        if not root.is_dir():
            raise UserError(f"{root}: the source folder needs a folder of images. Received: no such folder.")
        parts = {name: split_folder(root, names) for name, names in SPLIT_FOLDERS.items()}
        base = parts["train"] or root
        classes = tuple(sorted(_folders(base) - {part.name for part in parts.values() if part and base == root}))
        if len(classes) < 2:
            taken = [part.name for part in parts.values() if part]
            raise UserError(
                f"{base}: an image folder holds a train folder or class folders: one per class, two at least."
                f" Received: class folders {', '.join(classes) or 'none'}; split folders {', '.join(taken) or 'none'}."
                f" Make {root}/train/CLASS for each class."
            )
        parts["train"] = base
        splits = {name: part and _folder_split(part, classes, name == "train") for name, part in parts.items()}
        shape = (*data.image_size, data.channels)
        return Examples(classes, **with_held_out(splits, data), origin=str(root), shape=shape, decode=decoder(shape))


def read_arrays(path: Path, only: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, or those of them that are asked for; the one of an .npy file is `x`.

    Raises:
        UserError: the file can't be read, or executes code when it is.
    """
    try:
        with open(path, "rb") as handle:
            content = np.load(handle, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"x": content}
            arrays = {name: content[name] for name in content.files if only is None or name in only}
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: an archive of plain arrays is needed, as np.savez writes it, or np.save. Received: {error}."
            " Save it again, or get it again if it was cut off."
        ) from error
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def numbers(array: np.ndarray, what: str) -> np.ndarray:
    """The array in this machine's byte order, if it holds numbers that float32 can hold.

    Raises:
        UserError: it doesn't.
    """
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise UserError(
            f"{what} must be a number array: integers or floats of 64 bits at most."
            f" Received: {array.dtype} {array.shape}. Convert it with .astype('float32')."
        )
    if array.dtype.kind == "f" and array.size:
        with np.errstate(over="ignore"):
            if not np.isfinite(np.array([array.min(), array.max()]).astype("float32")).all():
                bad = int((~np.isfinite(array.astype("float32"))).sum())
                raise UserError(
                    f"{what} must be finite in float32, up to 3.4e38."
                    f" Received: {bad} NaN, infinite or larger values. Replace or rescale them."
                )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _npz_split(arrays: dict, names: tuple[str, ...], learned: Callable, path) -> Split | None:
    for name in names:
        suffix = f"_{name}" if name else ""
        if f"x{suffix}" not in arrays:
            continue
        if f"y{suffix}" not in arrays:
            raise UserError(f"{path}: x{suffix} needs labels beside it. Received: no y{suffix}. Save y{suffix} too.")
        x = numbers(arrays[f"x{suffix}"], f"{path}: x{suffix}")
        given = arrays[f"y{suffix}"]
        y = learned(given, f"{path}: y{suffix}")
        if x.ndim < 2 or len(x) != len(y) or 0 in x.shape[1:]:
            raise UserError(
                f"{path}: x{suffix} is a number array (examples, ...), y{suffix} has a row for each example."
                f" Received: x{suffix} {x.dtype} {x.shape}, y{suffix} {given.dtype} {given.shape}. Reshape them."
            )
        if x.ndim == 3:
            x = x[..., None]  # grey images are usually stored without their channel
        return Split(x, y)
    return None


def _targets(y: np.ndarray, targets: tuple[str, ...], what: str) -> np.ndarray:
    """The numbers to be learned, `(examples, targets)`."""
    y = numbers(y, what).astype("float32")
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[1] != len(targets):
        raise UserError(
            f"{what} must have a column for each of data.targets, {', '.join(targets)}. Received: {y.dtype} {y.shape}."
            " Name all of them, or reshape it."
        )
    return y


def _labels(y: np.ndarray, limit: int, what: str) -> np.ndarray:
    """The labels as a vector of integers from 0 to `limit - 1`."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        one_hot = y.ndim == 2 and y.dtype.kind in "fiub"
        raise UserError(
            f"{what} must be one class index per example, an integer. Received: {y.dtype} {y.shape}."
            f" Convert it with {'y.argmax(1)' if one_hot else 'np.unique(y, return_inverse=True)[1]'},"
            " or name the numbers in data.targets for task: regression."
        )
    if y.min(initial=0) < 0 or y.max(initial=0) >= limit:
        raise UserError(
            f"{what}: labels are class indices from 0 to {limit - 1}. Received: {y.min()} to {y.max()}."
            " Convert them with np.unique(y, return_inverse=True)[1], or correct `classes`."
        )
    return y.astype("int32")


def _class_names(classes: np.ndarray, path) -> tuple[str, ...]:
    received = f"{classes.dtype} {classes.shape}"
    if classes.ndim == 1 and classes.size and classes.dtype.kind in "iufUS":
        decoded = np.char.decode(classes, "utf-8", "replace") if classes.dtype.kind == "S" else classes
        names = tuple(str(name) for name in decoded)
        if len(set(names)) == len(names):
            return names
        received = f"{', '.join(sorted({name for name in names if names.count(name) > 1}))} more than once"
    raise UserError(
        f"{path}: classes is a vector of distinct names, text or numbers. Received: {received}."
        " Save it with np.savez(path, ..., classes=['cat', 'dog'])."
    )


def _require_one_shape(splits: dict[str, Split | None], path) -> None:
    expected = splits["train"].inputs.shape[1:]
    for name, split in splits.items():
        if split is not None and split.inputs.shape[1:] != expected:
            raise UserError(
                f"{path}: the examples of every split have one shape. Received: {expected} in training,"
                f" {split.inputs.shape[1:]} in {name}. Reshape one of them."
            )


def _folders(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}


def split_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder of a split, in capitals or not."""
    found = sorted(name for name in _folders(root) if name.lower() in names)
    if len(found) > 1:
        raise UserError(
            f"{root}: a split has one folder. Received: {' and '.join(found)}. Merge or rename one of them."
        )
    return root / found[0] if found else None


def _folder_split(folder: Path, classes: tuple[str, ...], training: bool) -> Split:
    unknown = set() if training else _folders(folder) - set(classes)
    if unknown:
        raise UserError(
            f"{folder}: every split has the classes of the training split. Received: {', '.join(sorted(unknown))}."
            f" The training split has {', '.join(classes)}."
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = images_in(folder / name)
        paths += found
        labels += [label] * len(found)
    check_images(paths)
    return Split(np.array(paths, dtype=str), np.array(labels, "int32"))


def images_in(folder: Path) -> list[str]:
    """Every image below a folder, sorted; also those that `check_images` refuses."""
    return sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | _OTHER_IMAGES)


def check_images(paths: list[str]) -> None:
    """Opens every file now: a broken picture should not end a training in its third hour.

    Raises:
        UserError: a file is no picture, is cut off, or is neither PNG nor JPEG.
    """
    from PIL import Image

    for path in paths:
        try:
            with Image.open(path) as image:
                kind = image.format
                image.verify()
            if kind in ("JPEG", "MPO") and not _has_end(path):  # of these verify reads the header only
                with Image.open(path) as image:
                    image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: not a readable image ({error}). Mend or remove the file.") from error
        if kind not in _FORMATS:
            raise UserError(f"{path}: images are PNG or JPEG. Received: {kind}. Please convert it to PNG.")


def _has_end(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _TAIL))
        return _JPEG_END in file.read()


def decoder(shape: tuple[int, int, int]):
    def decode(path):
        import tensorflow as tf

        image = tf.io.decode_image(tf.io.read_file(path), channels=shape[-1], expand_animations=False)
        return tf.ensure_shape(tf.image.resize(image, shape[:2], antialias=True), shape)

    return decode
