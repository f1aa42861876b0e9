"""Every source that recipes can name: listed, found, prepared and mocked alike."""

import numpy as np
import pytest

from nrm_keras.cli import main
from nrm_keras.data import listing, sources
from nrm_keras.data.source import is_own
from nrm_keras.errors import UserError
from nrm_keras.recipe import schema
from nrm_keras.recipe.sections import data as data_sections

PUBLIC = [name for name, source in sources.SOURCES.items() if not is_own(source)]


def section(name):
    return schema.SECTIONS["data"][name](source=name)


def test_recipes_can_name_every_source_and_no_other():
    assert set(sources.SOURCES) == set(schema.SECTIONS["data"])


def test_every_public_source_says_what_it_is_and_where_it_is_from():
    rows = {row[0]: dict(zip(listing.COLUMNS, row, strict=True)) for row in listing.rows()}
    for name in PUBLIC:
        assert all(rows[name].values()), f"{name} leaves something out: {rows[name]}"
    assert rows["cifar100"]["here"] == "no" and rows["digits"]["here"] == "scikit-learn"


@pytest.mark.parametrize("name", PUBLIC)
def test_mock_examples_are_shaped_like_the_real_ones(name):
    examples = sources.mock(section(name), 12)
    for split in (examples.train, examples.validation, examples.test):
        assert len(split) == len(split.inputs) == 12
        if examples.is_text:
            assert examples.shape == () and all(isinstance(text, str) and text for text in split.inputs)
        else:
            assert split.inputs.shape[1:] == examples.shape
        if examples.task != "regression":
            assert split.labels.min() >= 0 and split.labels.max() < len(examples.classes)
    assert len(np.unique(examples.train.labels)) > 1


@pytest.mark.parametrize("name", ["mnist_5k", "rotten_tomatoes", "imdb_half", "spam"])
def test_mock_and_real_examples_have_the_same_shape_and_classes(real_data, name):
    real, mock = real_data(section(name), limit=12), sources.mock(section(name), 12)
    assert (real.shape, real.classes, real.task) == (mock.shape, mock.classes, mock.task)
    assert real.train.inputs.dtype == mock.train.inputs.dtype
    assert len(real.train) == 12 and set(np.unique(real.train.labels)) <= set(range(len(real.classes)))


def test_mnist_5k(real_data):
    examples = real_data(section("mnist_5k"))
    assert [len(examples.train), len(examples.validation), len(examples.test)] == [3500, 500, 1000]
    assert (np.bincount(examples.test.labels) == 100).all() and examples.shape == (28, 28, 1)
    # the label is the picture's: 1 has the least ink, 0 the most, as in all of MNIST
    ink = [examples.train.inputs[examples.train.labels == digit].mean() for digit in range(10)]
    assert np.argmin(ink) == 1 and np.argmax(ink) == 0


def test_a_users_own_data_has_no_mock_and_is_not_prepared():
    data = data_sections.Npz(source="npz", path="none.npz")
    with pytest.raises(UserError, match=r"needs an .npz file. Received: none.npz"):
        sources.mock(data, 3)
    with pytest.raises(UserError, match="data prepare is for public data sets. Received: npz. Set data.path"):
        listing.prepare("npz")


def test_data_ls_and_data_prepare(capsys):
    assert main(["data", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == list(listing.COLUMNS)
    spam = next(line for line in lines if line.startswith("spam "))
    assert all(part in spam for part in ("1,896 spam", " no ", "20 MB", "PDDL and CC0", "npm package"))
    assert main(["data", "prepare", "digits", "breast_cancer"]) == 0
    assert capsys.readouterr().out.count("is ready: scikit-learn brings it") == 2
    assert main(["data", "prepare", "spm", "digits"]) == 2
    said = capsys.readouterr()
    assert "Did you mean 'spam'?" in said.err and "digits is ready" in said.out  # the others are tried all the same
