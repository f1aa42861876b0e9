"""What a recipe's training is made of: its examples, model, batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from nrm_keras import models, registry
from nrm_keras.data import sources
from nrm_keras.data.examples import Examples, Split, require_classes
from nrm_keras.data.pipelines import Batches, moments, standardization
from nrm_keras.errors import UserError
from nrm_keras.runs import directory as run_directory
from nrm_keras.training import baseline, distribution, optimizers
from nrm_keras.training.initialize import freeze_normalizers
from nrm_keras.training.tasks import TASKS

SMOKE_BATCH, SMOKE_STEPS = 8, 2
SPLITS = ("train", "validation", "test")


def shrink(recipe):
    """The recipe's smallest relative, for a test of everything but the result: two steps, without XLA."""
    replicas = recipe.train.replicas or 1
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"batch_size": SMOKE_BATCH * replicas}),
            "model": models.smallest(recipe.model),
            "train": recipe.train.model_copy(update={"epochs": 1, "jit": False}),
        }
    )


def load_examples(recipe, path: Path, smoke: bool, say: Callable[[str], None]) -> Examples:
    """The recipe's data; what is remarkable about it is said, and the run directory remembers which it was."""
    examples = prepared(recipe, SMOKE_STEPS * recipe.data.batch_size if smoke else None, mock=smoke)
    sizes = " + ".join(f"{len(getattr(examples, split)):,} {split}" for split in SPLITS)
    what = f"{len(examples.classes)} classes" if examples.classes else " and ".join(examples.targets)
    say(f"Data: {sizes} examples, {what}, from {examples.origin}.")
    for note in examples.notes:
        say(f"Note: {note}")
    for split, count in examples.repeated().items():
        if count:
            say(f"Note: {count} of {len(getattr(examples, split)):,} {split} examples are in the training split too.")
    if recipe.train.keep == "best" and not len(examples.validation):
        say("Note: there is no validation split, so the weights of the last epoch are kept.")
    run_directory.record_data(path, examples.origin, examples.fingerprint())
    return examples


def prepared(recipe, limit: int | None = None, mock: bool = False) -> Examples:
    """The recipe's data, checked, and encoded for its model.

    Args:
        limit: at most so many examples of each split.
        mock: whether random examples stand in for public data that is not here.

    Raises:
        UserError: the data is not here, or not of the kind that the recipe's task needs.
    """
    if mock and sources.find(recipe.data) is None:
        examples = sources.mock(recipe.data, limit)
    else:
        examples = sources.load(recipe.data, limit, recipe.train.seed)
    if examples.task != recipe.task:
        raise UserError(
            f"task: the data must have what the task learns. Received: task {recipe.task}, and data for {examples.task}"
            f" ({recipe.data.source}). Set task: {examples.task}, with metrics of that task, or choose other data."
        )
    if takes_domains(recipe) and not examples.domains:
        raise UserError(
            "norm.type domain needs data that says which domain (laboratory, site) each example is from."
            f" Received: {recipe.data.source}, which does not. Use norm.type batch, or see genomics/bladderbatch."
        )
    baseline.check(recipe, examples)
    if limit is None:
        require_classes(examples)
    return replace(examples, encode=_vectorizer(recipe, examples)) if examples.is_text else examples


def _vectorizer(recipe, examples: Examples) -> keras.layers.TextVectorization:
    """Words of the training texts to numbers: 0 is padding, 1 any word beyond the `vocabulary` most frequent ones."""
    data = recipe.data
    layer = keras.layers.TextVectorization(data.vocabulary, output_sequence_length=data.length, name="words")
    layer.adapt(list(examples.train.inputs))
    if layer.vocabulary_size() <= 2:
        raise UserError(
            f"{examples.origin}: texts are made of words, letters or digits between spaces. Received: no word in"
            f" {len(examples.train):,} training texts. Are they in the column that data.text names?"
        )
    return layer


