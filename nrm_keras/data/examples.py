"""Examples in three splits that never overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


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


def limited(split: Split, limit: int | None) -> Split:
    """The same random examples every time; a file sorted by class would otherwise leave classes out."""
    if limit is None or len(split) <= limit:
        return split
    return split.take(np.sort(np.random.default_rng(0).permutation(len(split))[:limit]))
