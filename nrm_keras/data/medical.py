"""Segmentation of public brain MRI: one subject, and the average of many."""

from __future__ import annotations

import numpy as np

from nrm_keras.data.blocks import blocks, padded, patches, up_to
from nrm_keras.data.examples import Examples, Split
from nrm_keras.data.packages import Package, PackagedSource
from nrm_keras.data.source import mock
from nrm_keras.data.volumes import Volume, read_nifti, require_same_grid
from nrm_keras.errors import UserError

_THICKNESS = 8  # slices in a block at least
_ENOUGH = 0.02  # share of a slice that is not background, for the slice to count
_MULTIPLE = 16  # a U-Net halves an image up to four times
_MNI = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


class _OneVolume(PackagedSource):
    """A source that is a single volume with its mask.

    Attributes:
        classes: the name of each class.
        size_in_voxels: depth (of what is used), height and width.
    """

    classes: tuple[str, ...]
    size_in_voxels: tuple[int, int, int]
    caveat: str

    @classmethod
    def read(cls) -> tuple[Volume, np.ndarray]:
        """The volume, and the class (uint8) of each of its voxels."""
        raise NotImplementedError

    @classmethod
    def load(cls, data, limit: int | None = None) -> Examples:
        volume, labels = cls.read()
        images, labels, inside = _reduced(volume.values, labels, data)
        runs = _blocks(len(images), data)
        splits = {name: _examples(images, labels, runs[name], data, name == "train") for name in runs}
        return Examples(
            cls.classes,
            **splits,
            origin=cls.find(),
            shape=splits["train"].inputs.shape[1:],
            notes=(_note(runs, inside, data),),
            caveat=cls.caveat,
        )

    @classmethod
    def mock(cls, data, count: int) -> Examples:
        depth, *plane = (size // data.downsample for size in cls.size_in_voxels)
        _blocks(
            depth if data.patch else cls.size_in_voxels[0], data
        )  # what the real volume is too small for fails here too
        positions = data.patch or up_to(plane, (_MULTIPLE, _MULTIPLE))
        shape = (*positions, 1)
        return mock(
            lambda chance: chance.integers(0, 256, (count, *shape), "uint8"), shape, cls.classes, count, positions
        )


class Brain(_OneVolume):
    """Brain extraction: which voxels of a T1-weighted MRI of a head are brain (Holmes et al. 1998; mask by BET, Smith 2002)."""

    name = "brain"
    what = "T1 MRI of one head, 140 axial slices, brain or background"
    size = "5 MB (package: 16 MB)"
    licence = "BSD-3-Clause (mricron-data)"
    classes = ("background", "brain")
    size_in_voxels = (140, 217, 181)
    caveat = "One subject: slices of one head in training and test. The score shows that the code learns, and nothing clinical."
    package = Package(
        "Debian",
        "mricron-data",
        "1.2.20211006+dfsg-4",
        {
            "usr/share/mricron/templates/ch2.nii.gz": "a009051127f64dc3dd554d5f5b589870ea72106d9642c21b4e7093e478cfc309",
            "usr/share/mricron/templates/ch2bet.nii.gz": (
                "592a2d20abdf36eefcb540ca8958428040edffc1bc1a18ba1dcfbabac77c5dd1"
            ),
        },
        "/usr/share/mricron/templates",
    )

    @classmethod
    def read(cls) -> tuple[Volume, np.ndarray]:
        files = cls.files()
        head, brain = read_nifti(files["ch2.nii.gz"]), read_nifti(files["ch2bet.nii.gz"])
        require_same_grid(head, brain)
        return head, (brain.values > 0).astype("uint8")


class Tissue(_OneVolume):
    """Brain tissue: which voxels of an average brain are grey matter, white matter or others (Fonov et al. 2011)."""

    name = "tissue"
    what = "T1 MRI of an average brain, 142 axial slices, 4 classes of tissue"
    size = "5 MB (package: 12 MB)"
    licence = "BSD-3-Clause (nilearn); the template's is stated as unknown"
    classes = ("background", "fluid and others", "grey matter", "white matter")
    size_in_voxels = (142, 233, 197)
    caveat = (
        "A template, the average of 152 brains, in training and test: smoother than any patient, and intensity alone tells most"
        " of it. The score shows that the code learns, and nothing clinical."
    )
    package = Package(
        "PyPI",
        "nilearn",
        "0.14.1",
        {
            f"nilearn/datasets/data/{_MNI.format(kind)}": checksum
            for kind, checksum in (
                ("t1", "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6"),
                ("gm", "97a5ca69bd24db37a9cb7b32525e1733a209af904129bf1cd36da06d24243bed"),
                ("wm", "382d92812de4744f9c86c7a0e4f680dc317a0a50e4da1f0153618a6798c7b7db"),
            )
        },
        "nilearn",
    )

    @classmethod
    def read(cls) -> tuple[Volume, np.ndarray]:
        files = cls.files()
        brain, grey, white = (read_nifti(files[_MNI.format(kind)]) for kind in ("t1", "gm", "wm"))
        for tissue in (grey, white):
            require_same_grid(brain, tissue)
        grey, white = (tissue.values.astype("int16") for tissue in (grey, white))  # probabilities, 255 for 1
        labels = 1 + np.argmax([255 - grey - white, grey, white], axis=0)
        return brain, np.where(brain.values > 0, labels, 0).astype("uint8")


def _blocks(depth: int, data) -> dict[str, list[range]]:
    return blocks(depth, data.patch[0] if data.patch else _THICKNESS, data)


def _reduced(images: np.ndarray, labels: np.ndarray, data) -> tuple[np.ndarray, np.ndarray, range]:
    """The slices that have enough of what is looked for, downsampled and padded; and which slices these are."""
    enough = np.flatnonzero((labels > 0).mean((1, 2)) > _ENOUGH)
    inside = range(int(enough[0]), int(enough[-1]) + 1)
    images, labels = images[inside.start : inside.stop], labels[inside.start : inside.stop]
    factor = data.downsample
    factors = (factor if data.patch else 1, factor, factor)
    multiples = tuple(data.patch[1:]) if data.patch else (_MULTIPLE, _MULTIPLE)
    if factor > 1:
        images, labels = _mean(images, factors), _majority(labels, factors)
    plane = up_to(images.shape[1:], multiples)
    if data.patch and any(part > size for part, size in zip(data.patch, (len(images), *plane), strict=True)):
        raise UserError(
            f"data.patch must fit into the volume of {'x'.join(map(str, images.shape))} voxels."
            f" Received: {'x'.join(map(str, data.patch))}. Make the patch smaller."
        )
    return padded(images, plane, images.min()), padded(labels, plane, 0), inside


def _examples(images: np.ndarray, labels: np.ndarray, runs: list[range], data, training: bool) -> Split:
    if not data.patch:
        chosen = [index for run in runs for index in run]
        return Split(images[chosen][..., None], labels[chosen])
    # half a patch between those of training: more places for a patch's edge; those of evaluation see each voxel once
    stride = tuple(max(1, part // 2) for part in data.patch) if training else data.patch

    def cut(values):
        parts = [part for run in runs for part in patches(values[run.start : run.stop], data.patch, stride)]
        return np.stack(parts) if parts else np.empty((0, *data.patch), values.dtype)

    inputs, masks = cut(images), cut(labels)
    shown = inputs.min((1, 2, 3)) < inputs.max((1, 2, 3))  # others are empty space, and all the same
    return Split(inputs[shown][..., None], masks[shown])


def _in_blocks(values: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """`(depth, height, width, voxels)`: the voxels that become one."""
    sizes = [size // factor for size, factor in zip(values.shape, factors, strict=True)]
    values = values[tuple(slice(size * factor) for size, factor in zip(sizes, factors, strict=True))]
    values = values.reshape([part for pair in zip(sizes, factors, strict=True) for part in pair])
    return values.transpose(0, 2, 4, 1, 3, 5).reshape(*sizes, -1)


def _mean(images: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    return np.rint(_in_blocks(images, factors).mean(-1, dtype="float32")).astype(images.dtype)


def _majority(labels: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """The class most of the voxels have; the lower number where two are even."""
    parts = _in_blocks(labels, factors)
    return np.argmax([(parts == label).sum(-1) for label in range(labels.max() + 1)], axis=0).astype(labels.dtype)


def _note(runs: dict[str, list[range]], inside: range, data) -> str:
    kept = {name: sum(map(len, parts)) for name, parts in runs.items()}
    every = max(run.stop for parts in runs.values() for run in parts)
    made = f", {every} after downsampling," if data.downsample > 1 and data.patch else ""
    empty = " Patches of empty space are left out." if data.patch else ""
    return (
        f"Axial slices {inside.start} to {inside.stop - 1} of the volume{made} in blocks: {kept['train']} for training,"
        f" {kept['validation']} for validation, {kept['test']} for the test; {every - sum(kept.values())} between blocks of"
        f" different splits are dropped, {data.gap} at each border. What is held out lies between training blocks.{empty}"
    )
