"""A mask that the model would predict without error, written back, is the mask file that training read."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from nrm_keras.data import predicted, sources
from nrm_keras.data.pairs import read_images
from nrm_keras.data.volumes import read_nifti, require_same_grid
from nrm_keras.errors import UserError
from nrm_keras.recipe.sections.data import Pairs
from tests.data.scans import AXIAL, write_nifti, write_series

OBLIQUE = np.array([[0, -2.0, 0, 5], [0, 0, 3.0, -7], [1.5, 0, 0, 2], [0, 0, 0, 1]])  # axes in another order
VOLUME = (5, 14, 12)


def section(folder, **changes):
    return Pairs(
        source="pairs", path=str(folder), **{"image_size": (16, 16), "validation": 0.0, "test": 0.0, **changes}
    )


def perfect(folder, data):
    """By the name of each image, the labels that training has of it."""
    train = sources.load(data).train
    names = [name for name, _ in read_images(folder, data)]
    return {
        name: train.labels[train.groups == patient]
        for name, patient in zip(names, sorted(set(train.groups)), strict=True)
    }


@pytest.mark.parametrize(
    "changes",
    [{"fit": "pad"}, {"image_size": (42, 24)}, {"patch": (2, 8, 8)}, {"fit": "pad", "mask_values": (0, 1)}],
    ids=["padded", "resized", "patches", "values"],
)
@pytest.mark.parametrize("affine", [np.eye(4), OBLIQUE, np.diag([-1.0, -1, 1, 1])], ids=["ras", "oblique", "lps"])
def test_masks_of_nifti_files_lie_voxel_by_voxel_on_their_images(tmp_path, changes, affine):
    chance = np.random.default_rng(0)
    shape = (12, 14, 5) if affine is not OBLIQUE else (5, 12, 14)  # 12 x 14 in the axial plane
    for patient in range(2):
        values = chance.integers(0, 2, shape).astype("uint8")
        write_nifti(tmp_path / f"scans/images/p{patient}.nii.gz", values * 100, affine)
        write_nifti(tmp_path / f"scans/masks/p{patient}.nii.gz", values, affine)
    data = section(tmp_path / "scans", **changes)
    written = predicted.save_masks(tmp_path / "scans", perfect(tmp_path / "scans", data), data, tmp_path / "out")
    assert [path.name for path in written] == ["p0.nii.gz", "p1.nii.gz"]
    for path in written:
        mask, true = nibabel.load(path), nibabel.load(tmp_path / "scans/masks" / path.name)
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj), np.asanyarray(true.dataobj))
        np.testing.assert_allclose(mask.affine, affine)


@pytest.mark.parametrize("changes", [{"fit": "pad"}, {"image_size": (28, 36)}], ids=["padded", "resized"])
@pytest.mark.parametrize("source", ["scans", "scans/images", "scans/images/ward/p0.png"])
def test_masks_of_pictures_have_their_sizes_values_and_folders(tmp_path, source, changes):
    for part in ("images", "masks"):
        (tmp_path / f"scans/{part}/ward").mkdir(parents=True)
    mask = np.random.default_rng(0).choice([0, 255], (14, 12)).astype("uint8")
    Image.fromarray(mask).save(tmp_path / "scans/images/ward/p0.png")
    Image.fromarray(mask).save(tmp_path / "scans/masks/ward/p0.png")
    data = section(tmp_path / "scans", mask_values=(0, 255), **changes)
    labels = sources.load(data).train.labels
    name = str(tmp_path / "scans/images/ward/p0.png")
    (path,) = predicted.save_masks(tmp_path / source, {name: labels}, data, tmp_path / "out")
    assert path == tmp_path / "out" / ("p0.png" if source.endswith("png") else "ward/p0.png")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), mask)


def test_masks_of_dicom_series_lie_where_the_series_lies(tmp_path):
    stored = np.random.default_rng(0).integers(0, 2, VOLUME).astype("uint16")
    write_series(tmp_path / "scans/p0", stored, AXIAL)
    data = section(tmp_path, fit="pad")
    ((name, images),) = read_images(tmp_path / "scans", data)
    (path,) = predicted.save_masks(tmp_path / "scans", {name: images[..., 0].astype(int)}, data, tmp_path / "out")
    from nrm_keras.data.dicom import read_dicom

    series, mask = read_dicom(tmp_path / "scans/p0"), read_nifti(path, mask=True)
    require_same_grid(series, mask)
    np.testing.assert_array_equal(mask.values, series.values)


def test_masks_replace_nothing(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/p0.png").touch()
    for taken in (tmp_path / "full", tmp_path / "full/p0.png"):
        with pytest.raises(UserError, match="a new folder. Received: a f"):
            predicted.require_new(taken)
    predicted.require_new(tmp_path / "new")
