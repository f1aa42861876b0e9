"""Blocks of slices and patches of a single subject."""

import itertools

import numpy as np
import pytest

from nrm_keras.data import medical, sources
from nrm_keras.data.blocks import blocks, padded, patches
from nrm_keras.data.examples import require_classes
from nrm_keras.errors import UserError
from nrm_keras.recipe import schema
from nrm_keras.recipe.sections import data as data_sections
from tests.data.scans import write_nifti

pytest.importorskip("nibabel")
SPLITS = ("train", "validation", "test")


def brain(**options):
    return data_sections.Brain(source="brain", **{"downsample": 1, **options})


@pytest.fixture
def head(tmp_path):
    """A head whose every voxel says where it is: the value is the slice, plus 120 in the brain."""
    depth, height, width = 120, 50, 40
    slices = np.arange(depth, dtype="uint8")[:, None, None]
    inside = np.zeros((depth, height, width), bool)
    inside[10:115, 10:40, 8:30] = True
    values = np.where(inside, slices + 120, slices).astype("uint8")
    folder = tmp_path / "package" / "usr/share/mricron/templates"
    for name, array in (("ch2", values), ("ch2bet", values * inside)):
        write_nifti(folder / f"{name}.nii.gz", array[:, ::-1].transpose())
    medical.Brain.prepare(tmp_path / "package", accept_checksum=True)
    return values


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("length", "thickness", "options"),
    [
        (140, 8, {}),
        (140, 16, {"gap": 5}),
        (140, 32, {}),
        (60, 8, {"test": 0.3, "gap": 1}),
        (140, 8, {"validation": 0.0}),
    ],
)
def test_held_out_blocks_are_apart_and_between_those_of_training(seed, length, thickness, options):
    data = brain(split_seed=seed, **options)
    runs = blocks(length, thickness, data)
    owner = np.full(length, -1)
    for number, name in enumerate(SPLITS):
        for run in runs[name]:
            assert len(run) >= thickness and (owner[run] == -1).all()
            owner[run] = number
    assert owner[0] == owner[-1] == 0  # training begins and ends
    for one, other in itertools.combinations(range(3), 2):
        distances = np.abs(np.subtract.outer(np.flatnonzero(owner == one), np.flatnonzero(owner == other)))
        assert distances.min(initial=length) > data.gap
    assert bool(runs["validation"]) == bool(data.validation) and runs["test"]


def test_the_seed_draws_the_blocks_and_too_few_slices_are_refused():
    assert len({str(blocks(140, 8, brain(split_seed=seed))) for seed in range(5)}) > 1
    assert blocks(140, 8, brain()) == blocks(140, 8, brain())
    with pytest.raises(UserError, match=r"a block for each split, of 64 slices at least. Received: a gap of 3 in 140"):
        blocks(140, 64, brain())


def test_slices_of_the_brain_source(head):
    examples = sources.load(brain())
    assert examples.task == "segmentation" and examples.classes == ("background", "brain")
    assert examples.shape == (64, 48, 1) and examples.train.inputs.dtype == "uint8"
    assert "clinical" in examples.caveat and "dropped" in examples.notes[0]
    require_classes(examples)
    seen = {}
    for name in SPLITS:
        split = getattr(examples, name)
        for image, mask in zip(split.inputs[..., 0], split.labels, strict=True):
            number = int(image.max()) - 120  # which slice it is
            assert (padded(head[number], (64, 48), image.min()) == image).all()
            assert (mask == (image >= 120)).all()
            seen[number] = name
    assert len(seen) == sum(len(getattr(examples, name)) for name in SPLITS)
    assert min(seen) == 10 and max(seen) == 114
    for one, other in itertools.combinations(seen, 2):
        assert seen[one] == seen[other] or abs(one - other) > 3
    assert examples.fingerprint() == sources.load(brain()).fingerprint()


