"""What a finished run can be asked: its scores on data, and its answers to new inputs."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from scipy.special import softmax

from nrm_keras.data import files, sources
from nrm_keras.data.pipelines import Batches
from nrm_keras.errors import UserError
from nrm_keras.recipe import loading
from nrm_keras.runs import directory
from nrm_keras.training.saved import load


def evaluate(path: Path, data: str | None = None, split: str = "test", allow_imports: bool = False) -> dict[str, float]:
    """Scores of a finished run's model, after the number of `examples` they were measured on.

    Args:
        path: the run directory.
        data: an .npz file or a folder of images, measured instead of the run's own data: its own split of that name, or
            all of it where it has none.
        split: "train", "validation" or "test".
        allow_imports: whether the modules that the run's recipe lists may be imported.

    Raises:
        UserError: the run is unfinished, the data doesn't fit its model, or its recipe needs imports that aren't allowed.
    """
    if data and not (Path(data).is_dir() or (Path(data).is_file() and Path(data).suffix.lower() == ".npz")):
        what = "a file of another kind" if Path(data).exists() else "no such file"
        raise UserError(
            f"{data}: evaluate measures an .npz file (x, y) or a folder of images, a folder per class."
            f" Received: {what}. For inputs without labels, use predict."
        )
    model = _model(path, allow_imports)
    shape = _input_shape(model)
    recipe = _recipe(path, data, shape)
    examples = sources.load(recipe.data, seed=recipe.train.seed)
    chosen = getattr(examples, split)
    if data and not len(chosen):
        chosen = examples.train
    if not len(chosen):
        raise UserError(f"{examples.origin}: evaluate needs examples. Received: an empty {split} split.")
    if examples.shape != shape or examples.task != recipe.task:
        raise UserError(
            f"{path}: the model takes examples of shape {shape}, for {recipe.task}. "
            f"Received: {examples.shape} from {examples.origin}, for {examples.task}."
        )
    labels = chosen.labels
    if recipe.task == "classification":
        labels = _translated(labels, examples, _classes(path))
    domains = isinstance(model.input, dict)
    if domains and chosen.domains is None:
        chosen = replace(chosen, domains=np.full(len(chosen), -1, "int32"))
    batches = Batches(replace(chosen, labels=labels), recipe.data.batch_size, decode=examples.decode, domains=domains)
    return {"examples": len(chosen)} | model.evaluate(batches(0), return_dict=True, verbose=0)


def _input_shape(model: keras.Model) -> tuple[int, ...]:
    """Shape of one input, without the batch; `()` for text."""
    taken = model.input
    return tuple((taken["inputs"] if isinstance(taken, dict) else taken).shape[1:])


def _model(path: Path, allow_imports: bool) -> keras.Model:
    """The run's model, which may be made of layers from the modules that its recipe lists."""
    directory.check(path)
    loading.import_modules(loading.load(path / directory.RECIPE, allow_imports=allow_imports))
    return load(path)


def _recipe(path: Path, data: str | None, input_shape):
    """The run's recipe, with other data if asked."""
    overrides = {}
    if data and Path(data).is_dir():
        height, width, channels = input_shape if len(input_shape) == 3 else (32, 32, 3)
        overrides = {"source": "folder", "path": data, "image_size": [height, width], "channels": channels}
    elif data:
        overrides = {"source": "npz", "path": data}
    if data:
        overrides |= {"validation": 0.0, "test": 0.0, "limit": None}
    return loading.load(path / directory.RECIPE, {"data": overrides} if data else {}).recipe


def _task(path: Path) -> tuple[str, list[str]]:
    """The run's task, and the names of what its model puts out."""
    summary = _summary(path)
    return summary["task"], summary["classes"] or summary["targets"]


def _classes(path: Path) -> list[str]:
    return _summary(path)["classes"]


def _summary(path: Path) -> dict:
    summary = directory.summary(path)
    if summary is None:
        raise UserError(
            f"{path / directory.SUMMARY}: it names the model's classes. Received: no readable file."
            f" `python -m nrm_keras run --resume {path}` writes it."
        )
    return summary


