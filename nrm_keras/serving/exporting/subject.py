"""What is exported: a model, how it is asked, the data that it is checked on, and what its card says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from nrm_keras import registry
from nrm_keras.data import sources
from nrm_keras.data.examples import Examples, Split, limited
from nrm_keras.data.pipelines import Batches
from nrm_keras.recipe import loading
from nrm_keras.runs import directory
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
        limited(split, how_many_known(_size(examples))), CHECKED, decode=examples.decode, domains=interface.keyed
    )(0)
    split = limited(split, how_many_checked(_size(examples)))
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


def how_many_checked(size: int) -> int:
    """How many examples of so many bytes are asked for."""
    return max(CHECKED, min(_MOST_CHECKED, 2**27 // size))


def how_many_known(size: int) -> int:
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
