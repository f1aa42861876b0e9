"""How far a laboratory's batch tells the class: what a model may learn in the place of biology."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def cramers_v(table: np.ndarray) -> float:
    """Bias-corrected Cramer's V of two categories: 0 where they are independent, 1 where one determines the other.

    Without the correction few samples look associated by chance alone.

    Args:
        table: how many samples there are of each pair, `(categories, other categories)`.

    Returns:
        V; 0 where there are fewer than two of either category, as nothing can go with nothing.

    Example:

    >>> import numpy as np
    >>> from nrm_keras.data.confounding import cramers_v
    >>> print(f"{cramers_v(np.array([[9, 0], [0, 7]])):.2f} {cramers_v(np.array([[6, 6], [3, 3]])):.2f}")
    1.00 0.00

    Source: Bergsma 2013, "A bias-correction for Cramer's V and Tschuprow's T", equations 5 to 8.
    """
    from scipy.stats.contingency import chi2_contingency

    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    count, (rows, columns) = table.sum(), table.shape
    if min(rows, columns) < 2:
        return 0.0
    phi2 = chi2_contingency(table, correction=False).statistic / count
    phi2 = max(0.0, phi2 - (rows - 1) * (columns - 1) / (count - 1))
    rows, columns = (size - (size - 1) ** 2 / (count - 1) for size in (rows, columns))
    return float(np.sqrt(phi2 / (min(rows, columns) - 1)))


def crosstab(domains: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct domains, and how many examples each has of each class."""
    names, rows = np.unique(domains, return_inverse=True)
    table = np.zeros((len(names), classes), "int64")
    np.add.at(table, (rows, labels), 1)
    return names, table


def in_words(names: Sequence, table: np.ndarray, classes: Sequence[str], known: np.ndarray) -> tuple[str, ...]:
    """Sentences that say how far the domain tells the class.

    Args:
        names: of the domains, the rows of `table`.
        known: boolean, which of them training has.
    """
    guessed, largest, count = table.max(1).sum(), table.sum(0).max(), table.sum()
    counts = "; ".join(f"{name}: {', '.join(map(str, row))}" for name, row in zip(names, table, strict=True))
    association = (
        f"Batch and class go together: Cramer's V {cramers_v(table):.2f} over all batches, {cramers_v(table[known]):.2f}"
        " over those of training, bias-corrected (0: not at all, 1: one tells the other)."
    )
    guess = (
        f"Who knows the batch alone and names its commonest class is right for {guessed} of {count} samples; the"
        f" commonest class of all is right for {largest}."
    )
    return association, guess, f"Samples of {', '.join(classes)} in {counts}."
