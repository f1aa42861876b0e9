"""A user's own images with their masks, split by patient."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nrm_keras.data.blocks import padded, patches, up_to
from nrm_keras.data.cases import NIFTI, PICTURES, Case, cases_in, images_below, stem
from nrm_keras.data.dicom import read_dicom, slices_in
from nrm_keras.data.disk import DiskRows
from nrm_keras.data.examples import Examples, Split, require_disjoint, with_held_out
from nrm_keras.data.files import SPLIT_FOLDERS, check_images, split_folder
from nrm_keras.data.source import OwnSource, mock
from nrm_keras.data.volumes import Volume, read_nifti, require_same_grid
from nrm_keras.errors import UserError

_GREY_8_BIT, _COLOUR = ("1", "L"), ("RGB", "RGBA", "P", "LA", "PA", "CMYK", "YCbCr")
_FEW = 10  # test patients


class Pairs(OwnSource):
    """`images/NAME.png` with `masks/NAME.png`: pictures, NIfTI files and DICOM series.

    The two folders are below `train`, `validation` and `test`, or directly below `data.path` to be split by patient.
    Examples are written to disk as they are read: no more than one image with its mask is in memory.
    """

    name = "pairs"
    what = "your own images and masks: data.path"
    needs = "a folder of images and masks"

    @classmethod
    def find(cls, data=None) -> str | None:
        return data.path if data and Path(data.path).is_dir() else None

    @classmethod
    def load(cls, data, limit: int | None = None) -> Examples:
        root = Path(data.path)
        if not root.is_dir():
            raise UserError(f"{root}: the source pairs needs a folder of images and masks. Received: no such folder.")
        parts = {name: split_folder(root, names) for name, names in SPLIT_FOLDERS.items()}
        parts["train"] = parts["train"] or root
        given = {name: part and _to_split(cases_in(part, data.patient)) for name, part in parts.items()}
        cases = with_held_out(given, data)
        shape = (*data.patch, 1) if data.patch else (*data.image_size, data.channels)
        found = Examples(data.classes, **cases, origin=str(root), shape=shape)
        require_disjoint(found)  # before hours of reading
        check_images([str(path) for split in cases.values() for case in split.inputs for path in _pictures(case)])
        dtype = "uint8" if all(_is_8_bit(case) for split in cases.values() for case in split.inputs) else "float32"
        splits = {name: _read(split.inputs, shape, dtype, data, limit, name) for name, split in cases.items()}
        patients = {name: len(np.unique(split.groups)) for name, split in cases.items()}
        return Examples(
            data.classes,
            **splits,
            origin=str(root),
            shape=shape,
            notes=(f"Split by patient: {_counted(patients)}.",),
            caveat=f"The test has {patients['test']} patient{'s' * (patients['test'] > 1)}: too few to say how others fare."
            if 0 < patients["test"] < _FEW
            else "",
        )

    @classmethod
    def mock(cls, data, count: int) -> Examples:
        shape = (*data.patch, 1) if data.patch else (*data.image_size, data.channels)
        return mock(
            lambda chance: chance.integers(0, 256, (count, *shape), "uint8"), shape, data.classes, count, shape[:-1]
        )


def _counted(patients: dict[str, int]) -> str:
    return ", ".join(f"{count} for {name}" for name, count in patients.items())


def _to_split(cases: list[Case]) -> Split:
    held = np.empty(len(cases), object)
    held[:] = cases
    return Split(held, np.zeros(len(cases), "int32"), np.array([case.patient for case in cases], str))


def _pictures(case: Case) -> list[Path]:
    return [path for path in (case.image, case.mask) if path.is_file() and stem(path, PICTURES) is not None]


def _is_8_bit(case: Case) -> bool:
    from PIL import Image

    if case.image not in _pictures(case):
        return False
    with Image.open(case.image) as picture:
        return picture.mode in (*_GREY_8_BIT, *_COLOUR)


def _read(cases, shape: tuple[int, ...], dtype: str, data, limit: int | None, split: str) -> Split:
    from rich.console import Console
    from rich.progress import track

    groups = []
    console = Console(stderr=True)
    shown = track(cases, f"reading {split}", console=console, transient=True, disable=not console.is_terminal)
    with DiskRows(shape, dtype) as inputs, DiskRows(shape[:-1], "uint8") as labels:
        for case in shown:
            if limit and len(inputs) >= limit:
                break
            images, masks = _examples(case, data)
            inputs.append(images)
            labels.append(masks)
            groups += [case.patient] * len(images)
        return Split(inputs.array(), labels.array(), np.array(groups, str))


def _examples(case: Case, data) -> tuple[np.ndarray, np.ndarray]:
    """What a case gives: inputs `(examples, *positions, channels)` and labels `(examples, *positions)`."""
    images, masks = _picture(case, data) if case.image in _pictures(case) else _volume(case, data)
    masks = _to_classes(masks, case, data)
    if not data.patch:
        return _at_size(images, data, nearest=False), _at_size(masks[..., None], data, nearest=True)[..., 0]
    return _in_patches(images[..., 0], data, images.min())[..., None], _in_patches(masks, data, 0)


def _in_patches(volume: np.ndarray, data, fill) -> np.ndarray:
    return np.stack(list(patches(padded(volume, up_to(volume.shape, data.patch), fill), data.patch)))


def read_images(source: Path, data) -> Iterator[tuple[str, np.ndarray]]:
    """Each image's path and what a model is shown of it, `(examples, *positions, channels)`: without masks.

    Args:
        source: a picture, a NIfTI file, the folder of a DICOM series; or a folder of them, of its `images` if it has those.
        data: a section of the source pairs.

    Raises:
        UserError: there is no image, or one can't be read.
    """
    if source.is_file() or slices_in(source):
        paths = [source]
    else:
        paths = list(images_below(source / "images" if (source / "images").is_dir() else source).values())
    if not paths:
        raise UserError(
            f"{source}: a folder of images is needed. Received: none in it. Put PNG, JPEG, NIfTI or DICOM there."
        )
    is_volume = {path: path.is_dir() or stem(path, NIFTI) is not None for path in paths}
    check_images([str(path) for path in paths if not is_volume[path]])
    for path in paths:
        images = (
            read_volume(path, data).values[..., None].astype("float32", copy=False)
            if is_volume[path]
            else _read_picture(path, data)[None]
        )
        if data.patch:
            yield str(path), _in_patches(images[..., 0], data, images.min())[..., None]
        else:
            yield str(path), _at_size(images, data, nearest=False)


def read_volume(path: Path, data) -> Volume:
    """A NIfTI file, or the DICOM series in a folder."""
    if data.channels != 1:
        raise UserError(
            f"{path}: a volume has one channel. Received: data.channels={data.channels}. Set data.channels=1."
        )
    return read_dicom(path) if path.is_dir() else read_nifti(path)


def _volume(case: Case, data) -> tuple[np.ndarray, np.ndarray]:
    if stem(case.mask, NIFTI) is None:
        raise UserError(f"{case.mask}: the mask of a volume is a NIfTI file. Received: {case.mask.suffix}. Convert it.")
    image = read_volume(case.image, data)
    mask = read_nifti(case.mask, mask=True)
    require_same_grid(image, mask)
    return image.values[..., None].astype("float32", copy=False), mask.values


def _picture(case: Case, data) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    if stem(case.mask, PICTURES) is None:
        raise UserError(f"{case.mask}: the mask of a picture is a PNG file. Received: NIfTI. Convert one of them.")
    with Image.open(case.mask) as picture:
        if picture.mode not in (*_GREY_8_BIT, "P", "I", "I;16"):
            raise UserError(
                f"{case.mask}: a mask has one integer at every pixel. Received: colours ({picture.mode})."
                " Save class numbers as a grey PNG."
            )
        mask = np.asarray(picture).astype("int32")
    image = _read_picture(case.image, data)
    if image.shape[:2] != mask.shape:
        raise UserError(
            f"{case.mask}: a mask has the size of its image. Received: {mask.shape[0]}x{mask.shape[1]} for"
            f" {case.image} of {image.shape[0]}x{image.shape[1]} (height x width). Correct one of them."
        )
    return image[None], mask[None]


def _read_picture(path: Path, data) -> np.ndarray:
    """Height, width, channels."""
    from PIL import Image

    if data.patch:
        raise UserError(f"{path}: data.patch cuts volumes. Received: a picture. Set data.patch=null.")
    with Image.open(path) as picture:
        eight_bit = picture.mode in (*_GREY_8_BIT, *_COLOUR)
        if data.channels == 3 and not eight_bit:
            raise UserError(f"{path}: grey of 16 bits is no colour. Received: data.channels=3. Set it to 1.")
        mode = "RGB" if data.channels == 3 else "L"
        image = np.asarray(picture.convert(mode)) if eight_bit else np.asarray(picture).astype("float32")
    return image.reshape(*image.shape[:2], data.channels)


def _to_classes(mask: np.ndarray, case: Case, data) -> np.ndarray:
    """The class (uint8) of each value of a mask."""
    values = data.mask_values or tuple(range(len(data.classes)))
    found = np.unique(mask)
    if unknown := [int(value) for value in found if value not in values]:
        known = (
            f"data.mask_values, {', '.join(map(str, values))}"
            if data.mask_values
            else f"0 to {len(values) - 1}, one for each of data.classes"
        )
        shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        example = ", ".join(map(str, found[: len(values)]))
        hint = f"Set data.mask_values=[{example}], a value for each class" if len(found) == len(values) else ""
        raise UserError(
            f"{case.mask}: mask values are {known}. Received: {shown}, of which {unknown[0]} is no class."
            f" {hint or 'Name all of them in data.classes, with data.mask_values, or correct the mask'}."
        )
    labels = np.zeros(mask.shape, "uint8")
    for label, value in enumerate(values):
        labels[mask == value] = label
    return labels


def _at_size(images: np.ndarray, data, nearest: bool) -> np.ndarray:
    """Images `(examples, height, width, channels)` at `data.image_size`: bilinear, or for masks the nearest pixel."""
    from PIL import Image

    if images.shape[1:3] == data.image_size:
        return images
    if data.fit == "pad":
        fill = 0 if nearest else images.min()
        return padded(images, (*data.image_size, images.shape[-1]), fill)
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    size = data.image_size[::-1]
    # a size that is made smaller is averaged: Pillow's filters grow with the factor
    resized = [np.asarray(Image.fromarray(_plane(image)).resize(size, how)) for image in images]
    return np.reshape(resized, (len(images), *data.image_size, images.shape[-1]))


def _plane(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image if image.shape[-1] == 3 else image[..., 0])
