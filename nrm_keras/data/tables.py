"""Tables of numbers: what their sources share, and scikit-learn's breast cancer set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nrm_keras.data.examples import Examples, Split, with_held_out
from nrm_keras.data.source import BundledSource, mock
from nrm_keras.errors import UserError


class BreastCancer(BundledSource):
    """Tumours described by 30 numbers each (Wolberg, Street & Mangasarian 1993)."""

    name = "breast_cancer"
    what = "569 breast tumours, 30 measurements of cell nuclei each, malignant or benign"
    size = "0.1 MB"
    licence = "BSD-3-Clause (scikit-learn)"

    @classmethod
    def load(cls, data, limit: int | None = None) -> Examples:
        from sklearn.datasets import load_breast_cancer

        tumours = load_breast_cancer()
        everything = Split(tumours.data.astype("float32"), tumours.target.astype("int32"))
        return Examples(
            tuple(map(str, tumours.target_names)),
            **with_held_out({"train": everything}, data),
            origin=cls.find(),
            shape=(30,),
            caveat="569 tumours of one hospital: the score proves that the code learns, nothing clinical.",
        )

    @classmethod
    def mock(cls, data, count: int) -> Examples:
        return mock_table(30, ("malignant", "benign"), count)


def mock_table(columns: int, classes: tuple[str, ...], count: int, domains: tuple[str, ...] = ()) -> Examples:
    """Rows of random numbers; with `domains`, of each in turn, and of none in the test split."""
    examples = mock(lambda chance: chance.normal(size=(count, columns)).astype("float32"), (columns,), classes, count)
    if not domains:
        return examples
    known, unknown = (np.arange(count) % len(domains)).astype("int32"), np.full(count, -1, "int32")
    numbers = {"train": known, "validation": known, "test": unknown}
    splits = {name: replace(getattr(examples, name), domains=of) for name, of in numbers.items()}
    return replace(examples, domains=domains, **splits)


def require_finite(values: np.ndarray, columns, what: str) -> None:
    """Checks a table for missing values.

    Args:
        values: `(rows, columns)`.
        columns: the name of each column, for the message.
        what: the file, for the message.

    Raises:
        UserError: a value is NaN or infinite.
    """
    bad = ~np.isfinite(values)
    if bad.any():
        names = [str(columns[index]) for index in np.flatnonzero(bad.any(0))]
        raise UserError(
            f"{what}: every value must be a finite number. Received: {int(bad.sum())} NaN or infinite values,"
            f" in {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}. Fill them in or leave these columns out."
        )
