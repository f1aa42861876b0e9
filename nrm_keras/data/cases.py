"""A user's images with their masks: which files belong together, and to which patient."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nrm_keras.data.dicom import slices_in
from nrm_keras.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg")
NIFTI = (".nii.gz", ".nii")
_MASKS = (".png", *NIFTI)
# found, so that they are refused and not passed over
_OTHERS = (".bmp", ".gif", ".tif", ".tiff", ".webp", ".nrrd", ".mha", ".mhd", ".img", ".hdr", ".npy", ".npz")


class Case(NamedTuple):
    """An image and its mask.

    Args:
        name: of the image below `images`, without its suffix.
        image: a picture, a NIfTI file, or the folder of a DICOM series.
        mask: a PNG or NIfTI file.
        patient: whose they are.
    """

    name: str
    image: Path
    mask: Path
    patient: str


def cases_in(folder: Path, patient: str | None) -> list[Case]:
    """The cases below `folder/images` and `folder/masks`, sorted by name.

    Args:
        folder: holds the two.
        patient: regular expression with one group, searched in each name; None: see `_patient`.

    Raises:
        UserError: an image without its mask or a mask without its image, two of the same name, a format that is not read,
            or a name that the expression doesn't match.
    """
    for part in ("images", "masks"):
        if not (folder / part).is_dir():
            raise UserError(
                f"{folder}: pairs are images/NAME.png (or .jpg, .nii, .nii.gz, a folder of DICOM files) and masks/NAME.png"
                f" (or .nii, .nii.gz). Received: no folder {part}. Make {folder / part}."
            )
    images = images_below(folder / "images")
    masks = _by_name(folder / "masks", _MASKS, series=False)
    for one, other, what in ((images, masks, "mask"), (masks, images, "image")):
        if alone := sorted(set(one) - set(other)):
            names = ", ".join(str(one[name].relative_to(folder)) for name in alone[:5])
            raise UserError(
                f"{folder}: every image has a mask of the same name, every mask an image. Received: no {what} for {names}"
                f" ({len(alone)} in all). Add the {what}, or remove the file."
            )
    if not images:
        raise UserError(f"{folder / 'images'}: pairs need images. Received: none. Put them there.")
    return [Case(name, images[name], masks[name], _patient(name, patient, folder)) for name in sorted(images)]


def images_below(root: Path) -> dict[str, Path]:
    """Pictures, NIfTI files and folders of DICOM files below a folder, by their names without suffix.

    Raises:
        UserError: two of the same name, or a format that is not read.
    """
    return _by_name(root, (*PICTURES, *NIFTI), series=True)


def stem(path: Path, suffixes: tuple[str, ...]) -> str | None:
    """The name without its suffix; None if it has none of them."""
    found = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
    return path.name[: -len(found)] if found else None


def _by_name(root: Path, suffixes: tuple[str, ...], series: bool) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path, short in _files(root, suffixes, series):
        name = str((path.parent / short).relative_to(root).as_posix())
        if name in found:
            raise UserError(
                f"{root}: names are there once, whatever their suffix. Received: {found[name].name} and {path.name}."
                " Rename or remove one of them."
            )
        found[name] = path
    return found


def _files(folder: Path, suffixes: tuple[str, ...], series: bool) -> Iterator[tuple[Path, str]]:
    """Every image below a folder with its name; a folder with DICOM files is one image."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if series and slices_in(path):
                yield path, path.name
            else:
                yield from _files(path, suffixes, series)
        elif (short := stem(path, suffixes)) is not None:
            yield path, short
        elif stem(path, (*_OTHERS, *PICTURES, ".dcm")) is not None:
            hint = "Put each DICOM series into a folder of its own" if path.suffix.lower() == ".dcm" else "Convert it"
            raise UserError(
                f"{path}: the formats of {'images' if series else 'masks'} are {', '.join(suffixes)}"
                f"{' and folders of DICOM files' if series else ', without loss'}. Received: {path.suffix}. {hint}."
            )


def _patient(name: str, pattern: str | None, folder: Path) -> str:
    """The first folder of a name, or what is before its first `_`; or the group of a regular expression."""
    if pattern is None:
        return name.split("/")[0] if "/" in name else name.split("_")[0]
    match = re.search(pattern, name)
    if match is None or not match[1]:
        raise UserError(
            f"data.patient must match every name below {folder / 'images'}. Received: {pattern!r}, which finds no patient in"
            f" {name}. Correct the expression or the name."
        )
    return match[1]
