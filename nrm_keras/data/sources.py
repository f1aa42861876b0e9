"""Where examples come from: each source gives three splits that never overlap. Importing this needs no TensorFlow."""

from __future__ import annotations

from dataclasses import replace

from nrm_keras import registry
from nrm_keras.data import files, medical, pairs, tfds
from nrm_keras.data.examples import Examples, Split, holdout, limited, require_disjoint
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
    if data.source in _OWN and find(data) is None:
        what = _OWN[data.source]
        raise UserError(f"data.path: the source {data.source} needs {what}. Received: {data.path}, which is none.")


def load(data, limit: int | None = None) -> Examples:
    """Loads the data of a recipe's `data` section; with `limit`, at most so many examples of each split.

    Raises:
        UserError: the data is not here or not what the recipe says; lists what was tried and what would supply it.
    """
    source = _source(data)
    examples = source.load(data, limit) if hasattr(source, "load") else source(data)
    require_disjoint(examples)
    limits = {"train": min(filter(None, (data.limit, limit)), default=None), "validation": limit, "test": limit}
    examples = replace(examples, **{name: limited(getattr(examples, name), n) for name, n in limits.items()})
    if not len(examples.train):
        raise UserError(f"{data.source}: training needs at least one example. Received: none ({examples.origin}).")
    return examples


class _Digits:
    """scikit-learn's digits: 1,797 pictures of 8x8 pixels, values 0 to 16 (Alpaydin & Kaynak 1998)."""

    @staticmethod
    def find(data) -> str:
        return "scikit-learn"

    @staticmethod
    def load(data, limit=None) -> Examples:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = digits.images.astype("uint8")[..., None]
        rest, test = holdout(Split(images, digits.target.astype("int32")), data.test, data.split_seed)
        train, validation = holdout(rest, data.validation / (1 - data.test), data.split_seed)
        return Examples(tuple("0123456789"), train, validation, test, "scikit-learn", (8, 8, 1))


_BUILTIN = {
    "digits": _Digits,
    "fashion_mnist": tfds.FashionMnist,
    "cifar10": tfds.Cifar10,
    "npz": files.Npz,
    "folder": files.Folder,
    "brain": medical.Brain,
    "tissue": medical.Tissue,
    "pairs": pairs.Pairs,
}


_OWN = {"npz": "an .npz file", "folder": "a folder of images", "pairs": "a folder of images and masks"}


def _source(data):
    return _BUILTIN.get(data.source) or registry.get("data", data.source)
