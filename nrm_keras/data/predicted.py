"""Predicted masks as files, each on the grid of the image that it is of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nrm_keras.data.blocks import assembled, padded, up_to
from nrm_keras.data.cases import NIFTI, PICTURES, stem
from nrm_keras.data.pairs import read_volume
from nrm_keras.data.volumes import save_nifti
from nrm_keras.errors import UserError


def require_new(folder: Path) -> None:
    """Checks that masks written to a folder replace nothing.

    Raises:
        UserError: it is a file, or there is something in it.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        what = "a file" if folder.is_file() else "a folder with files"
        raise UserError(f"{folder}: masks are written to a new folder. Received: {what}. Choose another name.")


def save_masks(source: Path, predicted: Mapping[str, np.ndarray], data, folder: Path) -> list[Path]:
    """Writes the mask of each image, of its size and place: PNG for a picture, NIfTI for a volume.

    Args:
        source: what `pairs.read_images` read.
        predicted: by the image's path the class (integers, `(examples, *positions)`) of what it gave.
        data: the section of the source pairs that it was read with. A mask has its `mask_values`.
        folder: for the masks, whose names are those of the images.

    Returns:
        The files.
    """
    root = source / "images" if (source / "images").is_dir() else source
    written = []
    for name, classes in predicted.items():
        path = Path(name)
        below = path.relative_to(root) if path != root else Path(path.name)
        target = folder / below.with_name(stem(path, (*PICTURES, *NIFTI)) or path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        written.append(_save(path, _values(classes, data), data, target))
    return written


def _values(classes: np.ndarray, data) -> np.ndarray:
    values = np.array(data.mask_values or range(len(data.classes)))
    return values.astype(np.result_type(*map(np.min_scalar_type, values)))[classes]


def _save(image: Path, mask: np.ndarray, data, target: Path) -> Path:
    from PIL import Image

    background = (data.mask_values or (0,))[0]
    if image.is_file() and stem(image, PICTURES) is not None:
        path = target.with_name(f"{target.name}.png")
        with Image.open(image) as picture:
            height, width = picture.height, picture.width
        Image.fromarray(_at_size(mask, (height, width), data.fit, background)[0]).save(path)
        return path
    path = target.with_name(f"{target.name}.nii.gz")
    volume = read_volume(image, data)
    if data.patch:
        sizes = volume.values.shape
        mask = padded(assembled(mask, up_to(sizes, data.patch)), sizes, background)
    else:
        mask = _at_size(mask, volume.values.shape[1:], data.fit, background)
    save_nifti(volume._replace(values=mask), path)
    return path


def _at_size(masks: np.ndarray, size: tuple[int, ...], fit: str, background: int) -> np.ndarray:
    """Masks `(examples, height, width)` at the size that their images had before `data.fit`."""
    if masks.shape[1:] == size:
        return masks
    if fit == "pad":
        return padded(masks, size, background)
    # the pixel whose centre is nearest, as Pillow does it, which has no such filter for 32-bit integers
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, masks.shape[1:], strict=True)
    )
    return masks[:, rows[:, None], columns]
