"""Parts of volumes: blocks of slices for the splits of a single subject, and patches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise, product

import numpy as np

from nrm_keras.errors import UserError


def blocks(length: int, thickness: int, data) -> dict[str, list[range]]:
    """Slices 0 to `length - 1` in runs that belong to one split each.

    The slices are cut into as many blocks of one size as there can be, `thickness` at least. Which blocks are held out is
    drawn by `data.split_seed`; the first and last are training's, so that what is held out lies between training slices.
    Between blocks of different splits `data.gap` slices belong to nobody: neighbours show nearly the same anatomy.

    Args:
        length: number of slices.
        thickness: fewest slices in a block.
        data: a `data` section with `validation`, `test`, `split_seed` and `gap`.

    Raises:
        UserError: the slices are too few.
    """
    for count in range(length // thickness, 2, -1):
        names = _drawn(count, data)
        changes = sum(one != other for one, other in pairwise(names))
        size = (length - data.gap * changes) // count
        if size >= thickness and {"validation", "test"} - set(names) <= _unwanted(data):
            return _runs(names, size, length, data.gap)
    raise UserError(
        f"data.gap, data.validation and data.test must leave a block for each split, of {thickness} slices at least."
        f" Received: a gap of {data.gap} in {length} slices, shares of {data.validation:g} and {data.test:g}."
        " Lower them, the depth of data.patch, or data.downsample."
    )


def _drawn(count: int, data) -> list[str]:
    inner = 1 + np.random.default_rng(data.split_seed).permutation(count - 2)
    held = {
        name: max(1, round(share * count)) if (share := getattr(data, name)) else 0 for name in ("test", "validation")
    }
    names = np.full(count, "train", object)
    names[inner[: held["test"]]] = "test"
    names[inner[held["test"] : held["test"] + held["validation"]]] = "validation"
    return list(names)


def _unwanted(data) -> set[str]:
    return {name for name in ("validation", "test") if not getattr(data, name)}


def _runs(names: list[str], size: int, length: int, gap: int) -> dict[str, list[range]]:
    runs: dict[str, list[range]] = {"train": [], "validation": [], "test": []}
    start = 0
    merged = [(name, len(list(group))) for name, group in groupby(names)]
    for index, (name, count) in enumerate(merged):
        stop = length if index == len(merged) - 1 else start + count * size
        runs[name].append(range(start, stop))
        start = stop + gap
    return runs


def patches(values: np.ndarray, patch: tuple[int, ...], stride: tuple[int, ...] | None = None) -> Iterator[np.ndarray]:
    """Patches of an array `(depth, height, width)`, each as large as `patch`, in a fixed order.

    Args:
        values: at least as large as a patch in each direction; what doesn't fill one is left out at the far ends.
        patch: its size.
        stride: steps between patches; None: they don't overlap.
    """
    stride = stride or patch
    starts = [range(0, size - part + 1, step) for size, part, step in zip(values.shape, patch, stride, strict=True)]
    for corner in product(*starts):
        yield values[tuple(slice(at, at + part) for at, part in zip(corner, patch, strict=True))]


def assembled(parts: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """The array of these sizes that `patches` cut into such parts, next to each other."""
    whole = np.empty(sizes, parts.dtype)
    for hole, part in zip(patches(whole, parts.shape[1:]), parts, strict=True):
        hole[...] = part
    return whole


def padded(values: np.ndarray, sizes: tuple[int, ...], fill) -> np.ndarray:
    """The array with its last axes cropped or padded to `sizes`, about its centre."""
    axes = range(values.ndim - len(sizes), values.ndim)
    for axis, size in zip(axes, sizes, strict=True):
        values = _fitted(values, axis, size, fill)
    return values


def _fitted(values: np.ndarray, axis: int, size: int, fill) -> np.ndarray:
    missing = size - values.shape[axis]
    before = abs(missing) // 2
    if missing <= 0:
        return np.moveaxis(np.moveaxis(values, axis, 0)[before : before + size], 0, axis)
    width = [(0, 0)] * values.ndim
    width[axis] = (before, missing - before)
    return np.pad(values, width, constant_values=fill)


def up_to(sizes: tuple[int, ...], multiples: tuple[int, ...]) -> tuple[int, ...]:
    """The next sizes that are whole multiples."""
    return tuple(-(-size // multiple) * multiple for size, multiple in zip(sizes, multiples, strict=True))
