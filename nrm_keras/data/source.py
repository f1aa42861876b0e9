"""What every built-in source is: facts for `data ls`, and how its examples come about."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from nrm_keras.data.examples import Examples, Split
from nrm_keras.errors import UserError


class Source:
    """A data set that recipes can name. Used as a class: it has no instances.

    Attributes:
        name: what recipes call it in `data.source`.
        what: size and content in a line.
        size: bytes on disk in words.
        licence: as its publisher states it.
        where_from: what it comes with, or who offers it.
    """

    name = ""
    what = ""
    size = ""
    licence = ""
    where_from = ""

    @classmethod
    def find(cls, data=None) -> str | None:
        """Where the data is on this machine, in words; None where it is not. Quick: it opens nothing."""
        raise NotImplementedError

    @classmethod
    def load(cls, data, limit: int | None = None) -> Examples:
        """The examples of a recipe's `data` section; with `limit`, a source may leave out what is beyond it.

        Raises:
            UserError: the data is not here or is damaged.
        """
        raise NotImplementedError

    @classmethod
    def prepare(cls, archives: Path | None = None, accept_checksum: bool = False) -> Path | str:
        """Makes the data ready and says where it is.

        Args:
            archives: what the user gave to make it from, with `--from`; None: look for it, else download.
            accept_checksum: take archives whose checksum is not the registered one.

        Raises:
            UserError: the data can't be had.
        """
        raise NotImplementedError

    @classmethod
    def mock(cls, data, count: int) -> Examples:
        """`count` random examples a split, of the shape and with the classes of the real ones, for smoke runs without them."""
        raise NotImplementedError


class BundledSource(Source):
    """Data that comes with scikit-learn, which this package needs anyway."""

    where_from = "scikit-learn"

    @classmethod
    def find(cls, data=None) -> str:
        return cls.where_from

    @classmethod
    def prepare(cls, archives=None, accept_checksum=False) -> str:
        return f"{cls.where_from} brings it; nothing to prepare"


class OwnSource(Source):
    """A user's own data, which the recipe names in `data.path`.

    Attributes:
        needs: what `data.path` has to be, in words.
    """

    where_from = "you"
    needs = ""

    @classmethod
    def prepare(cls, archives=None, accept_checksum=False):
        raise UserError(f"data prepare is for public data sets. Received: {cls.name}. Set data.path in a recipe.")

    @classmethod
    def mock(cls, data, count):
        raise UserError(f"data.path: the source {cls.name} needs {cls.needs}. Received: {data.path}, which is none.")


def is_own(source) -> bool:
    """Whether a source (a class, or what a user registered) is a user's own data."""
    return isinstance(source, type) and issubclass(source, OwnSource)


def mock_images(shape: tuple[int, ...], classes: tuple[str, ...], count: int) -> Examples:
    """Random bytes as images."""
    return mock(lambda chance: chance.integers(0, 256, (count, *shape), "uint8"), shape, classes, count)


def mock(
    inputs, shape: tuple[int, ...], classes: tuple[str, ...], count: int, positions: tuple[int, ...] = ()
) -> Examples:
    """Random examples; `inputs` makes those of a split from a random generator.

    Args:
        positions: those of a mask, for segmentation.
    """
    chance = np.random.default_rng(0)

    def split() -> Split:
        labels = (
            np.resize(np.arange(len(classes)), (count, *positions)) if positions else np.arange(count) % len(classes)
        )
        return Split(inputs(chance), labels.astype("int32"))

    return Examples(classes, split(), split(), split(), "random numbers", shape)


def data_dir() -> Path:
    """Where prepared data is, TFDS's directory: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def not_here(name: str, tried: list[str], error: Exception, ways: list[str]) -> str:
    """What to tell whoever asked for data that can't be had: what was tried, why that failed, and what would supply it."""
    return "\n".join(
        [f"{name}: the data is not on this machine. Tried, in this order:"]
        + [f"  {number}. {what}" for number, what in enumerate(tried, 1)]
        + [f"The download failed: {error}", "Any of these supplies it:"]
        + [f"  {way}" for way in ways]
    )
