"""What is exported: a model, how it is asked, the data that it is checked on, and what its card says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from nrm_keras import registry
from nrm_keras.data import files, sources
from nrm_keras.data.examples import Examples, Split, limited
from nrm_keras.data.pipelines import Batches
from nrm_keras.errors import UserError
from nrm_keras.recipe import loading
from nrm_keras.runs import directory
from nrm_keras.serving.exporting import heads
from nrm_keras.serving.exporting.interface import IMAGE, INPUTS, TEXT, Interface, is_image
from nrm_keras.training.assembly import SMOKE_BATCH, SMOKE_STEPS
from nrm_keras.training.saved import load_model
from nrm_keras.training.tasks import TASKS

CHECKED = 64  # examples at least, the largest batch of the check
_MOST_CHECKED = 1000
_REFERENCE = 8192  # examples for the drift monitor
_EXAMPLE_SIZE = 32  # of an image in the model card
_ORIGINALS = 4  # pictures in their own size


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Args:
        model: from raw inputs to logits, probabilities or values.
        name: what servers call it.
        interface: its inputs and outputs.
        requests: for each input the values of real examples, as clients send them.
        labels: of those examples; None where they are unknown.
        metrics: makes each metric of the run by name.
        split: where the examples are from, in words.
        reference: batches of what the model takes, real examples for the drift monitor.
        originals: pictures as they are on disk, in their own sizes, with what the model was shown of them.
        facts: `recipe`, `data`, `metrics` and `limits` of the model card.
    """

    model: keras.Model
    name: str
    interface: Interface
    requests: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    metrics: Mapping[str, Callable[[], keras.metrics.Metric]] = field(default_factory=dict)
    split: str = "given"
    reference: Iterable = ()
    originals: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(next(iter(self.requests.values())))

    def model_inputs(self, start: int = 0, stop: int | None = None):
        """What the model takes of the requests from `start` to `stop`."""
        return self.interface.prepare(*(values[start:stop] for values in self.requests.values()))

    @property
    def example(self) -> dict[str, np.ndarray]:
        """One request, of a large image a thinned one: any size is taken."""
        first = {name: values[:1] for name, values in self.requests.items()}
        if IMAGE in first and self.interface.size:
            thinned = max(1, max(self.interface.size) // _EXAMPLE_SIZE)
            first[IMAGE] = first[IMAGE][:, ::thinned, ::thinned]
        return first


def of_run(path: Path, name: str, allow_imports: bool, say: Callable[[str], None]) -> Subject:
    """A finished run.

    Raises:
        UserError: the run is unfinished, its data is not here, or its recipe needs imports that aren't allowed.
    """
    summary = directory.finished(path)
    loaded = loading.load(path / directory.RECIPE, allow_imports=allow_imports)
    loading.import_modules(loaded)
    model = load_model(path / directory.MODEL, compile=False)
    recipe, environment = loaded.recipe, directory.environment(path)
    examples = _examples(recipe, environment["run"]["smoke"])
    split_name, split = _held_out(examples)
    known = environment.get("data", {}).get("fingerprint")
    say(f"Checking on {split_name} data: {len(split):,} examples from {examples.origin}.")
    if known and known != examples.fingerprint():
        say("Note: the data has changed since the run, so the metrics that it recorded may not be met again.")
    image = is_image(examples.shape, "uint8" if examples.decode else examples.train.inputs.dtype)
    names = summary["classes"] or summary["targets"]
    interface = Interface.of(model, recipe.task, names, image, rounds=examples.decode is None)
    reference = Batches(
        limited(split, _reference(_size(examples))), CHECKED, decode=examples.decode, domains=interface.keyed
    )(0)
    split = limited(split, _checked(_size(examples)))
    return Subject(
        model,
        name,
        interface,
        _requests(interface, split, examples),
        split.labels,
        _metrics(recipe, len(names)),
        split_name,
        reference,
        _originals(split, examples) if image and examples.decode else (),
        _facts(loaded, summary, known),
    )


def _examples(recipe, smoke: bool) -> Examples:
    """The run's data; of a smoke run the few examples that it saw."""
    if not smoke:
        return sources.load(recipe.data, seed=recipe.train.seed)
    limit = SMOKE_STEPS * SMOKE_BATCH * (recipe.train.replicas or 1)
    if sources.find(recipe.data) is None:
        return sources.mock(recipe.data, limit)
    return sources.load(recipe.data, limit, recipe.train.seed)


def _held_out(examples: Examples) -> tuple[str, Split]:
    """Validation data; where there is none the test's, and at last training data."""
    for name in ("validation", "test", "train"):
        if len(getattr(examples, name)):
            return name if name != "train" else "training", getattr(examples, name)
    raise AssertionError("sources.load gives training examples")


def _size(examples: Examples) -> int:
    """Bytes of an example."""
    return 4 * int(np.prod(examples.shape, dtype="int64")) if examples.shape else 1024


def _checked(size: int) -> int:
    """How many examples of so many bytes are asked for."""
    return max(CHECKED, min(_MOST_CHECKED, 2**27 // size))


def _reference(size: int) -> int:
    """How many of them the drift monitor gets."""
    return max(CHECKED, min(_REFERENCE, 2**29 // size))


def _requests(interface: Interface, split: Split, examples: Examples) -> dict[str, np.ndarray]:
    if TEXT in interface.specs:
        return {TEXT: np.array([text.encode() for text in split.inputs])}
    values = split.inputs
    if examples.decode:
        values = np.stack([examples.decode(path).numpy() for path in values])
    if IMAGE in interface.specs:
        return {IMAGE: np.clip(np.rint(values), 0, 255).astype("uint8")}
    values = np.asarray(values).astype("float32")
    if not interface.keyed:
        return {INPUTS: values}
    domain = np.full(len(split), -1, "int32") if split.domains is None else split.domains
    return {INPUTS: values, "domain": domain}


def _originals(split: Split, examples: Examples) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for path in split.inputs[:_ORIGINALS]:
        image = tf.io.decode_image(tf.io.read_file(path), channels=examples.shape[-1], expand_animations=False)
        found.append((image.numpy(), examples.decode(path).numpy()))
    return found


def _metrics(recipe, outputs: int) -> dict[str, Callable[[], keras.metrics.Metric]]:
    known = TASKS[recipe.task].metrics
    return {
        name: (lambda make=known[name]: make(outputs)) if name in known else registry.get("metric", name)
        for name in recipe.train.metrics
    }


def _facts(loaded: loading.Loaded, summary: dict, fingerprint: str | None) -> dict:
    recipe = loaded.recipe
    limits = [summary["caveat"], *summary["notes"]]
    if summary["smoke"]:
        limits.insert(0, "A smoke run: two steps of the smallest model. Its answers mean nothing.")
    return {
        "title": summary["title"],
        "recipe": {"name": summary["recipe"], **recipe.model_dump(mode="json", exclude_none=True)},
        "data": {"source": recipe.data.source, "fingerprint": fingerprint, "examples": summary["examples"]},
        "metrics": summary["metrics"],
        "precision": summary["precision"],
        "limits": [limit for limit in limits if limit],
    }


def servable(name: str) -> str:
    """A name as servers can have it in an address: `digits_adaptive-batch`."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.") or "model"


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
    known, checked = _spread(count, _reference(size)), _spread(count, _checked(size))
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
