"""Medical volumes: NIfTI and DICOM as arrays of one orientation, each voxel a number."""

from __future__ import annotations

import zlib
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nrm_keras.errors import UserError


class Volume(NamedTuple):
    """A volume as axial slices.

    Args:
        values: array `(depth, height, width)`: slices from the feet up; in each the first row is anterior and the first
            column the patient's left.
        affine: 4x4 matrix from voxel indices in the order and directions of RAS (right, anterior, superior) to millimetres.
        path: where it was read.
    """

    values: np.ndarray
    affine: np.ndarray
    path: Path

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres between voxels: depth, height, width."""
        return tuple(float(step) for step in np.linalg.norm(self.affine[:3, :3], axis=0)[::-1])


def reader(module: str):
    """The library that reads a format.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"Medical images are read with {module}, which is not installed. Received: {error}."
            " Install it: pip install 'nrm_keras[medical]'"
        ) from error


def read_nifti(path: Path, mask: bool = False) -> Volume:
    """Reads a NIfTI file; values as stored, or float32 where the file scales them.

    Args:
        path: `.nii` or `.nii.gz`.
        mask: whether each voxel has to be an integer.

    Raises:
        UserError: the file is truncated or no NIfTI, has more than three dimensions, or a voxel is no number.
    """
    nibabel = reader("nibabel")
    unreadable = (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError)
    try:
        image = nibabel.load(path)
        _require_volume(image, path)
        affine, proxy = image.affine, image.dataobj
        scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
        values = image.get_fdata(dtype="float32", caching="unchanged") if scaled else np.asanyarray(proxy)
    except (*unreadable, OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(
            f"{path}: a complete NIfTI file is needed. Received: {first_line(error)}. It is truncated or damaged: get it again."
        ) from error
    return volume(values.reshape(_three(values.shape)), affine, path, mask)


def volume(values: np.ndarray, affine: np.ndarray, path: Path, mask: bool = False) -> Volume:
    """An array `(i, j, k)` and its affine matrix as a `Volume`.

    Raises:
        UserError: a voxel is no number, or in a mask no integer.
    """
    nibabel = reader("nibabel")
    values = _checked(values, path, mask)
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise UserError(
            f"{path}: the affine matrix says where each voxel is, in millimetres. Received: {affine.tolist()}, in which"
            " directions are missing. Correct the file's sform or qform, or its DICOM orientation."
        )
    turns = nibabel.io_orientation(affine)
    affine = affine @ nibabel.orientations.inv_ornt_aff(turns, values.shape)
    canonical = nibabel.apply_orientation(values, turns)
    return Volume(canonical.transpose()[:, ::-1, :], affine, path)


def save_nifti(volume: Volume, path: Path) -> None:
    """Writes a volume, in the order of voxels that the NIfTI file at `volume.path` has; RAS if that is none."""
    nibabel = reader("nibabel")
    image = nibabel.Nifti1Image(volume.values[:, ::-1, :].transpose(), volume.affine)
    if volume.path.is_file():
        of_file = nibabel.io_orientation(nibabel.load(volume.path).affine)
        image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), of_file))
    nibabel.save(image, path)


def first_line(error: Exception) -> str:
    """What a library said, for a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


def require_same_grid(image: Volume, mask: Volume) -> None:
    """Checks that every voxel of an image has one in its mask, at the same place.

    Raises:
        UserError: size or place differ.
    """
    if image.values.shape != mask.values.shape:
        raise UserError(
            f"{mask.path}: a mask has the size of its image. Received: {_size(mask)} for the image {image.path} of"
            f" {_size(image)} (depth x height x width). Resample one to the other's grid."
        )
    if not np.allclose(image.affine, mask.affine, rtol=0, atol=0.05 * min(image.spacing)):
        raise UserError(
            f"{mask.path}: a mask lies where its image lies. Received: voxels whose places (affine matrix) differ from those"
            f" of {image.path} by up to {np.abs(image.affine - mask.affine).max():.3g} mm."
            " Resample the mask to the image's grid, or copy the image's header if only the header is wrong."
        )


def _require_volume(image, path: Path) -> None:
    if not 2 <= len(_three(image.shape)) <= 3:
        raise UserError(
            f"{path}: a volume has three dimensions. Received: {len(image.shape)}, {image.shape}."
            " Save one time point or channel of it as a file of its own."
        )


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without further dimensions of size 1, and with a third."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return (*shape, *(1,) * (3 - len(shape)))


def _checked(values: np.ndarray, path: Path, mask: bool) -> np.ndarray:
    if values.dtype.kind not in "fiub":
        raise UserError(
            f"{path}: a voxel is one number. Received: {values.dtype}. Colours and complex numbers have to be converted."
        )
    if not values.size:
        raise UserError(f"{path}: a volume has voxels. Received: the shape {values.shape}. Remove the file.")
    if values.dtype.kind == "f":
        bad = int(values.size - np.isfinite(values).sum())
        if bad:
            raise UserError(
                f"{path}: every voxel must be finite. Received: {bad} of {values.size} that are NaN or infinite."
                " Replace them, by np.nan_to_num if they are outside the body."
            )
        if mask and (values != np.rint(values)).any():
            value = values[values != np.rint(values)][0]
            raise UserError(
                f"{path}: a mask has an integer at every voxel. Received: {value:.6g}."
                " Save the mask before interpolation or smoothing, or round it."
            )
    if mask:
        return values.astype("int32") if values.dtype.kind == "f" else values
    return values if values.dtype.kind in "iub" and values.dtype.itemsize <= 2 else values.astype("float32")


def _size(volume: Volume) -> str:
    return "x".join(map(str, volume.values.shape))