def build_model(recipe, examples: Examples, batches: Batches, strategy=None) -> keras.Model:
    """The recipe's model, compiled, for these training batches."""
    replicas = strategy.num_replicas_in_sync if strategy else 1
    precision = distribution.resolve_precision(recipe.train.precision)
    with distribution.precision(precision), distribution.scope(strategy):
        model = models.build(
            recipe,
            (recipe.data.length,) if examples.is_text else examples.shape,
            len(examples.classes or examples.targets),
            standardization=_standardization(recipe, examples),
            target_moments=moments(examples.train.labels) if examples.targets else None,
            domains=len(examples.domains) if takes_domains(recipe) else 0,
            vocabulary=examples.encode.vocabulary_size() if examples.encode else None,
            replicas=replicas,
        )
        if recipe.train.freeze_normalizers:
            freeze_normalizers(model)
        compile_model(model, recipe, examples, optimizers.build(recipe, model, batches.steps_per_epoch), strategy)
        # one element per replica: the first is a batch as each replica sees it
        distribution.build_before_fit(model, next(iter(batches(0))))
    return model


def _standardization(recipe, examples: Examples):
    if examples.is_text or not recipe.data.standardize:
        return None
    return standardization(examples.train, examples.decode, shape=examples.shape)


def takes_domains(recipe) -> bool:
    """Whether the model takes the domain of each example beside it."""
    return recipe.norm.type == "domain"


def compile_model(model: keras.Model, recipe, examples: Examples, optimizer, strategy=None) -> None:
    """Gives the model the recipe's loss and metrics."""
    task, outputs = TASKS[recipe.task], len(examples.classes or examples.targets)
    loss = task.loss()
    model.compile(
        optimizer=optimizer,
        loss=distribution.EvenlyCounted(loss) if strategy else loss,
        metrics=[
            task.metrics[name](outputs) if name in task.metrics else registry.get("metric", name)()
            for name in recipe.train.metrics
        ],
        jit_compile=False if strategy else recipe.train.jit,
    )


def from_raw(model: keras.Model, recipe, examples: Examples) -> keras.Model:
    """The model that takes inputs as they are: for text, strings in place of the numbers of their words."""
    if examples.encode is None:
        return model
    texts = keras.Input((), dtype="string", name="text")
    # the same layers without the optimizer, which would be saved there and not with the whole
    layers = keras.Model(model.input, model.output, name=model.name)
    whole = keras.Model(texts, layers(examples.encode(texts)), name=f"{model.name}_of_text")
    compile_model(whole, recipe, examples, model.optimizer)
    return whole


def training_batches(recipe, examples: Examples, replicas: int = 1) -> Batches:
    """The recipe's training batches as a function of epoch and step."""
    return Batches(
        examples.train,
        recipe.data.batch_size,
        seed=recipe.train.seed,
        augment=recipe.data.augment,
        class_weights=_class_weights(recipe, examples),
        replicas=replicas,
        **_reading(recipe, examples),
    )


def evaluation_data(recipe, examples: Examples, split: str, strategy=None):
    """A split in its order, as `fit` and `evaluate` take it; None where it is empty."""
    if not len(getattr(examples, split)):
        return None
    replicas = strategy.num_replicas_in_sync if strategy else 1
    size = recipe.data.held_out_batch_size
    batches = in_order(recipe, examples, getattr(examples, split), size, replicas)
    return distribution.PerReplica(strategy, lambda: batches(0), batches(0)) if strategy else batches(0)


def in_order(recipe, examples: Examples, split: Split, batch_size: int, replicas: int = 1) -> Batches:
    """Some of the examples in their order, as the model takes them."""
    return Batches(split, batch_size, replicas=replicas, **_reading(recipe, examples))


def _reading(recipe, examples: Examples) -> dict:
    """How `Batches` make of the examples what the model takes."""
    return {"decode": examples.decode, "encode": examples.encode, "domains": takes_domains(recipe)}


def _class_weights(recipe, examples: Examples) -> np.ndarray | None:
    wanted = recipe.train.class_weights
    if wanted is None:
        return None
    counts = np.bincount(examples.train.labels, minlength=len(examples.classes))
    if wanted == "balanced":
        return counts.sum() / (np.maximum(counts, 1) * np.count_nonzero(counts))
    if unknown := set(wanted) - set(examples.classes):
        raise UserError(
            f"train.class_weights names the classes of the data: {', '.join(examples.classes)}. "
            f"Received: {', '.join(sorted(unknown))}."
        )
    return np.array([wanted.get(name, 1.0) for name in examples.classes])
