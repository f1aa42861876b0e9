"""Sets of texts: the `data` section, by its `source`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from nrm_keras.recipe.sections.base import Name, PositiveInt
from nrm_keras.recipe.sections.data import Data


class Texts(Data):
    """What the sources of texts share."""

    vocabulary: PositiveInt = Field(20_000, description="how many words the model knows: the most frequent ones")
    length: PositiveInt = Field(256, description="tokens kept of a text, from its beginning")


class RottenTomatoes(Texts):
    """8,530 sentences of movie reviews, positive or negative."""

    source: Literal["rotten_tomatoes"]


class ImdbHalf(Texts):
    """25,000 movie reviews of IMDB, half of the labelled ones, positive or negative."""

    source: Literal["imdb_half"]


class Spam(Texts):
    """6,046 emails of 2002 and 2003, ham or spam: subject and body."""

    source: Literal["spam"]


class ImdbReviews(Texts):
    """25,000 + 25,000 movie reviews of IMDB, positive or negative."""

    brings: ClassVar[frozenset[str]] = frozenset({"test"})
    source: Literal["imdb_reviews"]


class AgNewsSubset(Texts):
    """120,000 + 7,600 news, titles and descriptions, 4 topics."""

    brings: ClassVar[frozenset[str]] = frozenset({"test"})
    source: Literal["ag_news_subset"]


class TextFile(Texts):
    """A CSV file with a header, or JSON lines (.jsonl): a text and a label in each row, to be split."""

    source: Literal["text_file"]
    path: Name = Field(description="the file; relative to the recipe's file, or to the shell for an override")
    text: Name = Field("text", description="the column of texts")
    label: Name = Field("label", description="the column of classes")


SECTIONS = (RottenTomatoes, ImdbHalf, Spam, ImdbReviews, AgNewsSubset, TextFile)