def _translated(labels: np.ndarray, examples: sources.Examples, classes: list[str]) -> np.ndarray:
    """Class indices of the data as the model counts them: by name where the names are known, else as they are."""
    if set(examples.classes) <= set(classes):
        return np.array([classes.index(name) for name in examples.classes], "int32")[labels]
    numbered = examples.classes == tuple(map(str, range(len(examples.classes))))
    if numbered and len(examples.classes) <= len(classes):
        return labels
    raise UserError(f"The model knows the classes {', '.join(classes)}. Received: {', '.join(examples.classes)}.")


def predict(path: Path, source: Path, allow_imports: bool = False) -> list[dict]:
    """The model's answer to each input.

    Args:
        path: the run directory.
        source: an image, a folder of images, a .npy array or an .npz archive with `x`, raw values as in training; for a
            model of text a .txt file, a text per line.
        allow_imports: whether the modules that the run's recipe lists may be imported.

    Returns:
        One row per input. Classification: `input`, `class`, `probability`, and the probability of every class under its
        name. Segmentation: the share of positions that each class has. Regression: each target under its name.
    """
    model = _model(path, allow_imports)
    names, inputs = _read_inputs(source, _input_shape(model))
    task, columns = _task(path)
    taken = {"inputs": inputs, "domain": np.full(len(inputs), -1, "int32")} if isinstance(model.input, dict) else inputs
    outputs = model.predict(taken, verbose=0)
    return [{"input": name} | _ROWS[task](output, columns) for name, output in zip(names, outputs, strict=True)]


def _class_row(logits: np.ndarray, classes: list[str]) -> dict:
    row = softmax(logits.astype("float64"))
    best = {"class": classes[row.argmax()], "probability": float(row.max())}
    return best | {f"p({label})": float(p) for label, p in zip(classes, row, strict=True)}


def _shares_row(logits: np.ndarray, classes: list[str]) -> dict:
    counts = np.bincount(logits.argmax(-1).ravel(), minlength=len(classes))
    return {f"share({label})": float(count / counts.sum()) for label, count in zip(classes, counts, strict=True)}


def _targets_row(values: np.ndarray, targets: list[str]) -> dict:
    return {name: float(value) for name, value in zip(targets, values, strict=True)}


_ROWS = {"classification": _class_row, "segmentation": _shares_row, "regression": _targets_row}


def to_csv(rows: list[dict]) -> str:
    """The rows of `predict` as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def _read_inputs(source: Path, shape: tuple[int, ...]) -> tuple[list[str], np.ndarray]:
    if not source.exists():
        raise UserError(
            f"{source}: predict needs an image, a folder of images, a .npy or .npz file, or a .txt file for a model of text."
            " Received: no such file."
        )
    if shape == ():
        return _read_lines(source)
    if source.suffix.lower() in {".npy", ".npz"}:
        array = _read_array(source)
        if array.shape == shape:
            array = array[None]
        if array.shape[1:] != shape and (*array.shape[1:], 1) == shape:
            array = array[..., None]
        if array.shape[1:] != shape or not len(array):
            raise UserError(
                f"{source}: the model takes arrays of shape (examples, {', '.join(map(str, shape))}). Received: {array.shape}."
            )
        return [str(number) for number in range(len(array))], array
    paths = [str(source)] if source.is_file() else files.images_in(source)
    if not paths or len(shape) != 3:
        raise UserError(
            f"{source}: predict takes images for a model of images. Received: {len(paths)} images, a model of {shape}."
        )
    files.check_images(paths)
    decode = files.decoder(shape)
    return paths, np.stack([decode(path).numpy() for path in paths])


def _read_lines(source: Path) -> tuple[list[str], np.ndarray]:
    try:
        lines = [line for line in source.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: predict reads text as UTF-8, a text per line. Received: {error}.") from error
    if not lines:
        raise UserError(f"{source}: predict needs a text per line. Received: an empty file.")
    return lines, tf.constant(lines)


def _read_array(source: Path) -> np.ndarray:
    arrays = files.read_arrays(source, only={"x"})
    if "x" not in arrays:
        raise UserError(
            f"{source}: predict reads the array x. Received: an archive without it. Save it with np.savez(path, x=...)."
        )
    return files.numbers(arrays["x"], f"{source}: x").astype("float32")
