"""A model of one's own as what is exported, with examples that are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from nrm_keras.data import files
from nrm_keras.errors import UserError
from nrm_keras.serving.exporting import heads
from nrm_keras.serving.exporting.interface import INPUTS, Interface, is_image
from nrm_keras.serving.exporting.subject import CHECKED, Subject, how_many_checked, how_many_known
from nrm_keras.training.saved import load_model
from nrm_keras.training.tasks import TASKS


def of_model(
    model: keras.Model | Path,
    name: str,
    inputs,
    *,
    labels: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
) -> Subject:
    """A Keras model of one's own, or a `.keras` file, which is loaded in safe mode.

    Args:
        inputs: real examples, an array, or a dictionary of arrays where the model takes one; images as bytes (uint8) make
            an interface of images.
        labels: of the examples, class numbers or values, for the metric.
        classes: the names of the classes: a model that classifies examples or positions.
        targets: without `classes`, the names of the predicted values; None numbers them.

    Raises:
        UserError: no examples, or a model that can't be exported.
    """
    if isinstance(model, Path):
        model = load_model(model, compile=False)
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise UserError(
            "export takes a run directory, a .keras file, or a built functional or sequential Keras model."
            f" Received: {type(model).__name__}. A model with call() of its own can be wrapped: keras.Model(inputs, model(inputs))."
        )
    if inputs is None:
        raise UserError("A model of one's own is checked on real examples. Received: none. Give inputs=examples.")
    rank = len(model.outputs[0].shape)
    task = "regression" if classes is None else "segmentation" if rank > 2 else "classification"
    names = classes or targets or [str(number) for number in range(model.outputs[0].shape[-1])]
    given = inputs if isinstance(inputs, Mapping) else {INPUTS: inputs}
    given = {key: np.asarray(values) for key, values in given.items()}
    _require_examples(model, given)
    first = next(iter(given.values()))
    interface = Interface.of(
        model,
        task,
        names,
        is_image(first.shape[1:], first.dtype),
        rounds=False,
        probabilities=heads.gives_probabilities(model),
    )
    requests = given if interface.keyed else dict(zip(interface.specs, given.values(), strict=True))
    requests = {key: _as_sent(requests, key, dtype) for key, (_, dtype) in interface.specs.items()}
    if classes and not interface.probabilities:
        few = interface.prepare(*(values[:CHECKED] for values in requests.values()))
        interface = replace(interface, probabilities=heads.are_probabilities(model.predict_on_batch(few)))
    labels = None if labels is None else _checked_labels(labels, interface, requests)
    count = len(first)
    size = sum(values.nbytes for values in requests.values()) // count or 1
    known, checked = _spread(count, how_many_known(size)), _spread(count, how_many_checked(size))
    reference = _batches(interface, {key: values[known] for key, values in requests.items()})
    requests = {key: values[checked] for key, values in requests.items()}
    labels = None if labels is None else labels[checked]
    accuracy = {"accuracy": TASKS[task].metrics["accuracy"]} if classes else {"rmse": TASKS[task].metrics["rmse"]}
    metrics = {key: (lambda make=make: make(len(names))) for key, make in accuracy.items()}
    metrics = {} if labels is None else metrics
    return Subject(model, name, interface, requests, labels, metrics, reference=reference)


def _spread(count: int, most: int) -> np.ndarray:
    """Which examples are taken, of all parts of a file that may be sorted."""
    taken = min(count, most)
    return np.arange(taken) * count // taken


def _batches(interface: Interface, requests: Mapping[str, np.ndarray]) -> Iterator:
    for start in range(0, len(next(iter(requests.values()))), CHECKED):
        yield interface.prepare(*(values[start : start + CHECKED] for values in requests.values()))


def _require_examples(model: keras.Model, given: Mapping[str, np.ndarray]) -> None:
    """Checks that the arrays are examples of what the model takes; images of bytes may have another size."""
    taken = model.input if isinstance(model.input, Mapping) else dict(zip(given, model.inputs, strict=False))
    for name, values in given.items():
        if name not in taken:
            continue
        wanted, image = taken[name].shape[1:], is_image(values.shape[1:], values.dtype)
        sizes = zip(wanted[-1:] if image else wanted, values.shape[-1:] if image else values.shape[1:], strict=False)
        if values.ndim != len(wanted) + 1 or any(want not in (None, have) for want, have in sizes):
            raise UserError(
                f"inputs: examples as the model takes them, of shape (examples, {', '.join(map(str, wanted))}). Received:"
                f" {values.shape}."
            )
    if len({len(values) for values in given.values()}) > 1:
        raise UserError(
            "inputs: as many examples for each input. Received: "
            f"{ {name: len(values) for name, values in given.items()} }."
        )


def _checked_labels(labels, interface: Interface, requests: Mapping[str, np.ndarray]) -> np.ndarray:
    labels, count = files.numbers(np.asarray(labels), "labels"), len(next(iter(requests.values())))
    classes = None if interface.task == "regression" else len(interface.names)
    if labels.shape[:1] != (count,) or (
        classes and (labels.dtype.kind not in "iu" or not (labels >= 0).all() or (labels >= classes).any())
    ):
        what = f"class numbers from 0 to {classes - 1}" if classes else "numbers"
        raise UserError(
            f"labels: {what}, one for each of the {count} examples. Received: {labels.dtype} of shape {labels.shape}"
            f"{f', from {labels.min():g} to {labels.max():g}' if labels.size else ''}."
        )
    if not classes:
        return labels.reshape(count, -1)
    if interface.task == "classification" and labels.ndim != 1:
        raise UserError(
            f"labels: one class number for each example. Received: shape {labels.shape}, such as one-hot rows have."
        )
    return labels


def _as_sent(given: Mapping[str, np.ndarray], name: str, dtype: str) -> np.ndarray:
    if name not in given or not len(given[name]):
        raise UserError(f"Examples are needed for each input of the model. Received: none for {name}.")
    if dtype == "string":
        return np.array([text if isinstance(text, bytes) else str(text).encode() for text in given[name]])
    return files.numbers(np.asarray(given[name]), f"inputs: {name}").astype(dtype)
