import h5py
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from nrm_keras.data import genomics, sources
from nrm_keras.data.examples import Split
from nrm_keras.errors import UserError
from nrm_keras.recipe import schema
from nrm_keras.recipe.sections import data as data_sections


def rows(split):
    return {row.tobytes() for row in split.inputs}


def pbmc(**options):
    return data_sections.Pbmc68k(source="pbmc68k", **options)


def write_cells(path, values, labels, classes=("B", "NK"), shape=None):
    """A .h5ad file in the layout of scanpy's 10x_pbmc68k_reduced.h5ad."""
    counts = csr_matrix(values.astype("float32"))
    with h5py.File(path, "w") as file:
        raw = file.create_group("raw.X")
        raw.attrs["h5sparse_format"], raw.attrs["h5sparse_shape"] = "csr", np.array(shape or values.shape)
        for name in ("data", "indices", "indptr"):
            raw[name] = getattr(counts, name)
        genes = [(f"gene{number}".encode(),) for number in range(values.shape[1])]
        file["raw.var"] = np.array(genes, [("index", "S13")])
        cells = [(f"cell{number}".encode(), label) for number, label in enumerate(labels)]
        file["obs"] = np.array(cells, [("index", "S16"), ("bulk_labels", "i1")])
        file["uns/bulk_labels_categories"] = np.array(classes, "S28")
    return path


def test_cells_are_read_from_the_sparse_counts(tmp_path):
    values = np.array([[0, 1.5, 0], [2, 0, 0], [0, 0, 0]])
    cells, classes = genomics.read_cells(write_cells(tmp_path / "cells.h5ad", values, [1, 0, 1]))
    assert cells.inputs.dtype == "float32" and cells.inputs.tolist() == values.tolist()
    assert cells.labels.tolist() == [1, 0, 1] and classes == ("B", "NK")


@pytest.mark.parametrize(
    "change,message",
    [
        ({"labels": [0, 1, 2]}, "labels 0 to 2 of 2 types"),
        ({"labels": [0, -1, 1]}, "labels -1 to 1"),  # a cell without a type
        ({"labels": [0, 1]}, "3x2 values for 2 cells"),
        ({"values": np.array([[1, np.nan], [np.inf, 2], [0, np.nan]])}, "3 NaN or infinite values, in gene0, gene1"),
        ({"shape": (3, 1)}, "Get the file again"),
    ],
)
def test_damaged_cells_are_named(tmp_path, change, message):
    path = write_cells(tmp_path / "cells.h5ad", **{"values": np.eye(3)[:, :2], "labels": [0, 1, 1], **change})
    with pytest.raises(UserError, match=message) as error:
        genomics.read_cells(path)
    assert str(path) in str(error.value)


def test_cut_off_or_other_file_of_cells(tmp_path):
    path = write_cells(tmp_path / "cells.h5ad", np.eye(3), [0, 1, 1])
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(UserError, match="Received: .*Get the file again"):
        genomics.read_cells(path)
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["X"] = np.eye(3)
    with pytest.raises(UserError, match="raw.X"):
        genomics.read_cells(tmp_path / "other.h5ad")


@pytest.mark.parametrize("folds", [2, 5, 8])
def test_folds_partition_the_examples_and_show_every_class(folds):
    labels = np.repeat(np.arange(3), [8, 40, 52]).astype("int32")
    cells = Split(np.arange(100.0)[:, None], labels)
    held = []
    for number in range(folds):
        rest, test = genomics.fold(cells, number, folds, seed=3)
        assert not rows(rest) & rows(test) and len(rest) + len(test) == 100
        assert np.bincount(test.labels, minlength=3).min() >= 8 // folds
        held += test.inputs.ravel().tolist()
    assert sorted(held) == list(range(100))
    assert rows(genomics.fold(cells, 0, folds, seed=4)[1]) != rows(genomics.fold(cells, 0, folds, seed=3)[1])


@pytest.mark.parametrize("options,message", [({"fold": 5}, "0 to 4"), ({"folds": 3, "fold": 3}, "0 to 2")])
def test_no_such_fold(options, message):
    parts = {"model": {"type": "mlp"}, "norm": {"type": "none"}, "optimizer": {"type": "adam", "learning_rate": 0.1}}
    with pytest.raises(ValueError, match=f"folds are numbered from {message}"):
        schema.Recipe(data={"source": "pbmc68k", **options}, **parts)


@pytest.mark.skipif(not genomics.Pbmc68k.package.installed_root(), reason="needs the PyPI package scanpy installed")
def test_real_cells():
    examples = sources.load(pbmc(fold=2))
    assert [len(examples.train), len(examples.validation), len(examples.test)] == [504, 56, 140]
    assert examples.classes == genomics.Pbmc68k.classes and examples.shape == (765,)
    assert not any(examples.repeated().values())
    assert len(set.union(*(rows(sources.load(pbmc(fold=number)).test) for number in range(5)))) == 700


@pytest.mark.parametrize(
    "data",
    [
        pbmc(folds=4),
        data_sections.BladderBatch(source="bladderbatch", genes=7),
        data_sections.BreastCancer(source="breast_cancer"),
    ],
)
def test_mock_data_has_the_shape_and_classes_of_the_real(data):
    examples = sources.mock(data, 12)
    source = sources._source(data)
    shape = {"pbmc68k": (765,), "bladderbatch": (7,), "breast_cancer": (30,)}[data.source]
    assert examples.shape == shape == examples.train.inputs.shape[1:] and examples.task == "classification"
    if data.source == "bladderbatch":
        assert len(examples.domains) == 4 and set(examples.train.domains) == {0, 1, 2, 3}
        assert (examples.test.domains == -1).all()
    if hasattr(source, "classes"):
        assert examples.classes == source.classes


def test_breast_cancer():
    examples = sources.load(data_sections.BreastCancer(source="breast_cancer"))
    assert [len(examples.train), len(examples.validation), len(examples.test)] == [398, 57, 114]
    assert examples.classes == ("malignant", "benign") and examples.shape == (30,)
    assert len(set.union(*map(rows, (examples.train, examples.validation, examples.test)))) == 569
