"""A user's own data: NumPy archives and folders of images."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from nrm_keras.data.examples import Examples, Split, holdout
from nrm_keras.errors import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif"}
_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


class Npz:
    """`x_train, y_train[, x_val, y_val][, x_test, y_test][, classes]`, or `x, y[, classes]` to be split."""

    @staticmethod
    def find(data) -> str | None:
        return data.path if Path(data.path).is_file() else None

    @staticmethod
    def load(data, limit=None) -> Examples:
        arrays = _read_npz(Path(data.path))
        splits = {name: _npz_split(arrays, names, data.path) for name, names in _NAMES.items()}
        if splits["train"] is None:
            splits["train"] = _npz_split(arrays, ("",), data.path)
        if splits["train"] is None:
            raise UserError(
                f"{data.path}: an npz source holds x_train and y_train, or x and y. Received: {', '.join(arrays) or 'nothing'}."
                " Save it with np.savez(path, x_train=..., y_train=...)."
            )
        splits = _with_held_out(splits, data)
        classes = _class_names(arrays, splits, data.path)
        return Examples(classes, **splits, origin=data.path, shape=splits["train"].inputs.shape[1:])


class Folder:
    """`train/CLASS/picture.png`, `validation/...`, `test/...`; or `CLASS/picture.png` to be split."""

    @staticmethod
    def find(data) -> str | None:
        return data.path if Path(data.path).is_dir() else None

    @staticmethod
    def load(data, limit=None) -> Examples:
        root = Path(data.path)
        if not root.is_dir():
            raise UserError(f"{root}: the source folder needs a folder of images. Received: no such folder.")
        parts = {name: _first_folder(root, names) for name, names in _NAMES.items()}
        base = parts["train"] or root
        classes = tuple(sorted(p.name for p in base.iterdir() if p.is_dir() and not p.name.startswith(".")))
        if len(classes) < 2:
            raise UserError(
                f"{base}: an image folder holds one folder per class, two at least. Received: {', '.join(classes) or 'none'}."
            )
        parts["train"] = base
        splits = {name: part and _folder_split(part, classes) for name, part in parts.items()}
        shape = (*data.image_size, data.channels)
        return Examples(classes, **_with_held_out(splits, data), origin=str(root), shape=shape, decode=decoder(shape))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: the source npz needs a NumPy archive of plain arrays, as np.savez writes it. Received: {error}."
        ) from error


def _npz_split(arrays: dict, names: tuple[str, ...], path) -> Split | None:
    for name in names:
        suffix = f"_{name}" if name else ""
        if f"x{suffix}" not in arrays:
            continue
        if f"y{suffix}" not in arrays:
            raise UserError(f"{path}: x{suffix} needs labels beside it. Received: no y{suffix}.")
        x, y = arrays[f"x{suffix}"], arrays[f"y{suffix}"].squeeze()
        if x.ndim < 2 or x.dtype.kind not in "fiub" or y.ndim != 1 or y.dtype.kind not in "iu" or len(x) != len(y):
            raise UserError(
                f"{path}: x{suffix} is a number array (examples, ...), y{suffix} one class index per example."
                f" Received: x{suffix} {x.dtype} {x.shape}, y{suffix} {y.dtype} {y.shape}."
            )
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise UserError(
                f"{path}: x{suffix} must be finite. Received: {int((~np.isfinite(x)).sum())} NaN or infinite values."
            )
        if x.ndim == 3:
            x = x[..., None]  # grey images are usually stored without their channel
        return Split(x, y.astype("int32"))
    return None


def _with_held_out(splits: dict, data) -> dict[str, Split]:
    """Splits off what the source doesn't bring itself; the test first, so that it doesn't depend on `validation`."""
    share = data.validation
    if splits["test"] is None:
        splits["train"], splits["test"] = holdout(splits["train"], data.test, data.split_seed)
        share = share / (1 - data.test)
    if splits["validation"] is None:
        splits["train"], splits["validation"] = holdout(splits["train"], share, data.split_seed)
    return splits


def _class_names(arrays: dict, splits: dict[str, Split], path) -> tuple[str, ...]:
    labels = np.concatenate([split.labels for split in splits.values()])
    count = int(labels.max(initial=0)) + 1
    names = tuple(str(name) for name in arrays["classes"]) if "classes" in arrays else tuple(map(str, range(count)))
    if labels.min(initial=0) < 0 or count > len(names):
        raise UserError(
            f"{path}: labels are class indices from 0 to {len(names) - 1}. Received: {labels.min()} to {labels.max()}."
        )
    return names


def _first_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _folder_split(folder: Path, classes: tuple[str, ...]) -> Split:
    unknown = {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")} - set(classes)
    if unknown:
        raise UserError(
            f"{folder}: every split has the classes of the training split. Received: {', '.join(sorted(unknown))}."
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(p for p in folder.glob(f"{name}/**/*") if p.suffix.lower() in IMAGE_SUFFIXES)
        paths += [str(p) for p in found]
        labels += [label] * len(found)
    check_images(paths)
    return Split(np.array(paths, dtype=str), np.array(labels, "int32"))


def check_images(paths: list[str]) -> None:
    """Opens every header now: a broken picture should not end a training in its third hour."""
    from PIL import Image, UnidentifiedImageError

    for path in paths:
        try:
            with Image.open(path) as image:
                image.verify()
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise UserError(f"{path}: not a readable image ({error}). Mend or remove the file.") from error


def decoder(shape: tuple[int, int, int]):
    def decode(path):
        import tensorflow as tf

        image = tf.io.decode_image(tf.io.read_file(path), channels=shape[-1], expand_animations=False)
        return tf.ensure_shape(tf.image.resize(image, shape[:2], antialias=True), shape)

    return decode
