"""DICOM series as volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nrm_keras.data.volumes import Volume, first_line, reader, volume
from nrm_keras.errors import UserError

_MAGIC = b"DICM"  # behind a preamble of 128 bytes (PS3.10, section 7.1)
_SAME = ("SeriesInstanceUID", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient")
# what a slice says of its place and size, in so many numbers
_NEEDED = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}


def slices_in(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder, by their first bytes, as names often have no suffix."""
    return sorted(path for path in folder.iterdir() if path.name != "DICOMDIR" and is_dicom(path))


def is_dicom(path: Path) -> bool:
    return path.is_file() and (path.suffix.lower() == ".dcm" or _has_magic(path))


def read_dicom(folder: Path) -> Volume:
    """Reads a folder with the slices of one series, in the order of their positions whatever their names.

    Values are those of the modality (Hounsfield units in CT): rescale slope and intercept, or the modality's table, applied.

    Args:
        folder: one file per slice.

    Raises:
        UserError: a file is damaged or in a compression that needs a further library; slices are of several series, sizes or
            directions, missing, or twice at one position.
    """
    pydicom = reader("pydicom")
    paths = slices_in(folder)
    if not paths:
        raise UserError(f"{folder}: a series is a folder of DICOM files. Received: none in it. Remove the folder.")
    headers = [_header(pydicom, path) for path in paths]
    _require_one_series(folder, paths, headers)
    across, down = np.reshape(np.asarray(headers[0].ImageOrientationPatient, float), (2, 3))
    normal = np.cross(across, down)
    positions = np.array([np.asarray(header.ImagePositionPatient, float) for header in headers])
    order = np.argsort(positions @ normal, kind="stable")
    step = _step(folder, [paths[index] for index in order], positions[order] @ normal, headers[0])
    slices = [_values(pydicom, paths[index]) for index in order]
    row_spacing, column_spacing = map(float, headers[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * column_spacing, down * row_spacing
    affine[:3, 2] = (positions[order[-1]] - positions[order[0]]) / (len(paths) - 1) if len(paths) > 1 else normal * step
    affine[:3, 3] = positions[order[0]]
    # DICOM's axes point to the left and back (PS3.3, C.7.6.2.1.1), RAS to the right and front
    return volume(np.stack(slices).transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, folder)


def _has_magic(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == _MAGIC


def _header(pydicom, path: Path):
    header = _read(pydicom, path, stop_before_pixels=True)
    try:
        numbers = {name: np.atleast_1d(np.asarray(header.get(name, ()), float)) for name in _NEEDED}
        frames = int(header.get("NumberOfFrames") or 1)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: a slice says where it is and how large in numbers. Received: {first_line(error)}."
            " It is damaged: get it again."
        ) from error
    missing = [name for name, count in _NEEDED.items() if len(numbers[name]) != count or np.isnan(numbers[name]).any()]
    if frames > 1:
        raise UserError(
            f"{path}: a series has one slice per file. Received: {frames} frames in one (enhanced DICOM)."
            " Convert it to NIfTI with dcm2niix."
        )
    if missing:
        raise UserError(
            f"{path}: a slice says where it is and how large. Received: no complete {', '.join(missing)}."
            " Is it a slice of a volume? Remove localizers, reports and structured data from the folder."
        )
    if header.get("SamplesPerPixel", 1) != 1:
        raise UserError(
            f"{path}: a pixel is one number. Received: {header.SamplesPerPixel} samples. Colours have no place in a volume."
        )
    return header


def _read(pydicom, path: Path, **options):
    try:
        return pydicom.dcmread(path, **options)
    except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError, KeyError, NotImplementedError) as error:
        raise UserError(
            f"{path}: a complete DICOM file is needed. Received: {first_line(error)}. It is damaged: get it again."
        ) from error


def _values(pydicom, path: Path) -> np.ndarray:
    dataset = _read(pydicom, path)
    try:
        return pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset).astype("float32")
    except NotImplementedError as error:
        raise UserError(f"{path}: its compression can't be read. Received: {first_line(error)}.") from error
    except (AttributeError, ValueError, KeyError, EOFError, OSError, RuntimeError, TypeError) as error:
        compressed = dataset.file_meta.get("TransferSyntaxUID")
        hint = "It is truncated or damaged: get it again."
        if compressed is not None and compressed.is_compressed:
            hint = f"It is compressed ({compressed.name}): pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg."
        raise UserError(f"{path}: the pixels can't be read. Received: {first_line(error)}. {hint}") from error


def _require_one_series(folder: Path, paths: list[Path], headers: list) -> None:
    for name in _SAME:
        first = headers[0].get(name)
        for path, header in zip(paths, headers, strict=True):
            other = header.get(name)
            if np.shape(first) != np.shape(other) or not _alike(first, other):
                raise UserError(
                    f"{folder}: the slices of a volume have one {name}. Received: {first} in {paths[0].name},"
                    f" {other} in {path.name}. Put each series into a folder of its own."
                )


def _alike(first, other) -> bool:
    if isinstance(first, str) or first is None:
        return first == other
    return np.allclose(np.asarray(first, float), np.asarray(other, float), atol=1e-3)


def _step(folder: Path, paths: list[Path], places: np.ndarray, header) -> float:
    """Millimetres between neighbouring slices."""
    if len(places) == 1:
        return float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1.0)
    steps = np.diff(places)
    usual = float(np.median(steps))
    bad = np.flatnonzero(np.abs(steps - usual) > 0.1 * usual + 1e-3)
    twice = np.flatnonzero(steps < 1e-3)
    if len(twice):
        raise UserError(
            f"{folder}: each slice has a position of its own. Received: {paths[twice[0]].name} and"
            f" {paths[twice[0] + 1].name} at the same. Put time points, echoes and copies into folders of their own."
        )
    if len(bad):
        raise UserError(
            f"{folder}: slices are evenly spaced. Received: {steps[bad[0]]:.4g} mm between {paths[bad[0]].name} and"
            f" {paths[bad[0] + 1].name}, {usual:.4g} mm elsewhere. A slice is missing: complete the series."
        )
    return usual
