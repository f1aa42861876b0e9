"""What a finished run is given: labelled data to be measured on, and inputs to be answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nrm_keras.data import files, pairs, sources, texts
from nrm_keras.data.examples import Examples, Split
from nrm_keras.errors import UserError
from nrm_keras.recipe import loading
from nrm_keras.recipe.sections.data import Pairs
from nrm_keras.runs import directory

TEXT = ()  # the shape of one text
_ROWS = (".csv", ".jsonl", ".ndjson", ".json")
_LABELLED = {
    "text": "a .csv or .jsonl file of texts with their classes",
    "classification": "an .npz file (x, y) or a folder of images, a folder per class",
    "segmentation": "a folder of images and masks",
    "regression": "an .npz file (x, y)",
}


def labelled(run: Path, data: str, recipe, shape: tuple[int, ...], names: list[str]):
    """The run's recipe with other data, and its examples.

    Args:
        run: the run directory.
        data: the path.
        recipe: the run's.
        shape: of one input of its model.
        names: its classes or targets.

    Raises:
        UserError: there is no such data, or it is of another kind.
    """
    path, kind = Path(data), "text" if shape == TEXT else recipe.task
    section = _section(path, kind, recipe, shape, names)
    if section is None:
        what = "data of another kind" if path.exists() else "no such file"
        raise UserError(
            f"{data}: evaluate measures {_LABELLED[kind]}. Received: {what}. For inputs without labels, use predict."
        )
    whole = {"path": data, "validation": 0.0, "test": 0.0, "limit": None}
    # nothing is trained, and what watches a validation split would miss it
    untrained = {"train": {"keep": "last"}, "callbacks": []}
    recipe = loading.load(run / directory.RECIPE, {"data": section | whole, **untrained}).recipe
    return recipe, _texts(recipe.data) if kind == "text" else sources.load(recipe.data, seed=recipe.train.seed)


def _section(path: Path, kind: str, recipe, shape: tuple[int, ...], names: list[str]) -> dict | None:
    """What the recipe's `data` section has to say; None if the path is of another kind."""
    suffix = path.suffix.lower() if path.is_file() else None
    if kind == "text":
        return {"source": "text_file"} if suffix in _ROWS else None
    if kind == "segmentation":
        return _pairs(recipe, shape, names) if path.is_dir() else None
    if suffix == ".npz":
        return {"source": "npz"} | ({"targets": names} if kind == "regression" else {})
    if kind == "classification" and path.is_dir():
        height, width, channels = shape if len(shape) == 3 else (32, 32, 3)
        return {"source": "folder", "image_size": [height, width], "channels": channels}
    return None


def _pairs(recipe, shape: tuple[int, ...], names: list[str]) -> dict:
    """How the run itself read pairs; if it didn't, as its model needs them."""
    if recipe.data.source == "pairs":
        return {"source": "pairs"}
    *sizes, channels = shape
    size = {"patch": sizes} if len(sizes) == 3 else {"image_size": sizes, "channels": channels}
    return {"source": "pairs", "classes": names, **size}


def pairs_section(recipe, shape: tuple[int, ...], names: list[str] = ("0", "1")) -> Pairs:
    """How images without masks are read: a `data` section of the source pairs."""
    if recipe.data.source == "pairs":
        return recipe.data
    section = _pairs(recipe, shape, names)
    return Pairs(
        path=".", **{key: tuple(value) if isinstance(value, list) else value for key, value in section.items()}
    )


def _texts(data) -> Examples:
    """Every row of a file, also where the run would have removed duplicates."""
    _, rows, labels = texts.read_texts(Path(data.path), data.text, data.label)
    classes, index = np.unique(np.array(labels, str), return_inverse=True)
    split = Split(np.array(rows, object), index.astype("int32"))
    none = split.take(np.arange(0))
    return Examples(tuple(map(str, classes)), split, none, none, data.path, TEXT)


def inputs(source: Path, recipe, shape: tuple[int, ...]) -> tuple[list[str], np.ndarray]:
    """A name for each input, and the inputs.

    An image that is cut into slices or patches gives its name to each of them.

    Raises:
        UserError: the file is not there, can't be read, or is not what the model takes.
    """
    if not source.exists():
        raise UserError(
            f"{source}: predict needs an image, a folder of images, a .npy or .npz file, or texts in a .txt, .csv or .jsonl"
            " file for a model of text. Received: no such file."
        )
    if shape == TEXT:
        return _lines(source, getattr(recipe.data, "text", "text"))
    if source.suffix.lower() in {".npy", ".npz"}:
        array = _array(source, shape)
        return [str(number) for number in range(len(array))], array
    if recipe.task == "segmentation":
        names, parts = zip(*pairs.read_images(source, pairs_section(recipe, shape)), strict=True)
        return [name for name, part in zip(names, parts, strict=True) for _ in part], np.concatenate(parts)
    paths = [str(source)] if source.is_file() else files.images_in(source)
    if not paths or len(shape) != 3:
        raise UserError(
            f"{source}: predict takes images for a model of images. Received: {len(paths)} images, a model of {shape}."
        )
    files.check_images(paths)
    decode = files.decoder(shape)
    return paths, np.stack([decode(path).numpy() for path in paths])


def _lines(source: Path, column: str) -> tuple[list[str], np.ndarray]:
    import tensorflow as tf

    if source.suffix.lower() in _ROWS:
        _, lines, _ = texts.read_texts(source, column)
    else:
        try:
            lines = [line for line in source.read_text("utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source}: predict reads text as UTF-8, a text per line. Received: {error}.") from error
    if not lines:
        raise UserError(f"{source}: predict needs a text per line. Received: an empty file.")
    return lines, tf.constant(lines)


def _array(source: Path, shape: tuple[int, ...]) -> np.ndarray:
    arrays = files.read_arrays(source, only={"x"})
    if "x" not in arrays:
        raise UserError(
            f"{source}: predict reads the array x. Received: an archive without it. Save it with np.savez(path, x=...)."
        )
    array = files.numbers(arrays["x"], f"{source}: x").astype("float32")
    if array.shape == shape:
        array = array[None]
    if array.shape[1:] != shape and (*array.shape[1:], 1) == shape:
        array = array[..., None]
    if array.shape[1:] != shape or not len(array):
        raise UserError(
            f"{source}: the model takes arrays of shape (examples, {', '.join(map(str, shape))}). Received: {array.shape}."
        )
    return array
