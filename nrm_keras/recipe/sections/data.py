"""Where examples come from: the `data` section, by its `source`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from nrm_keras.recipe.sections.base import Fraction, Name, NonNegativeInt, PositiveInt, Section


class Data(Section):
    # which splits the source may bring itself; the others are held out, by the shares below
    brings: ClassVar[frozenset[str]] = frozenset()

    batch_size: PositiveInt = Field(32, description="examples per training step, over all replicas together")
    evaluation_batch_size: PositiveInt | None = Field(
        None, description="examples per step of validation and test; null: batch_size"
    )
    augment: tuple[Literal["crop", "flip", "drop_words"], ...] = Field(
        (), description="random changes of training examples: crop and flip for images, drop_words for text"
    )
    validation: Fraction = Field(
        0.1, description="share of the training examples held out where the source has no split"
    )
    test: Fraction = Field(0.2, description="share held out for the test where the source has no split")
    split_seed: NonNegativeInt = Field(0, description="draws the held-out examples; independent of train.seed")
    limit: PositiveInt | None = Field(None, description="at most this many training examples, for quick experiments")
    standardize: bool = Field(True, description="subtract mean, divide by standard deviation of the training split")

    @property
    def held_out_batch_size(self) -> int:
        """Examples per step where nothing is trained."""
        return self.evaluation_batch_size or self.batch_size


class Digits(Data):
    """1,797 handwritten digits of 8x8 pixels, inside scikit-learn."""

    source: Literal["digits"] = "digits"


class FashionMnist(Data):
    """60,000 + 10,000 pictures of clothes, 28x28 grey, 10 classes."""

    brings: ClassVar[frozenset[str]] = frozenset({"test"})
    source: Literal["fashion_mnist"]


class Cifar10(Data):
    """50,000 + 10,000 colour pictures of 32x32 pixels, 10 classes."""

    brings: ClassVar[frozenset[str]] = frozenset({"test"})
    source: Literal["cifar10"]


class Mnist5k(Data):
    """5,000 handwritten digits of MNIST, 28x28 grey, 500 a class."""

    source: Literal["mnist_5k"]


class Cifar100(Data):
    """50,000 + 10,000 colour pictures of 32x32 pixels, 100 classes."""

    brings: ClassVar[frozenset[str]] = frozenset({"test"})
    source: Literal["cifar100"]


class PatchCamelyon(Data):
    """262,144 + 32,768 + 32,768 patches of lymph nodes, 96x96 colour, with and without tumour."""

    brings: ClassVar[frozenset[str]] = frozenset({"validation", "test"})
    source: Literal["patch_camelyon"]


class ColorectalHistology(Data):
    """5,000 patches of colorectal tissue, colour, 8 classes, from 10 slides that are split whole."""

    source: Literal["colorectal_histology"]
    image_size: tuple[PositiveInt, PositiveInt] = Field(
        (150, 150), description="height and width images are resized to"
    )


class Malaria(Data):
    """27,558 blood cells, colour, with and without malaria parasites."""

    source: Literal["malaria"]
    image_size: tuple[PositiveInt, PositiveInt] = Field((64, 64), description="height and width images are resized to")


class Npz(Data):
    """A NumPy archive with x_train, y_train and optionally x_val, y_val, x_test, y_test; or x, y to be split."""

    brings: ClassVar[frozenset[str]] = frozenset({"validation", "test"})
    source: Literal["npz"]
    path: Name = Field(description="the .npz file; relative to the recipe's file, or to the shell for an override")
    targets: Annotated[tuple[Name, ...], Field(min_length=1)] | None = Field(
        None, description="for task: regression, the names of the numbers in y, with their units; null: y are classes"
    )


class Folder(Data):
    """Images in folders: train/CLASS/*.png, validation/..., test/...; or CLASS/*.png to be split."""

    brings: ClassVar[frozenset[str]] = frozenset({"validation", "test"})
    source: Literal["folder"]
    path: Name = Field(description="the folder; relative to the recipe's file, or to the shell for an override")
    image_size: tuple[PositiveInt, PositiveInt] = Field((32, 32), description="height and width images are resized to")
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for colour")


class CustomData(Data):
    """A source added with `@nrm_keras.register("data", ...)`; keys beyond those of every source are its business."""

    brings: ClassVar[frozenset[str]] = frozenset({"validation", "test"})
    model_config = ConfigDict(extra="allow")
    source: Name = Field(description="the registered name")

    @property
    def options(self) -> dict[str, Any]:
        """The keys no other source has; lists are tuples."""
        return dict(self.model_extra or {})


# Medical images ------------------------------------------------------------------------------------------------------

Patch = tuple[PositiveInt, PositiveInt, PositiveInt]


class _OneVolume(Data):
    batch_size: PositiveInt = Field(2, description="examples per training step, over all replicas together")
    patch: Patch | None = Field(None, description="depth, height and width of 3D patches; null: axial slices")
    downsample: Literal[1, 2, 4] = Field(
        2, description="average over so many voxels along height and width, with data.patch along depth as well"
    )
    gap: NonNegativeInt = Field(3, description="slices dropped between blocks of different splits")


class Brain(_OneVolume):
    """Brain or background in the T1 MRI of one head; blocks of slices are held out."""

    source: Literal["brain"]


class Tissue(_OneVolume):
    """Grey matter, white matter, fluid or background in the T1 MRI of an average brain; blocks of slices are held out."""

    source: Literal["tissue"]


class Pairs(Data):
    """Images with masks: images/NAME.png with masks/NAME.png, NIfTI files, DICOM series; split by patient."""

    brings: ClassVar[frozenset[str]] = frozenset({"validation", "test"})
    source: Literal["pairs"]
    path: Name = Field(description="the folder; relative to the recipe's file, or to the shell for an override")
    classes: Annotated[tuple[Name, ...], Field(min_length=2, max_length=256)] = Field(
        ("background", "foreground"), description="what mask values mean, from the lowest"
    )
    mask_values: tuple[int, ...] | None = Field(
        None, description="the value of each class in masks, such as [0, 255]; null: 0, 1, 2, ..."
    )
    patient: Name | None = Field(
        None,
        description="regular expression with one group, the patient, searched in the name below images; null: the first"
        " folder, or what is before the first _",
    )
    image_size: tuple[PositiveInt, PositiveInt] = Field((128, 128), description="height and width of images and slices")
    fit: Literal["resize", "pad"] = Field("resize", description="how images get image_size; pad: also crops")
    channels: Literal[1, 3] = Field(1, description="1 for grey and volumes, 3 for colour")
    patch: Patch | None = Field(
        None, description="depth, height and width of 3D patches, as stored; null: axial slices of image_size"
    )


# Tables --------------------------------------------------------------------------------------------------------------


class BreastCancer(Data):
    """569 breast tumours by 30 measurements, malignant or benign, inside scikit-learn."""

    source: Literal["breast_cancer"]


class Pbmc68k(Data):
    """700 blood cells by the expression of 765 genes, 10 cell types; one fold of a cross-validation is the test."""

    brings: ClassVar[frozenset[str]] = frozenset({"test"})
    source: Literal["pbmc68k"]
    # the smallest type has 8 cells, and each fold shows every type
    folds: Annotated[int, Field(ge=2, le=8)] = Field(5, description="parts of the stratified cross-validation")
    fold: NonNegativeInt | None = Field(
        None, description="which part is the test split, from 0; null: train.seed modulo folds, so that seeds are folds"
    )


class BladderBatch(Data):
    """57 bladder samples by the expression of their genes, from 5 laboratory batches; one batch is the test."""

    brings: ClassVar[frozenset[str]] = frozenset({"test"})
    source: Literal["bladderbatch"]
    fold: Annotated[int, Field(ge=0, lt=5)] | None = Field(
        None, description="which batch is the test split, from 0; null: train.seed modulo 5, so that seeds are batches"
    )
    genes: Annotated[int, Field(ge=1, le=22283)] = Field(
        2000, description="how many genes: those that vary most in the training split"
    )
    validation: Fraction = Field(0.15, description="share of the training batches' samples held out")

    @property
    def folds(self) -> int:
        return 5


class Nuclei(Data):
    """Binding energy per nucleon of atomic nuclei by their numbers of protons and neutrons (AME2020)."""

    source: Literal["nuclei"]
    features: Annotated[
        tuple[Literal["Z", "N", "log_Z", "log_N", "odd_Z", "odd_N", "magic_Z", "magic_N"], ...], Field(min_length=1)
    ] = Field(
        ("Z", "N", "log_Z", "log_N", "odd_Z", "odd_N"),
        description="inputs: protons Z and neutrons N, log(1 + Z), whether Z is odd, its distance to a closed shell",
    )
    split: Literal["random", "heavy"] = Field("random", description="which nuclei are the test: any, or the heaviest")
    values: Literal["measured", "all"] = Field("measured", description="all: those extrapolated from trends as well")
    lightest: Annotated[int, Field(ge=0, le=50)] = Field(
        8, description="fewest protons and neutrons, 8 as in comparisons of mass models; 0: all nuclei"
    )


SECTIONS = (
    Digits,
    Mnist5k,
    FashionMnist,
    Cifar10,
    Cifar100,
    PatchCamelyon,
    ColorectalHistology,
    Malaria,
    Brain,
    Tissue,
    BreastCancer,
    Pbmc68k,
    BladderBatch,
    Nuclei,
    Npz,
    Folder,
    Pairs,
)
