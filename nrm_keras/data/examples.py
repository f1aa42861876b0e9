"""Examples in three splits that never overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

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
        """Hexadecimal digest of every split's content: two runs with the same one saw the same examples.

        Files count by their bytes, not by their names: data that moved is the same data.
        """
        digest = hashlib.blake2b(digest_size=8)
        for name, hashes in self._hashes.items():
            split = getattr(self, name)
            kind = "files" if self._in_files(split) else f"{split.inputs.dtype}{split.inputs.shape[1:]}"
            digest.update(f"{name} {len(split)} {kind}".encode())
            digest.update(b"".join(hashes))
            digest.update(split.labels.tobytes())
        return digest.hexdigest()

    def repeated(self) -> dict[str, int]:
        """How many examples of validation and test are in the training split too, value for value or byte for byte."""
        seen = set(self._hashes["train"])
        return {name: sum(row in seen for row in self._hashes[name]) for name in ("validation", "test")}

    @cached_property
    def _hashes(self) -> dict[str, list[bytes]]:
        """A digest of each example's content."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: [_digest(row, self._in_files(split)) for row in split.inputs] for name, split in splits.items()}

    def _in_files(self, split: Split) -> bool:
        return self.decode is not None and split.inputs.dtype.kind in "US"


def _digest(row, in_file: bool) -> bytes:
    content = row.tobytes()
    if in_file:
        path = Path(row.decode() if isinstance(row, bytes) else str(row))
        try:
            content = path.read_bytes() if path.is_file() else content  # a registered source may name no local files
        except OSError as error:
            raise UserError(f"{path}: every example must be readable. Received: {error}. Mend or remove it.") from error
    return hashlib.blake2b(content, digest_size=16).digest()


def holdout(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Splits off a share of the examples, each class in proportion where it has examples enough.

    Raises:
        UserError: nothing would be left to train on.
    """
    from sklearn.model_selection import train_test_split

    count = round(share * len(split))
    if count == 0:
        return split, split.take(np.arange(0))
    if count >= len(split):
        raise UserError(
            "data.validation and data.test are shares of the examples and must leave some to train on."
            f" Received: {count} of {len(split)} examples to hold out. Lower data.validation or data.test."
        )
    classes, sizes = np.unique(split.labels, return_counts=True)
    stratify = split.labels if sizes.min() >= 2 and min(count, len(split) - count) >= len(classes) else None
    kept, held = train_test_split(np.arange(len(split)), test_size=count, random_state=seed, stratify=stratify)
    return split.take(np.sort(kept)), split.take(np.sort(held))


def limited(split: Split, limit: int | None) -> Split:
    """The same random examples every time; a file sorted by class would otherwise leave classes out."""
    if limit is None or len(split) <= limit:
        return split
    return split.take(np.sort(np.random.default_rng(0).permutation(len(split))[:limit]))
