"""Examples in three splits that never overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nrm_keras.data.disk import release
from nrm_keras.errors import UserError


@dataclass(frozen=True)
class Split:
    """Examples and what is to be learned of them.

    Args:
        inputs: array of shape `(examples, ...)`; raw values, such as pixels from 0 to 255. A `numpy.memmap` stays on disk
            until its rows are needed. Text: an object array of `str`. Or file names, see `Examples`.
        labels: for classification int32 `(examples,)`, each an index into `Examples.classes`; for segmentation such an
            index for every position, an integer array `(examples, *positions)`; for regression float32
            `(examples, targets)`.
        groups: `str` array of shape `(examples,)`: whose example it is, such as the patient. No group may be in two splits.
        domains: int32 array of shape `(examples,)`: an index into `Examples.domains`, or -1 for one that is not among them.
    """

    inputs: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None = None
    domains: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index) -> Split:
        columns = (self.inputs, self.labels, self.groups, self.domains)
        return Split(*(None if column is None else column[index] for column in columns))


@dataclass(frozen=True)
class Examples:
    """What a source gives.

    Args:
        classes: the name of each class; none for regression.
        train, validation, test: disjoint splits.
        origin: where the data was found, in words.
        shape: shape of one input as the model sees it; `()` for text.
        decode: turns one element of `inputs` (a file name) into a float32 tensor of `shape`, in TensorFlow; None where
            `inputs` holds the values themselves.
        encode: turns the inputs of a batch into what the model takes, in TensorFlow; None leaves them as they are.
        targets: for regression the name of each target, with its unit.
        domains: the name of each domain (laboratory, site) that the training split has; none where that is unknown.
        notes: what there is to say of how the examples were made, such as how many duplicates were removed.
        caveat: what scores on this data don't prove; said wherever they are shown.
    """

    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    origin: str
    shape: tuple[int, ...]
    decode: Callable | None = None
    encode: Callable | None = None
    targets: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    caveat: str = ""

    @property
    def task(self) -> str:
        """What can be learned from the labels: classification, segmentation or regression."""
        if self.targets:
            return "regression"
        return "segmentation" if self.train.labels.ndim > 1 else "classification"

    @property
    def is_text(self) -> bool:
        return self.train.inputs.dtype.kind == "O"

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
            for column in (split.labels, split.domains):
                digest.update(b"" if column is None else np.ascontiguousarray(column))  # a memmap stays on disk
        return digest.hexdigest()

    def repeated(self) -> dict[str, int]:
        """How many examples of validation and test are in the training split too, value for value or byte for byte."""
        seen = set(self._hashes["train"])
        return {name: sum(row in seen for row in self._hashes[name]) for name in ("validation", "test")}

    @cached_property
    def _hashes(self) -> dict[str, list[bytes]]:
        """A digest of each example's content."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: list(_digests(split.inputs, self._in_files(split))) for name, split in splits.items()}

    def _in_files(self, split: Split) -> bool:
        return self.decode is not None and split.inputs.dtype.kind in "US"


def _digests(rows: np.ndarray, in_files: bool) -> Iterator[bytes]:
    for number, row in enumerate(rows, start=1):
        yield _digest(row, in_files)
        if number % 1000 == 0:
            release(rows)


def _digest(row, in_file: bool) -> bytes:
    content = row.encode() if type(row) is str else row.tobytes()
    if in_file:
        path = Path(row.decode() if isinstance(row, bytes) else str(row))
        try:
            content = path.read_bytes() if path.is_file() else content  # a registered source may name no local files
        except OSError as error:
            raise UserError(f"{path}: every example must be readable. Received: {error}. Mend or remove it.") from error
    return hashlib.blake2b(content, digest_size=16).digest()


def holdout(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Splits off a share of the examples: whole groups where there are groups, else each class in proportion where it has
    examples enough.

    Raises:
        UserError: nothing would be left to train on.
    """
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    units = len(split) if split.groups is None else len(np.unique(split.groups))
    count = round(share * units)
    if count == 0:
        return split, split.take(np.arange(0))
    if count >= units:
        raise UserError(
            "data.validation and data.test are shares of the examples and must leave some to train on."
            f" Received: {count} of {units} {'examples' if split.groups is None else 'groups'} to hold out."
            " Lower data.validation or data.test."
        )
    if split.groups is None:
        kept, held = train_test_split(
            np.arange(len(split)), test_size=count, random_state=seed, stratify=_strata(split, count)
        )
    else:
        kept, held = next(
            GroupShuffleSplit(1, test_size=count, random_state=seed).split(split.labels, groups=split.groups)
        )
    return split.take(np.sort(kept)), split.take(np.sort(held))


def _strata(split: Split, count: int) -> np.ndarray | None:
    if split.labels.ndim > 1 or split.labels.dtype.kind == "f":
        return None
    classes, sizes = np.unique(split.labels, return_counts=True)
    return split.labels if sizes.min() >= 2 and min(count, len(split) - count) >= len(classes) else None


def with_held_out(splits: dict[str, Split | None], data) -> dict[str, Split]:
    """The three splits: those given, and what is not there (or None) held out of `train`.

    The test is held out first, so that it doesn't depend on `data.validation`.
    """
    train, validation, test = (splits.get(name) for name in ("train", "validation", "test"))
    share = data.validation
    if test is None:
        train, test = holdout(train, data.test, data.split_seed)
        share = share / (1 - data.test)
    if validation is None:
        train, validation = holdout(train, share, data.split_seed)
    return {"train": train, "validation": validation, "test": test}


def require_disjoint(examples: Examples) -> None:
    """Checks that no group, such as a patient, is in two splits: its scores would be those of memory.

    Raises:
        UserError: one is.
    """
    seen: dict[str, str] = {}
    for name in ("train", "validation", "test"):
        groups = getattr(examples, name).groups
        for group in () if groups is None or not len(groups) else np.unique(groups):
            if group in seen:
                raise UserError(
                    f"{examples.origin}: a patient (or other group) belongs to one split."
                    f" Received: {group} in {seen[group]} and in {name}. Move all of its examples to one of them."
                )
            seen[group] = name


def require_classes(examples: Examples) -> None:
    """Checks that there are classes to tell apart, and that training shows every one.

    Raises:
        UserError: there is one class only, or a class has no training example, or no position in any mask.
    """
    if examples.task == "regression":
        return
    if len(examples.classes) < 2:
        raise UserError(
            f"{examples.origin}: there are two classes at least. Received: {', '.join(examples.classes) or 'none'} only."
            " Add examples of another class."
        )
    labels = examples.train.labels
    parts = np.array_split(labels, 1 + (labels.nbytes >> 22))  # 4 MB each: bincount makes eight times as much of them
    counts = sum(np.bincount(np.ravel(part), minlength=len(examples.classes)) for part in parts)
    empty = [name for name, count in zip(examples.classes, counts, strict=True) if not count]
    if empty:
        raise UserError(
            f"{examples.origin}: every class needs training examples. Received: none of {', '.join(empty[:10])}."
            " Add some, or remove the class."
        )


def limited(split: Split, limit: int | None) -> Split:
    """The same random examples every time; a file sorted by class would otherwise leave classes out."""
    if limit is None or len(split) <= limit:
        return split
    return split.take(np.sort(np.random.default_rng(0).permutation(len(split))[:limit]))
