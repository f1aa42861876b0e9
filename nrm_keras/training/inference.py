"""What a finished run can be asked: its scores on data, and its answers to new inputs."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import keras
import numpy as np
from scipy.special import softmax

from nrm_keras.data import sources
from nrm_keras.data.pipelines import Batches
from nrm_keras.data.predicted import require_new, save_masks
from nrm_keras.errors import UserError
from nrm_keras.recipe import loading
from nrm_keras.runs import directory
from nrm_keras.training import given
from nrm_keras.training.saved import load


def evaluate(path: Path, data: str | None = None, split: str = "test", allow_imports: bool = False) -> dict[str, float]:
    """Scores of a finished run's model, after the number of `examples` they were measured on.

    Args:
        path: the run directory.
        data: measured instead of the run's own data: its own split of that name, or all of it where it has none. An .npz
            file, a folder of images (segmentation: of images and masks), or a .csv or .jsonl file of texts.
        split: "train", "validation" or "test".
        allow_imports: whether the modules that the run's recipe lists may be imported.

    Raises:
        UserError: the run is unfinished, the data doesn't fit its model, or its recipe needs imports that aren't allowed.
    """
    recipe, model = _recipe_and_model(path, allow_imports)
    shape, names = _input_shape(model), _names(path)
    if data:
        recipe, examples = given.labelled(path, data, recipe, shape, names)
    else:
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
        labels = _translated(labels, examples, names)
    domains = isinstance(model.input, dict)
    if domains and chosen.domains is None:
        chosen = replace(chosen, domains=np.full(len(chosen), -1, "int32"))
    size = recipe.data.held_out_batch_size
    batches = Batches(replace(chosen, labels=labels), size, decode=examples.decode, domains=domains)
    return {"examples": len(chosen)} | model.evaluate(batches(0), return_dict=True, verbose=0)


def _input_shape(model: keras.Model) -> tuple[int, ...]:
    """Shape of one input, without the batch; `()` for text."""
    taken = model.input
    return tuple((taken["inputs"] if isinstance(taken, dict) else taken).shape[1:])


def _recipe_and_model(path: Path, allow_imports: bool):
    """The run's recipe, and its model, which may be made of layers from the modules that the recipe lists."""
    directory.check(path)
    loaded = loading.load(path / directory.RECIPE, allow_imports=allow_imports)
    loading.import_modules(loaded)
    return loaded.recipe, load(path)


def _names(path: Path) -> list[str]:
    """What the outputs of the run's model are called: its classes or targets."""
    summary = directory.summary(path)
    if summary is None:
        raise UserError(
            f"{path / directory.SUMMARY}: it names the model's classes. Received: no readable file."
            f" `python -m nrm_keras run --resume {path}` writes it."
        )
    return summary["classes"] or summary["targets"]


def _translated(labels: np.ndarray, examples: sources.Examples, classes: list[str]) -> np.ndarray:
    """Class indices of the data as the model counts them: by name where the names are known, else as they are."""
    if set(examples.classes) <= set(classes):
        return np.array([classes.index(name) for name in examples.classes], "int32")[labels]
    numbered = examples.classes == tuple(map(str, range(len(examples.classes))))
    if numbered and len(examples.classes) <= len(classes):
        return labels
    raise UserError(f"The model knows the classes {', '.join(classes)}. Received: {', '.join(examples.classes)}.")


def predict(path: Path, source: Path, allow_imports: bool = False, masks: Path | None = None) -> list[dict]:
    """The model's answer to each input.

    Args:
        path: the run directory.
        source: an image, a folder of images, a .npy array or an .npz archive with `x`, raw values as in training; for
            segmentation also NIfTI files and folders of DICOM files; for a model of text a .txt file, a text per line, or
            the texts of a .csv or .jsonl file.
        allow_imports: whether the modules that the run's recipe lists may be imported.
        masks: segmentation of image files: a new folder, to which the mask of each is written, of its size.

    Returns:
        One row per input. Classification: `input`, `class`, `probability`, and the probability of every class under its
        name. Segmentation: the share of positions that each class has. Regression: each target under its name.

    Raises:
        UserError: the run is unfinished, an input can't be read or is not what the model takes, or masks can't be written.
    """
    recipe, model = _recipe_and_model(path, allow_imports)
    names, shape = _names(path), _input_shape(model)
    if masks is not None:
        _require_masks(masks, source, recipe)
    inputs, values = given.inputs(source, recipe, shape)
    taken = {"inputs": values, "domain": np.full(len(values), -1, "int32")} if isinstance(model.input, dict) else values
    outputs = model.predict(taken, verbose=0)
    if recipe.task == "segmentation":
        predicted = _by_image(inputs, outputs.argmax(-1))
        if masks is not None:
            save_masks(source, predicted, given.pairs_section(recipe, shape, names), masks)
        return [_share_row(name, classes, names) for name, classes in predicted.items()]
    row = _class_row if recipe.task == "classification" else _targets_row
    return [{"input": name} | row(output, names) for name, output in zip(inputs, outputs, strict=True)]


def _class_row(logits: np.ndarray, classes: list[str]) -> dict:
    row = softmax(logits.astype("float64"))
    best = {"class": classes[row.argmax()], "probability": float(row.max())}
    return best | {f"p({label})": float(p) for label, p in zip(classes, row, strict=True)}


def _require_masks(folder: Path, source: Path, recipe) -> None:
    if recipe.task != "segmentation" or source.suffix.lower() in {".npy", ".npz"}:
        what = (
            f"a model for {recipe.task}"
            if recipe.task != "segmentation"
            else f"{source.name}, which are no image files"
        )
        raise UserError(f"--masks writes masks of the size of their image files. Received: {what}. Leave it out.")
    require_new(folder)


def _by_image(inputs: list[str], predicted: np.ndarray) -> dict[str, np.ndarray]:
    """The slices or patches of each image together."""
    parts = groupby(zip(inputs, predicted, strict=True), key=lambda pair: pair[0])
    return {name: np.stack([part for _, part in pairs]) for name, pairs in parts}


def _share_row(name: str, predicted: np.ndarray, classes: list[str]) -> dict:
    counts = np.bincount(predicted.ravel(), minlength=len(classes))
    return {"input": name} | {
        f"share({label})": float(n / predicted.size) for label, n in zip(classes, counts, strict=True)
    }


def _targets_row(values: np.ndarray, targets: list[str]) -> dict:
    return {name: float(value) for name, value in zip(targets, values, strict=True)}


def to_csv(rows: list[dict]) -> str:
    """The rows of `predict` as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    return text.getvalue()
