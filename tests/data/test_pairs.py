"""A folder of images with masks: layouts, patients, sizes, and every mistake in it."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nrm_keras.data import sources
from nrm_keras.data.examples import Split, require_classes
from nrm_keras.errors import UserError
from nrm_keras.recipe.rules import data as data_rules
from nrm_keras.recipe.sections import data as data_sections
from tests.data.scans import write_nifti, write_series

pytest.importorskip("nibabel")
pytest.importorskip("pydicom")
SPLITS = ("train", "validation", "test")


def pairs(path, **options):
    return data_sections.Pairs(source="pairs", path=str(path), **options)


def load(path, **options):
    return sources.load(pairs(path, **options))


def write_picture(root, name, size=(20, 16), values=(0, 1), suffix=".png", mode="L", seed=None):
    """An image with its mask: the left half has the first value, the right half the second."""
    chance = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (root / part / name).parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(chance.integers(0, 256, (*size, 3), "uint8")).convert(mode)
    image.save(root / "images" / f"{name}{suffix}")
    mask = np.full(size, values[0], "uint8")
    mask[:, size[1] // 2 :] = values[1]
    Image.fromarray(mask).save(root / "masks" / f"{name}.png")


def write_scan(root, name, values=None, mask=None, affine=None, suffix=".nii.gz"):
    """A volume with its mask; both are by default of 6x7 voxels in 5 slices."""
    values = np.random.default_rng().normal(size=(6, 7, 5)).astype("float32") if values is None else values
    mask = (np.arange(values.size).reshape(values.shape) % 2).astype("uint8") if mask is None else mask
    write_nifti(root / "images" / f"{name}{suffix}", values, affine)
    write_nifti(root / "masks" / f"{name}.nii.gz", mask, affine)
    return values, mask


def patients(examples):
    return {name: set(getattr(examples, name).groups) for name in SPLITS}


@pytest.mark.parametrize("seed", range(4))
def test_patients_are_never_shared_between_splits(tmp_path, seed):
    chance = np.random.default_rng(seed)
    for patient in range(12):
        for visit in range(chance.integers(1, 5)):
            write_picture(tmp_path, f"p{patient:02d}_{visit}")
    examples = load(tmp_path, split_seed=seed, test=0.25, validation=0.2)
    found = patients(examples)
    assert [len(found[name]) for name in SPLITS] == [7, 2, 3]
    assert len(set.union(*found.values())) == 12
    assert "7 for train, 2 for validation, 3 for test" in examples.notes[0]
    assert "3 patients" in examples.caveat
    assert found == patients(load(tmp_path, split_seed=seed, test=0.25, validation=0.2))


@pytest.mark.parametrize(
    ("names", "pattern", "expected"),
    [
        (["a_1", "a_2", "b_1"], None, ["a", "a", "b"]),
        (["a/1_x", "a/2_x", "b/1_x"], None, ["a", "a", "b"]),
        (["site1-a-x", "site2-a-y", "site1-b-x"], r"-(\w)-", ["a", "b", "a"]),
        (["1", "2", "3"], None, ["1", "2", "3"]),
    ],
)
def test_whose_an_image_is(tmp_path, names, pattern, expected):
    for name in names:
        write_picture(tmp_path, name)
    examples = load(tmp_path, patient=pattern, test=0.0, validation=0.0)
    assert sorted(examples.train.groups) == sorted(expected)


def test_given_splits_and_a_patient_in_two_of_them(tmp_path):
    for split, names in {"train": ["a_1", "b_1"], "val": ["c_1"], "test": ["d_1"]}.items():
        for name in names:
            write_picture(tmp_path / split, name)
    assert patients(load(tmp_path)) == {"train": {"a", "b"}, "validation": {"c"}, "test": {"d"}}
    write_picture(tmp_path / "test", "a_2")
    with pytest.raises(UserError, match=r"belongs to one split. Received: a in train and in test"):
        load(tmp_path)


def test_values_of_pictures_and_masks(tmp_path):
    write_picture(tmp_path, "a_1", values=(0, 255))
    examples = load(tmp_path, image_size=(20, 16), mask_values=(0, 255), test=0.0, validation=0.0)
    assert (examples.train.inputs[0, ..., 0] == np.asarray(Image.open(tmp_path / "images/a_1.png"))).all()
    assert examples.train.inputs.dtype == "uint8" and examples.shape == (20, 16, 1)
    assert (examples.train.labels[0, :, 8:] == 1).all() and not examples.train.labels[0, :, :8].any()
    # in another order of classes
    swapped = load(tmp_path, image_size=(20, 16), mask_values=(255, 0), test=0.0, validation=0.0)
    assert (swapped.train.labels == 1 - examples.train.labels).all()
    colour = tmp_path / "colour"
    write_picture(colour, "a_1", mode="RGB", suffix=".jpg")
    assert load(colour, channels=3, image_size=(20, 16)).train.inputs.shape == (1, 20, 16, 3)
    deep = tmp_path / "deep"
    write_picture(deep, "a_1")
    values = np.random.default_rng(0).integers(0, 60000, (20, 16)).astype("uint16")
    Image.fromarray(values).save(deep / "images/a_1.png")
    read = load(deep, image_size=(20, 16)).train.inputs
    assert read.dtype == "float32" and (read[0, ..., 0] == values).all()


@pytest.mark.parametrize("fit", ["resize", "pad"])
def test_images_of_several_sizes(tmp_path, fit):
    for name, size in (("a_1", (20, 16)), ("b_1", (48, 64)), ("c_1", (32, 32))):
        write_picture(tmp_path, name, size)
    split = load(tmp_path, image_size=(32, 32), fit=fit, test=0.0, validation=0.0).train
    assert split.inputs.shape == (3, 32, 32, 1) and set(np.unique(split.labels)) == {0, 1}
    if fit == "resize":  # the halves stay halves
        assert (split.labels[:, :, 16:] == 1).all() and not split.labels[:, :, :16].any()
    else:
        assert (split.inputs[0, 6:26, 8:24, 0] == np.asarray(Image.open(tmp_path / "images/a_1.png"))).all()
        assert (split.inputs[1, ..., 0] == np.asarray(Image.open(tmp_path / "images/b_1.png"))[8:40, 16:48]).all()


def test_slices_on_disk_are_those_of_the_volumes(tmp_path):
    written = {name: write_scan(tmp_path, name) for name in ("a_1", "a_2", "b_1")}
    split = load(tmp_path, image_size=(7, 6), test=0.0, validation=0.0).train
    assert isinstance(split.inputs, np.memmap) and isinstance(split.labels, np.memmap)
    assert list(split.groups) == ["a"] * 10 + ["b"] * 5
    for number, (values, mask) in enumerate(written.values()):
        rows = slice(5 * number, 5 * number + 5)
        # the identity as affine: the first axis runs to the right, the second to the front, the third to the head
        assert (split.inputs[rows, ..., 0] == values.transpose(2, 1, 0)[:, ::-1]).all()
        assert (split.labels[rows] == mask.transpose(2, 1, 0)[:, ::-1]).all()


def test_patches_of_volumes(tmp_path):
    values, mask = write_scan(tmp_path, "a_1")  # 5 slices of 7 rows and 6 columns
    split = load(tmp_path, patch=(4, 4, 3)).train
    assert split.inputs.shape == (8, 4, 4, 3, 1) and split.labels.shape == (8, 4, 4, 3)
    assert split.labels.sum() == mask.sum()  # each voxel once
    assert np.isin(values, split.inputs).all()


def test_a_dicom_series_with_a_nifti_mask(tmp_path):
    stored = np.random.default_rng(0).integers(0, 3000, (4, 8, 6))
    write_series(tmp_path / "images" / "a" / "ct", stored, intercept=-1024)
    mask = (stored > 1500).astype("uint8")
    write_nifti(tmp_path / "masks/a/ct.nii.gz", mask.transpose(2, 1, 0), np.diag([-2.0, -2, 3, 1]))
    split = load(tmp_path, image_size=(8, 6)).train
    assert list(split.groups) == ["a"] * 4
    assert (split.inputs[..., 0] == (stored - 1024.0)[:, :, ::-1]).all()
    assert (split.labels == (split.inputs[..., 0] > 1500 - 1024)).all()


def broken(root, kind):
    """A folder of four good pairs and a bad one."""
    for patient in "abcd":
        write_scan(root, f"{patient}_1")
    values, mask = write_scan(root, "e_1")
    image, masks = root / "images/e_1.nii.gz", root / "masks/e_1.nii.gz"
    if kind == "nan":
        values[2, 3, 4] = np.nan
        write_nifti(image, values)
    elif kind == "size":
        write_nifti(masks, mask[:, :, 1:])
    elif kind == "place":
        write_nifti(masks, mask, np.diag([2.0, 1, 1, 1]))
    elif kind == "range":
        write_nifti(masks, mask * 2)
    elif kind == "binary":
        write_nifti(masks, mask * 255)
    elif kind == "many":
        write_nifti(masks, np.arange(mask.size, dtype="int16").reshape(mask.shape))
    elif kind == "soft":
        write_nifti(masks, mask * np.float32(0.5))
    elif kind == "four":
        write_nifti(image, np.stack([values, values], -1))
    elif kind == "truncated":
        image.write_bytes(image.read_bytes()[:400])
    elif kind == "no mask":
        masks.unlink()
    elif kind == "no image":
        image.unlink()
    elif kind == "twice":
        write_nifti(root / "images/e_1.nii", values)
    elif kind == "picture mask":
        masks.unlink()
        Image.fromarray(mask[0]).save(root / "masks/e_1.png")
    elif kind == "loose dicom":
        write_series(root / "images/f", np.ones((1, 4, 4)))
        shutil.move(root / "images/f/000.dcm", root / "images/000.dcm")
    elif kind == "format":
        (root / "images/f_1.nrrd").write_bytes(b"NRRD0004")
    elif kind == "lossy mask":
        Image.fromarray(mask[0]).save(root / "masks/f_1.jpg")
    elif kind == "empty":
        shutil.rmtree(root / "images")
        shutil.rmtree(root / "masks")
        (root / "images").mkdir()
        (root / "masks").mkdir()
    elif kind == "no folder":
        shutil.rmtree(root / "masks")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", r"images/e_1.nii.gz: every voxel must be finite. Received: 1 of 210"),
        ("size", r"masks/e_1.nii.gz: a mask has the size of its image. Received: 4x7x6 .*e_1.nii.gz of 5x7x6"),
        ("place", r"masks/e_1.nii.gz: a mask lies where its image lies"),
        (
            "range",
            r"masks/e_1.nii.gz: mask values are 0 to 1.*Received: 0, 2, of which 2 is no class. Set data.mask_values=\[0, 2\]",
        ),
        (
            "binary",
            r"Received: 0, 255, of which 255 is no class. Set data.mask_values=\[0, 255\], a value for each class",
        ),
        ("many", r"Received: 0, 1, 2, 3, 4, 5, 6, 7, ..., of which 2 is no class. Name all of them in data.classes"),
        ("soft", r"masks/e_1.nii.gz: a mask has an integer at every voxel. Received: 0.5"),
        ("four", r"images/e_1.nii.gz: a volume has three dimensions. Received: 4"),
        ("truncated", r"images/e_1.nii.gz: a complete NIfTI file is needed"),
        ("no mask", r"every image has a mask of the same name.*Received: no mask for images/e_1.nii.gz \(1 in all\)"),
        ("no image", r"Received: no image for masks/e_1.nii.gz"),
        ("twice", r"images: names are there once.*e_1.nii and e_1.nii.gz"),
        ("picture mask", r"masks/e_1.png: the mask of a volume is a NIfTI file"),
        ("loose dicom", r"images/000.dcm: .* Put each DICOM series into a folder of its own"),
        ("format", r"images/f_1.nrrd: the formats of images are .*Convert it"),
        ("lossy mask", r"masks/f_1.jpg: the formats of masks are .png, .nii.gz, .nii, without loss"),
        ("empty", r"images: pairs need images. Received: none"),
        ("no folder", r"Received: no folder masks"),
    ],
)
def test_bad_folders(tmp_path, kind, message):
    broken(tmp_path, kind)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_bad_pictures(tmp_path):
    write_picture(tmp_path, "a_1")
    Image.fromarray(np.zeros((20, 17), "uint8")).save(tmp_path / "masks/a_1.png")
    with pytest.raises(
        UserError, match=r"masks/a_1.png: a mask has the size of its image. Received: 20x17 for .* of 20x16"
    ):
        load(tmp_path)
    Image.fromarray(np.zeros((20, 16, 3), "uint8")).save(tmp_path / "masks/a_1.png")
    with pytest.raises(
        UserError, match=r"masks/a_1.png: a mask has one integer at every pixel. Received: colours \(RGB\)"
    ):
        load(tmp_path)
    content = (tmp_path / "images/a_1.png").read_bytes()
    (tmp_path / "images/a_1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"images/a_1.png: not a readable image"):
        load(tmp_path)
    write_picture(tmp_path, "a_1")
    with pytest.raises(UserError, match=r"a_1.png: data.patch cuts volumes. Received: a picture"):
        load(tmp_path, patch=(2, 2, 2))
    with pytest.raises(UserError, match=r"data.patient must match every name.*finds no patient in a_1"):
        load(tmp_path, patient="(x+)")


def test_a_class_that_no_mask_has(tmp_path):
    for patient in "abcd":
        write_picture(tmp_path, f"{patient}_1", values=(0, 0))
    with pytest.raises(UserError, match="every class needs training examples. Received: none of foreground"):
        require_classes(load(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("a", "a")}, "data.classes: a class is named once"),
        ({"mask_values": (0, 1, 2)}, "data.mask_values: one distinct value for each of the 2 classes"),
        ({"mask_values": (1, 1)}, "data.mask_values: one distinct value"),
        ({"patient": "(a"}, "data.patient: a regular expression. Received: '(a'"),
        (
            {"patient": "a"},
            "data.patient: a regular expression with one group in parentheses, the patient. Received: 0",
        ),
    ],
)
def test_options_that_contradict(options, message):
    recipe = type("Recipe", (), {"data": pairs("x", **options)})
    problems = [": ".join(problem) for problem in data_rules._pairs_options(recipe)]
    assert len(problems) == 1 and problems[0].startswith(message)


def test_the_folder_is_looked_for_before_anything_is_made(tmp_path):
    with pytest.raises(UserError, match=re.escape("data.path: the source pairs needs a folder of images and masks.")):
        sources.require(pairs(tmp_path / "none"))
    assert sources.find(pairs(tmp_path)) == str(tmp_path)


MEMORY = """
import sys
from dataclasses import replace
from nrm_keras.data import sources
from nrm_keras.recipe.sections.data import Pairs
import nibabel, pydicom, PIL.Image, rich.progress, sklearn.model_selection  # whatever these take is not data
def peak():  # in KiB; that of getrusage begins with the parent's
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
examples = sources.load(Pairs(source="pairs", path=sys.argv[1], image_size=(160, 160)))
print(sum(s.inputs.nbytes for s in (examples.train, examples.validation, examples.test)) >> 20, (peak() - before) >> 10)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
def test_data_larger_than_memory_is_never_in_memory(tmp_path):
    values = np.random.default_rng(0).normal(size=(160, 160, 150)).astype("float32")
    for patient in range(20):
        write_scan(tmp_path, f"p{patient}_1", values, suffix=".nii")
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    size, growth = map(int, done.stdout.split())
    shutil.rmtree(tmp_path)
    assert size > 290 and growth < 150


def test_the_digest_of_examples_on_disk_is_that_of_examples_in_memory(tmp_path):
    write_scan(tmp_path, "a_1")
    on_disk = load(tmp_path, image_size=(7, 6))
    loaded = Split(np.array(on_disk.train.inputs), np.array(on_disk.train.labels), on_disk.train.groups)
    assert replace(on_disk, train=loaded).fingerprint() == on_disk.fingerprint()
