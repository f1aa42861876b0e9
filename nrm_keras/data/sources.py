"""Where examples come from: each source gives three splits that never overlap. Importing this needs no TensorFlow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nrm_keras.errors import UserError


@dataclass(frozen=True)
class Split:
    """Examples and their classes.

    Args:
        inputs: array of shape `(examples, ...)`; raw values, such as pixels from 0 to 255. Or file names, see `Examples`.
        labels: int32 array of shape `(examples,)`, each an index into `Examples.classes`.
    """

    inputs: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index) -> Split:
        return Split(self.inputs[index], self.labels[index])


@dataclass(frozen=True)
class Examples:
    """What a source gives.

    Args:
        classes: the name of each class.
        train, validation, test: disjoint splits.
        origin: where the data was found, in words.
        shape: shape of one input as the model sees it.
        decode: turns one element of `inputs` (a file name) into a float32 tensor of `shape`, in TensorFlow; None where
            `inputs` holds the values themselves.
    """

    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    origin: str
    shape: tuple[int, ...]
    decode: Callable | None = None

    def fingerprint(self) -> str:
        """Hexadecimal digest of every split's content: two runs with the same one saw the same examples."""
        digest = hashlib.blake2b(digest_size=8)
        for split in (self.train, self.validation, self.test):
            digest.update(f"{split.inputs.dtype}{split.inputs.shape}".encode())
            digest.update(split.inputs.tobytes())
            digest.update(split.labels.tobytes())
        return digest.hexdigest()

    def repeated(self) -> dict[str, int]:
        """How many examples of validation and test are in the training split too, value for value."""
        seen = {row.tobytes() for row in self.train.inputs}
        return {
            name: sum(row.tobytes() in seen for row in split.inputs)
            for name, split in (("validation", self.validation), ("test", self.test))
        }


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
    if data.source in ("npz", "folder") and find(data) is None:
        what = "an .npz file" if data.source == "npz" else "a folder of images"
        raise UserError(f"data.path: the source {data.source} needs {what}. Received: {data.path}, which is none.")


def load(data, limit: int | None = None) -> Examples:
    """Loads the data of a recipe's `data` section; with `limit`, at most so many examples of each split.

    Raises:
        UserError: the data is not here or not what the recipe says; lists what was tried and what would supply it.
    """
    source = _source(data)
    examples = source.load(data, limit) if hasattr(source, "load") else source(data)
    limits = {"train": min(filter(None, (data.limit, limit)), default=None), "validation": limit, "test": limit}
    examples = replace(examples, **{name: _limited(getattr(examples, name), n) for name, n in limits.items()})
    if not len(examples.train):
        raise UserError(f"{data.source}: training needs at least one example. Received: none ({examples.origin}).")
    return examples


def holdout(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Splits off a share of the examples, each class in proportion where it has examples enough."""
    from sklearn.model_selection import train_test_split

    count = round(share * len(split))
    if count == 0:
        return split, split.take(np.arange(0))
    classes, sizes = np.unique(split.labels, return_counts=True)
    stratify = split.labels if sizes.min() >= 2 and min(count, len(split) - count) >= len(classes) else None
    kept, held = train_test_split(np.arange(len(split)), test_size=count, random_state=seed, stratify=stratify)
    return split.take(np.sort(kept)), split.take(np.sort(held))


def _source(data):
    from nrm_keras.data import files, tfds

    builtin = {
        "digits": _Digits,
        "fashion_mnist": tfds.FashionMnist,
        "cifar10": tfds.Cifar10,
        "npz": files.Npz,
        "folder": files.Folder,
    }
    if data.source in builtin:
        return builtin[data.source]
    from nrm_keras import registry

    return registry.get("data", data.source)


def _limited(split: Split, limit: int | None) -> Split:
    """The same random examples every time; a file sorted by class would otherwise leave classes out."""
    if limit is None or len(split) <= limit:
        return split
    return split.take(np.sort(np.random.default_rng(0).permutation(len(split))[:limit]))


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
