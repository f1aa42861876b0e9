"""Small medical files, written by the libraries that everybody writes them with."""

from pathlib import Path

import numpy as np

# image orientation: directions of a row and of a column, in DICOM's coordinates (to the left, the back and the head)
AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)


def write_nifti(path: Path, values, affine=None) -> Path:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(values), np.eye(4) if affine is None else affine), path)
    return path


def write_series(
    folder: Path,
    stored,
    orientation=AXIAL,
    step=(0, 0, 3),
    slope=1,
    intercept=0,
    spacing=(2, 2),
    names=None,
    series=None,
):
    """A slice per file, `stored` being uint16 `(slices, rows, columns)`; slice k is at `k * step` millimetres."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    series = series or generate_uid()
    for k, pixels in enumerate(stored):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        slice_ = pydicom.Dataset()
        slice_.file_meta = meta
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.Modality, slice_.PatientID, slice_.SeriesInstanceUID = "CT", "p", series
        slice_.InstanceNumber = len(stored) - k  # says nothing about the position
        slice_.ImagePositionPatient = [k * value for value in step]
        slice_.ImageOrientationPatient, slice_.PixelSpacing = list(orientation), list(spacing)
        slice_.SliceThickness = 3
        slice_.Rows, slice_.Columns = pixels.shape
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation = 15, 0
        slice_.RescaleSlope, slice_.RescaleIntercept = slope, intercept
        slice_.PixelData = np.ascontiguousarray(pixels, "<u2").tobytes()
        slice_.save_as(folder / (names[k] if names else f"{k:03d}.dcm"), enforce_file_format=True)
    return folder
