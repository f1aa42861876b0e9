"""Readers of medical volumes, on files written by nibabel and pydicom."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from nrm_keras.data.dicom import read_dicom
from nrm_keras.data.volumes import read_nifti, require_same_grid
from nrm_keras.errors import UserError
from tests.data.scans import SAGITTAL, write_nifti, write_series

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("pydicom")
SHAPE = (3, 4, 5)
DIRECTIONS = [*itertools.product("LR", "AP", "SI"), ("P", "I", "L"), ("S", "R", "A"), ("I", "L", "P")]


def in_direction(codes):
    """An affine matrix whose voxel axes point to `codes`, with spacings of 1, 2 and 3 mm."""
    turns = nibabel.orientations.axcodes2ornt(codes)
    affine = np.zeros((4, 4))
    affine[turns[:, 0].astype(int), np.arange(3)] = turns[:, 1] * (1, 2, 3)
    affine[:, 3] = (-7, 11, 5, 1)
    return affine


@pytest.mark.parametrize("codes", DIRECTIONS, ids="".join)
def test_axial_slices_however_a_nifti_file_is_turned(tmp_path, codes):
    affine = in_direction(codes)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    places = index @ affine[:3, :3].T + affine[:3, 3]  # to the right, the front and the head
    right, front, head = (
        read_nifti(write_nifti(tmp_path / f"{axis}.nii.gz", places[..., axis].astype("float32"), affine))
        for axis in range(3)
    )
    assert (np.diff(right.values, axis=2) > 0).all()
    assert (np.diff(front.values, axis=1) < 0).all()  # the first row is anterior
    assert (np.diff(head.values, axis=0) > 0).all()
    assert right.spacing == pytest.approx(
        tuple(np.diff(v.values, axis=a).__abs__().flat[0] for v, a in ((head, 0), (front, 1), (right, 2)))
    )
    # the affine matrix says the place of a voxel counted from the left, the back and the feet
    d, _, w = head.values.shape
    assert right.affine @ (w - 1, 0, d - 1, 1) == pytest.approx(
        (right.values[-1, -1, -1], front.values[-1, -1, -1], head.values[-1, -1, -1], 1)
    )


def test_scaled_integer_and_flat_niftis(tmp_path):
    image = nibabel.Nifti1Image(np.arange(60, dtype="int16").reshape(SHAPE), np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nibabel.save(image, tmp_path / "scaled.nii")
    stored = nibabel.load(tmp_path / "scaled.nii")
    read = read_nifti(tmp_path / "scaled.nii").values
    assert read.dtype == "float32" and np.allclose(np.sort(read, None), np.sort(stored.get_fdata(), None))
    assert read_nifti(write_nifti(tmp_path / "bytes.nii", np.ones(SHAPE, "uint8"))).values.dtype == "uint8"
    assert read_nifti(write_nifti(tmp_path / "flat.nii.gz", np.ones((4, 5), "uint8"))).values.shape == (1, 5, 4)
    assert read_nifti(write_nifti(tmp_path / "one.nii.gz", np.ones((4, 5, 6, 1), "uint8"))).values.shape == (6, 5, 4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_nifti_names_its_file(tmp_path, suffix):
    path = write_nifti(tmp_path / f"scan{suffix}", np.random.default_rng(0).normal(size=(20, 20, 20)).astype("float32"))
    content = path.read_bytes()
    for part in (0, 100, len(content) // 2):
        path.write_bytes(content[:part])
        with pytest.raises(UserError, match=rf"scan{suffix}: a complete NIfTI file is needed"):
            read_nifti(path)


def test_voxels_that_are_no_numbers(tmp_path):
    values = np.ones(SHAPE, "float32")
    values[0, 0, 0], values[1, 1, 1] = np.nan, np.inf
    with pytest.raises(UserError, match=r"bad.nii: every voxel must be finite. Received: 2 of 60"):
        read_nifti(write_nifti(tmp_path / "bad.nii", values))
    with pytest.raises(UserError, match=r"four.nii: a volume has three dimensions. Received: 4, \(3, 4, 5, 2\)"):
        read_nifti(write_nifti(tmp_path / "four.nii", np.ones((*SHAPE, 2), "float32")))
    with pytest.raises(UserError, match=r"half.nii: a mask has an integer at every voxel. Received: 0.5"):
        read_nifti(write_nifti(tmp_path / "half.nii", np.full(SHAPE, 0.5, "float32")), mask=True)
    with pytest.raises(UserError, match=r"complex.nii: a voxel is one number"):
        read_nifti(write_nifti(tmp_path / "complex.nii", np.ones(SHAPE, "complex64")))


def test_a_mask_elsewhere_than_its_image(tmp_path):
    image = read_nifti(write_nifti(tmp_path / "image.nii", np.ones(SHAPE, "uint8")))
    shifted = np.eye(4)
    shifted[0, 3] = 2
    with pytest.raises(UserError, match=r"shifted.nii: a mask lies where its image lies.*by up to 2 mm"):
        require_same_grid(image, read_nifti(write_nifti(tmp_path / "shifted.nii", np.ones(SHAPE, "uint8"), shifted)))
    with pytest.raises(UserError, match=r"small.nii: a mask has the size.*5x4x2 for the image .*image.nii of 5x4x3"):
        require_same_grid(image, read_nifti(write_nifti(tmp_path / "small.nii", np.ones((2, 4, 5), "uint8"))))
    turned = write_nifti(
        tmp_path / "turned.nii", np.ones(SHAPE, "uint8")[::-1], np.diag([-1, 1, 1, 1]) + np.eye(4, k=3) * 2
    )
    require_same_grid(image, read_nifti(turned))  # the same places, stored in another order


def test_dicom_slices_out_of_order_in_hounsfield_units(tmp_path):
    stored = np.random.default_rng(0).integers(0, 3000, (4, 5, 6))
    names = ["IM7", "IM2.dcm", "1.2.840.99", "IM1"]
    series = read_dicom(write_series(tmp_path / "ct", stored, slope=2, intercept=-1024, names=names))
    # row 0 is anterior as in DICOM; columns run to the patient's left there, from it here
    assert (series.values == (stored * 2.0 - 1024)[:, :, ::-1]).all()
    assert series.spacing == pytest.approx((3, 2, 2))


def test_a_sagittal_series_becomes_axial_slices(tmp_path):
    stored = np.random.default_rng(0).integers(0, 3000, (4, 5, 6))
    series = read_dicom(write_series(tmp_path / "mr", stored, SAGITTAL, step=(3, 0, 0), spacing=(1, 2)))
    assert (series.values == stored[::-1, ::-1].transpose(1, 2, 0)).all()
    assert series.spacing == pytest.approx((1, 2, 3))


def test_a_series_and_the_nifti_of_its_places_share_a_grid(tmp_path):
    stored = np.random.default_rng(0).integers(0, 3000, (4, 5, 6))
    series = read_dicom(write_series(tmp_path / "ct", stored))
    # column, row and slice to millimetres to the right, front and head
    same = write_nifti(tmp_path / "same.nii", stored.transpose(2, 1, 0).astype("int16"), np.diag([-2.0, -2, 3, 1]))
    require_same_grid(series, read_nifti(same))
    assert (series.values == read_nifti(same).values).all()


def broken_series(tmp_path, kind):
    folder = tmp_path / kind
    stored = np.random.default_rng(0).integers(0, 3000, (5, 6, 7))
    if kind == "size":
        write_series(folder, stored, series="1.2.3")
        write_series(folder, stored[:1, :4], names=["x.dcm"], step=(0, 0, 0), series="1.2.3")
    elif kind == "series":
        write_series(folder, stored)
        write_series(folder, stored[:1], names=["x.dcm"])
    elif kind == "twice":
        write_series(folder, stored, series="1.2.3")
        write_series(folder, stored[:1], names=["x.dcm"], series="1.2.3")
    else:
        write_series(folder, stored)
    if kind == "missing":
        (folder / "002.dcm").unlink()
    elif kind == "truncated":
        content = (folder / "002.dcm").read_bytes()
        (folder / "002.dcm").write_bytes(content[: len(content) - 40])
    elif kind == "text":
        (folder / "002.dcm").write_text("not a picture")
    elif kind == "nowhere":
        import pydicom

        slice_ = pydicom.dcmread(folder / "002.dcm")
        del slice_.ImagePositionPatient
        slice_.save_as(folder / "002.dcm")
    elif kind == "short":
        import pydicom

        slice_ = pydicom.dcmread(folder / "002.dcm")
        slice_.ImagePositionPatient = [0, 6]
        slice_.save_as(folder / "002.dcm")
    elif kind == "words":
        content = (folder / "002.dcm").read_bytes()
        assert b"0.0\\0.0\\6.0" in content
        (folder / "002.dcm").write_bytes(content.replace(b"0.0\\0.0\\6.0", b"a.a\\b.b\\c.c"))
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("size", r"size: the slices of a volume have one Rows. Received: 6 in 000.dcm, 4 in x.dcm"),
        ("series", r"series: the slices of a volume have one SeriesInstanceUID"),
        ("twice", r"each slice has a position of its own. Received: 000.dcm and x.dcm"),
        ("missing", r"missing: slices are evenly spaced. Received: 6 mm between 001.dcm and 003.dcm, 3 mm elsewhere"),
        ("truncated", r"002.dcm: the pixels can't be read.*truncated"),
        ("text", r"002.dcm: a complete DICOM file is needed"),
        ("nowhere", r"002.dcm: a slice says where it is and how large. Received: no complete ImagePositionPatient"),
        ("short", r"002.dcm: a slice says where it is and how large. Received: no complete ImagePositionPatient"),
        ("words", r"002.dcm: a slice says where it is and how large in numbers. Received: could not convert"),
    ],
)
def test_broken_series(tmp_path, kind, message):
    with pytest.raises(UserError, match=message):
        read_dicom(broken_series(tmp_path, kind))


def test_without_the_libraries_the_extra_is_named(tmp_path):
    path = write_nifti(tmp_path / "scan.nii", np.ones(SHAPE, "uint8"))
    code = f"import sys; sys.modules['nibabel'] = None\nfrom nrm_keras.data.volumes import read_nifti\nread_nifti({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "pip install 'nrm_keras[medical]'" in done.stderr
