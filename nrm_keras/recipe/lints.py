"""Warnings about recipes that are allowed and probably not meant. They fail nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nrm_keras.recipe.loading import Loaded
from nrm_keras.recipe.problems import shown
from nrm_keras.recipe.schema import Recipe

Advice = tuple[str, str]

_RUNNING = ("batch", "switchable", "adaptive")
COUPLED_FOLKLORE = (1e-4, 5e-4)


def lints(loaded: Loaded) -> list[str]:
    """The warnings about a recipe, each with the file and line of the value it is about."""
    return [loaded.locate(path, f"warning: {message}") for lint in LINTS for path, message in lint(loaded.recipe)]


def tiny_batch(recipe: Recipe) -> Iterator[Advice]:
    """Batch statistics of one or two examples are mostly noise."""
    if recipe.norm.type != "batch":
        return
    examples = pooled_examples(recipe)
    if examples <= 2:
        yield (
            "norm.type",
            (
                f"batch normalization over {examples} example{'s' * (examples > 1)} at a time: its statistics are mostly noise"
                " (ResNet-50 at 2 images per GPU: error 34.7 % with it, 24.1 % with group normalization; Wu & He 2018)."
                " Raise data.batch_size, or use norm.type adaptive, group or layer."
            ),
        )


def noisy_share(recipe: Recipe) -> Iterator[Advice]:
    """The shares of switchable normalization do not depend on the batch size."""
    if recipe.norm.type == "switchable" and pooled_examples(recipe) <= 2:
        examples = pooled_examples(recipe)
        yield (
            "norm.type",
            (
                f"switchable normalization mixes in batch statistics of {examples} example{'s' * (examples > 1)}, mostly noise,"
                " and does not know how large the batch is. Raise data.batch_size, or use norm.type adaptive."
            ),
        )


def closed_gate(recipe: Recipe) -> Iterator[Advice]:
    """The adaptive gate is 0 at one example by definition, so its batch side never acts."""
    if recipe.norm.type == "adaptive" and pooled_examples(recipe) == 1:
        alone = "sample" if recipe.model.type in ("resnet", "unet") else "layer"
        name = "group" if recipe.norm.alternative == "group" else alone
        yield (
            "norm.type",
            (
                "adaptive normalization of one example at a time is its alternative alone, as the gate is closed at 1."
                f" Raise data.batch_size, or say norm.type {name}."
            ),
        )


def dropout_before_batch(recipe: Recipe) -> Iterator[Advice]:
    """Dropout changes the variance between training and inference, and running statistics only know training's."""
    model, norm = recipe.model, recipe.norm
    in_front = model.type == "residual_mlp" or (model.type == "mlp" and len(model.units) > 1)
    if in_front and model.dropout > 0 and norm.type in _RUNNING:
        yield (
            "model.dropout",
            (
                f"dropout {model.dropout:g} in front of a normalizer with running statistics: their variance is that with dropout,"
                " and inference has none (Li et al. 2019, variance shift). Set model.dropout: 0, or use norm.type layer."
            ),
        )


def coupled_decay(recipe: Recipe) -> Iterator[Advice]:
    """The usual SGD weight decays are for L2 penalties, which momentum multiplies; ours is decoupled."""
    optimizer = recipe.optimizer
    if optimizer.type == "sgd" and optimizer.momentum == 0.9 and optimizer.weight_decay in COUPLED_FOLKLORE:
        decay = optimizer.weight_decay
        yield (
            "optimizer.weight_decay",
            (
                f"{decay:g} looks like the usual L2 penalty of SGD. Decay is decoupled here, and at momentum 0.9 ten times weaker:"
                f" {10 * decay:g} equals a coupled {decay:g}, which is optimizer.l2."
            ),
        )


def idle_decay(recipe: Recipe) -> Iterator[Advice]:
    """Nothing decays, so it does not matter what."""
    optimizer = recipe.optimizer
    if getattr(optimizer, "decay_normalizers", False) is not True:
        return
    if not getattr(optimizer, "weight_decay", 0) and not getattr(optimizer, "l2", 0):
        key = "l2" if optimizer.type == "adam" else "weight_decay"
        yield (
            "optimizer.decay_normalizers",
            f"there is no decay to extend to gamma, beta and biases. Set optimizer.{key}, or remove it.",
        )


def double_decay(recipe: Recipe) -> Iterator[Advice]:
    """Decoupled and coupled decay pull at the same weights."""
    optimizer = recipe.optimizer
    if optimizer.type == "sgd" and optimizer.weight_decay and optimizer.l2:
        yield (
            "optimizer.l2",
            f"weight_decay {optimizer.weight_decay:g} and l2 {optimizer.l2:g} both pull weights to 0. Remove one of them.",
        )


def flipped_digits(recipe: Recipe) -> Iterator[Advice]:
    """A mirrored digit is none, or another one."""
    if recipe.data.source == "digits" and "flip" in recipe.data.augment:
        yield "data.augment", (f"flipped digits are not digits. Received: {shown(recipe.data.augment)}. Remove flip.")


def idle_patience(recipe: Recipe) -> Iterator[Advice]:
    """A callback that waits as long as the whole training does nothing."""
    for index, callback in enumerate(recipe.callbacks):
        if callback.type in ("early_stopping", "reduce_lr_on_plateau") and callback.patience >= recipe.train.epochs:
            yield (
                f"callbacks.{index}.patience",
                (
                    f"a patience of {callback.patience} epochs cannot run out in {recipe.train.epochs}: the callback does nothing."
                    " Lower it or raise train.epochs."
                ),
            )


LINTS: tuple[Callable[[Recipe], Iterator[Advice]], ...] = (
    tiny_batch,
    noisy_share,
    closed_gate,
    dropout_before_batch,
    coupled_decay,
    idle_decay,
    double_decay,
    flipped_digits,
    idle_patience,
)


def pooled_examples(recipe: Recipe) -> int:
    """How many examples share batch statistics: a virtual batch, a replica's, or all when synchronized."""
    batch, replicas = recipe.data.batch_size, recipe.train.replicas or 1
    virtual = getattr(recipe.norm, "virtual_batch_size", None)
    if virtual is not None:
        return min(virtual, batch // replicas)
    # None synchronizes whenever there are several replicas.
    return batch // replicas if recipe.norm.synchronized is False else batch
