"""Texts that occur twice, word for word or nearly: in two splits they would measure memory."""

from __future__ import annotations

import re

import numpy as np

SIMILARITY = 0.8
_WORD = re.compile(r"\w+")
_SHINGLE = 3  # words
_ROWS = 256  # of one block of comparisons; bounds the memory that very repetitive texts take


def distinct(texts: np.ndarray, labels: np.ndarray, official: np.ndarray | None = None) -> tuple[np.ndarray, str]:
    """Chooses the texts to keep so that no two of them are duplicates.

    Texts are duplicates where their words are the same (letters' case and punctuation aside), and near-duplicates where
    their sets of three-word sequences have a Jaccard similarity of at least 0.8; chains of them are one group. Of a group the
    first text stays, or none where its labels contradict each other.

    Args:
        texts: object array of `str`.
        labels: one integer each.
        official: marks texts that always stay, such as a published test split; what repeats one of them goes.

    Returns:
        A mask of the texts to keep, and a sentence about the others.

    Example:
        >>> distinct(np.array(["Good film!", "good film", "Bad film"], object), np.array([1, 1, 0]))[0].tolist()
        [True, False, True]
    """
    official = np.zeros(len(texts), bool) if official is None else official
    words = [_WORD.findall(text.lower()) or [text] for text in texts]
    firsts, exact = _groups_of([" ".join(some) for some in words])
    near = _linked(len(firsts), _similar_pairs([words[first] for first in firsts]))
    exact_first = np.zeros(len(texts), bool)
    exact_first[firsts] = True
    keep, contradictory = _kept(near[exact], labels, official)
    removed = ~keep & ~contradictory
    note = (
        f"Removed before splitting: {(removed & ~exact_first).sum():,} duplicates and"
        f" {(removed & exact_first).sum():,} near-duplicates (three-word sequences with a Jaccard similarity of"
        f" {SIMILARITY} or more)"
    )
    if contradictory.any():
        note += f", and {contradictory.sum():,} texts that repeat another but have another label"
    return keep, f"{note}."


def _groups_of(keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Index of the first text of each group of equal keys, and the group of each text."""
    number: dict[str, int] = {}
    groups = np.array([number.setdefault(key, len(number)) for key in keys], int)
    return np.unique(groups, return_index=True)[1], groups


def _kept(groups: np.ndarray, labels: np.ndarray, official: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the texts that stay and of those whose group has several labels."""
    count = groups.max(initial=-1) + 1
    first, low, high = np.full(count, len(groups)), np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(first, groups, np.arange(len(groups)))
    np.minimum.at(low, groups, labels)
    np.maximum.at(high, groups, labels)
    taken = np.zeros(count, bool)
    taken[groups[official]] = True
    contradictory = (low != high)[groups] & ~official
    is_first = first[groups] == np.arange(len(groups))
    return official | (is_first & ~contradictory & ~taken[groups]), contradictory


def _linked(count: int, pairs: np.ndarray) -> np.ndarray:
    """The group of each text, where the pairs and chains of them are one group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    return connected_components(links, directed=False)[1]


def _similar_pairs(words: list[list[str]]) -> np.ndarray:
    """Pairs of texts that are similar, `(pairs, 2)`; exact, not estimated.

    Two sets of similarity t share one of the `size - ceil(t * size) + 1` rarest elements of each (prefix filtering, Chaudhuri
    et al. 2006), and rare elements are in few texts: only such pairs are compared.
    """
    if not words:
        return np.zeros((0, 2), int)
    sets = _shingles(words)
    sizes = np.diff(sets.indptr)
    rare = _prefixes(sets, sizes)
    found = [np.zeros((0, 2), int)]
    for start in range(0, len(words), _ROWS):
        common = (rare[start : start + _ROWS] @ rare.T).tocoo()
        one, other = common.row + start, common.col
        small, large = np.minimum(sizes[one], sizes[other]), np.maximum(sizes[one], sizes[other])
        chosen = (one < other) & (small >= SIMILARITY * large)
        pairs = np.stack([one[chosen], other[chosen]], axis=1)
        found += [part[_jaccard(sets, sizes, part) >= SIMILARITY] for part in _blocks(pairs)]
    return np.concatenate(found)


def _blocks(pairs: np.ndarray, size: int = 2**14) -> list[np.ndarray]:
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _jaccard(sets, sizes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    both = np.asarray(sets[pairs[:, 0]].multiply(sets[pairs[:, 1]]).sum(axis=1)).ravel()
    return both / (sizes[pairs].sum(axis=1) - both)


def _shingles(words: list[list[str]]):
    """Which sequences of three words are in each text; columns from the rarest to the most frequent."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(
        analyzer=_sequences, n_features=2**30, binary=True, norm=None, alternate_sign=False, dtype="float32"
    )
    sets = hashing.transform(words)
    _, column, counts = np.unique(sets.indices, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), "int32")
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    sets = csr_matrix((sets.data, rank[column], sets.indptr), (len(words), len(counts)))
    sets.sort_indices()
    return sets


def _sequences(words: list[str]) -> list[str]:
    return [" ".join(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))]


def _prefixes(sets, sizes: np.ndarray):
    """The rarest elements of each set, as far as other sets have them too."""
    from scipy.sparse import csr_matrix

    length = sizes - np.ceil(SIMILARITY * sizes - 1e-9).astype(int) + 1
    row = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(sets.nnz) - sets.indptr[row]
    shared = np.bincount(sets.indices, minlength=sets.shape[1]) > 1
    chosen = (place < length[row]) & shared[sets.indices]
    return csr_matrix((sets.data[chosen], (row[chosen], sets.indices[chosen])), sets.shape)
