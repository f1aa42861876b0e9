"""Where examples come from: each source gives three splits that never overlap. Importing this needs no TensorFlow."""

from __future__ import annotations

from dataclasses import replace

from nrm_keras import registry
from nrm_keras.data import files, genomics, images, medical, nuclei, pairs, tables, texts
from nrm_keras.data.examples import Examples, limited, require_disjoint
from nrm_keras.data.source import Source, is_own
from nrm_keras.errors import UserError


def find(data) -> str | None:
    """Says where the data of a recipe's `data` section is on this machine, or None where it is not.

    Quick: it looks for files and opens none.
    """
    source = _source(data)
    return source.find(data) if hasattr(source, "find") else "registered"


def require(data) -> None:
    """Checks what can be checked before anything is made or loaded: that a user's own file is there.

    Raises:
        UserError: it is not.
    """
    source = _source(data)
    if is_own(source) and source.find(data) is None:
        raise UserError(
            f"data.path: the source {data.source} needs {source.needs}. Received: {data.path}, which is none."
        )


def load(data, limit: int | None = None, seed: int = 0) -> Examples:
    """Loads the data of a recipe's `data` section; with `limit`, at most so many examples of each split.

    Args:
        seed: of the training. Where `data.fold` is left open it chooses the fold, so that several seeds cross-validate.

    Raises:
        UserError: the data is not here or not what the recipe says; lists what was tried and what would supply it.
    """
    source = _source(data)
    data = with_fold(data, seed)
    examples = source.load(data, limit) if hasattr(source, "load") else source(data)
    require_disjoint(examples)
    limits = {"train": min(filter(None, (data.limit, limit)), default=None), "validation": limit, "test": limit}
    examples = replace(examples, **{name: limited(getattr(examples, name), n) for name, n in limits.items()})
    if not len(examples.train):
        raise UserError(f"{data.source}: training needs at least one example. Received: none ({examples.origin}).")
    return examples


def with_fold(data, seed: int):
    """The section with the fold that a training with this seed holds out, where it has folds and names none."""
    if getattr(data, "fold", 0) is None:
        return data.model_copy(update={"fold": seed % data.folds})
    return data


def mock(data, count: int) -> Examples:
    """Random examples of the same shape and classes, for smoke runs on a machine without the data.

    Raises:
        UserError: only the data itself knows its shape.
    """
    return _source(data).mock(with_fold(data, 0), count)


SOURCES: dict[str, type[Source]] = {
    source.name: source
    for source in (
        images.Digits,
        images.Mnist5k,
        images.FashionMnist,
        images.Cifar10,
        images.Cifar100,
        images.PatchCamelyon,
        images.ColorectalHistology,
        images.Malaria,
        texts.RottenTomatoes,
        texts.ImdbHalf,
        texts.Spam,
        texts.ImdbReviews,
        texts.AgNewsSubset,
        texts.TextFile,
        medical.Brain,
        medical.Tissue,
        tables.BreastCancer,
        genomics.Pbmc68k,
        genomics.BladderBatch,
        nuclei.Nuclei,
        files.Npz,
        files.Folder,
        pairs.Pairs,
    )
}


def _source(data):
    return SOURCES.get(data.source) or registry.get("data", data.source)