def test_patches_of_the_brain_source_share_no_slice(head):
    examples = sources.load(brain(patch=(12, 16, 16), gap=2))
    assert examples.shape == (12, 16, 16, 1)
    slices = {}
    for name in SPLITS:
        split = getattr(examples, name)
        assert len(split) and split.labels.shape == split.inputs.shape[:-1]
        assert (split.labels == (split.inputs[..., 0] >= 120)).all()
        slices[name] = set(np.unique(split.inputs[split.inputs >= 120]))
    for one, other in itertools.combinations(SPLITS, 2):
        assert min(abs(int(a) - int(b)) for a in slices[one] for b in slices[other]) > 2


def test_downsampling_averages_and_takes_the_majority(head):
    full, half = sources.load(brain()), sources.load(brain(downsample=2))
    assert half.shape == (32, 32, 1) and len(half.train) == len(full.train)
    image, mask = full.train.inputs[0, ..., 0].astype(float), full.train.labels[0]
    image, mask = image[7:57, 4:44], mask[7:57, 4:44]  # without the padding
    averaged = np.rint([[image[r : r + 2, c : c + 2].mean() for c in range(0, 40, 2)] for r in range(0, 50, 2)])
    majority = [[mask[r : r + 2, c : c + 2].mean() > 0.5 for c in range(0, 40, 2)] for r in range(0, 50, 2)]
    assert (half.train.inputs[0, 3:28, 6:26, 0] == averaged).all()
    assert (half.train.labels[0, 3:28, 6:26] == majority).all()


def test_patches_that_do_not_fit(head):
    with pytest.raises(UserError, match=r"data.patch must fit|at least"):
        sources.load(brain(patch=(110, 16, 16)))
    with pytest.raises(UserError, match="of 32 slices at least. Received: a gap of 3 in 70 slices"):
        medical.Brain.mock(brain(patch=(32, 16, 16), downsample=2), 4)


def test_patches_tile_a_volume():
    values = np.arange(4 * 6 * 6).reshape(4, 6, 6)
    tiles = list(patches(values, (2, 3, 3)))
    assert len(tiles) == 8 and sorted(np.ravel(tiles)) == list(range(values.size))
    assert len(list(patches(values, (2, 3, 3), (1, 3, 3)))) == 12


def test_padding_keeps_the_centre():
    values = np.arange(12).reshape(1, 3, 4)
    wide = padded(values, (5, 8), 99)
    assert wide.shape == (1, 5, 8) and (wide[:, 1:4, 2:6] == values).all() and (wide == 99).sum() == 28
    assert (padded(wide, (3, 4), 0) == values).all()


@pytest.mark.parametrize("name", ["brain", "tissue"])
@pytest.mark.parametrize("options", [{}, {"downsample": 1}, {"patch": (8, 32, 32)}], ids=str)
def test_mock_examples_have_the_shape_and_classes_of_the_real_ones(name, options):
    data = schema.SECTIONS["data"][name](source=name, **options)
    source = medical.Brain if name == "brain" else medical.Tissue
    made = source.mock(data, 6)
    assert made.task == "segmentation" and made.train.labels.shape == (6, *made.shape[:-1])
    require_classes(made)
    if source.package.installed_root():
        assert made.shape == sources.load(data).shape and made.classes == sources.load(data).classes


@pytest.mark.skipif(
    not medical.Brain.package.installed_root(), reason="the Debian package mricron-data is not installed"
)
def test_the_real_brain():
    examples = sources.load(brain())
    assert examples.shape == (224, 192, 1) and [len(getattr(examples, name)) for name in SPLITS] == [84, 8, 24]
    assert examples.repeated() == {"validation": 0, "test": 0}
    # upright: the head is closed at the top of a middle slice, and left and right are alike
    middle = examples.test.labels[len(examples.test) // 2]
    assert np.mean(middle == middle[:, ::-1]) > 0.9


@pytest.mark.skipif(not medical.Tissue.package.installed_root(), reason="the PyPI package nilearn is not installed")
def test_the_real_tissue():
    examples = sources.load(data_sections.Tissue(source="tissue", downsample=1))
    assert examples.shape == (240, 208, 1)
    means = [examples.train.inputs[..., 0][examples.train.labels == label].mean() for label in range(4)]
    assert (np.diff(means) > 0).all()  # T1: fluid is darker than grey matter, white matter is brightest
