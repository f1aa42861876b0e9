import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats.contingency import association

from nrm_keras.data import genomics, sources
from nrm_keras.data.confounding import cramers_v, crosstab
from nrm_keras.data.examples import Split
from nrm_keras.errors import UserError
from nrm_keras.recipe import schema

rdata = pytest.importorskip("rdata", reason="needs rdata: pip install 'nrm_keras[data]'")


def needs(source):
    return pytest.mark.skipif(not source.package.installed_root(), reason=f"needs the {source.package} installed")


def rows(split):
    return {row.tobytes() for row in split.inputs}


# Blood cells ---------------------------------------------------------------------------------------------------------


def pbmc(**options):
    return schema.Pbmc68k(source="pbmc68k", **options)


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


@needs(genomics.Pbmc68k)
def test_real_cells():
    examples = sources.load(pbmc(fold=2))
    assert [len(examples.train), len(examples.validation), len(examples.test)] == [504, 56, 140]
    assert examples.classes == genomics.Pbmc68k.classes and examples.shape == (765,)
    assert not any(examples.repeated().values())
    assert len(set.union(*(rows(sources.load(pbmc(fold=number)).test) for number in range(5)))) == 700


# Confounding ---------------------------------------------------------------------------------------------------------


def test_the_association_without_bias_is_scipys():
    table = np.array([[10, 3, 1], [2, 9, 4], [0, 5, 16], [7, 7, 7]])
    # with many samples nothing is left to correct
    assert cramers_v(table * 10**7) == pytest.approx(association(table, "cramer"), abs=1e-6)
    assert cramers_v(table) < association(table, "cramer")


def test_association_of_the_extremes():
    assert cramers_v(np.diag([3, 4, 5])) == pytest.approx(1)  # one determines the other
    assert cramers_v(np.outer([1, 2, 3], [4, 5])) == 0  # independent
    assert cramers_v(np.array([[3, 4, 5]])) == 0  # a single batch
    assert cramers_v(np.array([[3, 0], [0, 4], [0, 0]])) == pytest.approx(1)  # an empty batch is none


def test_independent_samples_are_not_associated_on_average():
    chance = np.random.default_rng(0)
    labels, domains = chance.integers(0, 3, (400, 57)), chance.integers(0, 5, (400, 57))
    tables = [crosstab(d, c, 3)[1] for d, c in zip(domains, labels, strict=True)]
    corrected, plain = np.mean([cramers_v(t) for t in tables]), np.mean([association(t, "cramer") for t in tables])
    assert corrected < 0.1 < plain  # 57 samples look associated by chance alone


def test_crosstab_counts_pairs():
    names, table = crosstab(np.array([5, 2, 2, 5]), np.array([0, 1, 1, 2]), 3)
    assert names.tolist() == [2, 5] and table.tolist() == [[0, 2, 0], [1, 0, 1]]


# Laboratory batches --------------------------------------------------------------------------------------------------


def bladder(**options):
    return schema.BladderBatch(source="bladderbatch", **{"genes": 4, **options})


CLASSES = genomics.BladderBatch.classes
# as many samples of each batch and class as there are, with numbers of their own for the batches
COUNTS = {10: (0, 11, 0), 20: (0, 14, 4), 30: (0, 0, 4), 40: (5, 0, 0), 50: (4, 15, 0)}


def samples(genes=12, seed=0):
    pairs = [(batch, label) for batch, counts in COUNTS.items() for label, n in enumerate(counts) for _ in range(n)]
    domains, labels = np.array(pairs, "int32").T
    chance = np.random.default_rng(seed)
    return Split(chance.normal(size=(57, genes)).astype("float32") * np.arange(1, genes + 1), labels, domains=domains)


def left_out(data, of=None):
    return genomics.leave_one_batch_out(of or samples(), CLASSES, data, "made up")


@pytest.mark.parametrize("number", range(5))
def test_one_batch_is_the_test_and_no_other_split_has_it(number):
    everything, batch = samples(), list(COUNTS)[number]
    examples = left_out(bladder(fold=number, genes=12), everything)
    assert rows(examples.test) == rows(everything.take(everything.domains == batch))
    assert (examples.test.domains == -1).all()
    assert len(examples.train) + len(examples.validation) + len(examples.test) == 57
    assert len(set.union(*map(rows, (examples.train, examples.validation, examples.test)))) == 57
    of_row = dict(zip((row.tobytes() for row in everything.inputs), everything.domains, strict=True))
    for split in (examples.train, examples.validation):
        names = [examples.domains[index] for index in split.domains]
        assert names == [f"batch {of_row[row.tobytes()]}" for row in split.inputs]
    assert set(examples.train.labels) == {0, 1, 2} and set(examples.train.domains) == {0, 1, 2, 3}
    assert examples.domains == tuple(f"batch {name}" for name in COUNTS if name != batch)
    assert examples.fingerprint() != left_out(bladder(fold=(number + 1) % 5)).fingerprint()


def test_genes_are_chosen_on_the_training_split_alone():
    data = bladder(fold=1, validation=0.2)
    first = left_out(data, samples(40))
    changed = samples(40)
    used = {row.tobytes() for row in first.train.inputs}
    changed.inputs[changed.domains == 20] *= 1e3
    changed.inputs[changed.domains == 20, 0] += 1e6 * np.arange(18)
    second = left_out(data, changed)
    assert rows(second.train) == used and rows(second.validation) == rows(first.validation)
    # the other way round the choice does move: the test can fail
    changed = samples(40)
    changed.inputs[changed.domains != 20, 0] *= 1e4
    assert rows(left_out(data, changed).train) != used


def test_most_variable_keeps_the_order_of_the_genes():
    values = np.array([[0, 0, 0, 0], [1, 9, 0, 4]])
    assert genomics.most_variable(values, 2).tolist() == [1, 3]
    assert genomics.most_variable(values, 9).tolist() == [0, 1, 2, 3]


def test_what_is_said_of_the_batches():
    said = " ".join(left_out(bladder(fold=3)).notes)
    table = np.array(list(COUNTS.values()))
    # 11 + 14 + 4 + 5 + 15 samples are of their batch's commonest class
    assert "right for 49 of 57 samples" in said and "right for 40" in said
    assert f"Cramer's V {cramers_v(table):.2f} over all batches" in said
    assert f"{cramers_v(table[[0, 1, 2, 4]]):.2f} over those of training" in said
    assert "Batch 40 has samples of biopsy only" in said and "AUROC is not defined" in said
    assert "AUROC is defined for cancer and normal only" in " ".join(left_out(bladder(fold=1)).notes)


@needs(genomics.BladderBatch)
def test_real_samples():
    examples = sources.load(bladder(fold=0, genes=2000))
    assert examples.shape == (2000,) and len(examples.test) == 11
    assert "batch 5: 4, 15, 0" in " ".join(examples.notes)


# Files of R: the serialization of R's own manual, "R Internals", section 1.8 -------------------------------------------

NULL, GLOBAL = struct.pack(">i", 254), struct.pack(">i", 253)
_SYMBOL, _PAIR, _ENVIRONMENT, _CHAR, _INT, _REAL, _STR, _LIST, _S4 = 1, 2, 4, 9, 13, 14, 16, 19, 25


def item(kind, content, attributes=None, is_object=False):
    flags = kind | is_object << 8 | (attributes is not None) << 9
    if kind == _S4:
        return struct.pack(">i", flags | 1 << 16) + pairs(attributes)
    return struct.pack(">i", flags) + content + (pairs(attributes) if attributes is not None else b"")


def char(text):
    return struct.pack(">ii", _CHAR | 64 << 12, len(text)) + text.encode()


def pairs(values):
    tag = struct.pack(">i", _PAIR | 1 << 10)
    return b"".join(tag + struct.pack(">i", _SYMBOL) + char(name) + value for name, value in values.items()) + NULL


def vector(kind, parts, **options):
    return item(kind, struct.pack(">i", len(parts)) + b"".join(parts), **options)


def text(*values):
    return vector(_STR, [char(value) for value in values])


def numbers(values, **options):
    return vector(_REAL, [struct.pack(">d", value) for value in values], **options)


def integers(values, **options):
    return vector(_INT, [struct.pack(">i", value) for value in values], **options)


def expression_set(values, cancer, batch):
    """What R's save() writes for a Biobase ExpressionSet, reduced to the slots with content; values: genes by samples."""
    genes, names = [f"gene{i}" for i in range(len(values))], [f"s{i}" for i in range(values.shape[1])]
    dimensions = {"dim": integers(values.shape), "dimnames": vector(_LIST, [text(*genes), text(*names)])}
    table = vector(_LIST, [pairs({"exprs": numbers(values.T.ravel(), attributes=dimensions)})])
    assays = struct.pack(">ii", _ENVIRONMENT, 0) + GLOBAL + NULL + table + NULL
    levels = sorted(set(cancer))
    factor = integers(
        [1 + levels.index(name) for name in cancer],
        attributes={"levels": text(*levels), "class": text("factor")},
        is_object=True,
    )
    frame = vector(
        _LIST,
        [numbers(batch), factor],
        attributes={"names": text("batch", "cancer"), "row.names": text(*names), "class": text("data.frame")},
        is_object=True,
    )
    about = item(_S4, b"", {"data": frame, "class": text("AnnotatedDataFrame")}, True)
    slots = {"assayData": assays, "phenoData": about, "class": text("ExpressionSet")}
    return item(_S4, b"", slots, True)


def write_samples(path, values, cancer=("Cancer", "Normal", "Biopsy"), batch=(3, 2, 2), name="bladderEset"):
    content = pairs({name: expression_set(values, cancer, batch)})
    path.write_bytes(b"RDX2\nX\n" + struct.pack(">iii", 2, 0x030200, 0x020300) + content)
    return path


VALUES = np.array([[1.5, 2, 3], [4, 5, 6]])


def test_samples_are_read_from_a_file_of_r(tmp_path):
    read = genomics.read_samples(write_samples(tmp_path / "s.rda", VALUES), CLASSES)
    assert read.inputs.dtype == "float32" and read.inputs.tolist() == VALUES.T.tolist()
    assert read.labels.tolist() == [1, 2, 0] and read.domains.tolist() == [3, 2, 2]


@pytest.mark.parametrize(
    "change,message",
    [
        ({"values": np.array([[1, 2, 3], [4, np.nan, 6]])}, "1 NaN or infinite values, in gene1"),
        ({"cancer": ("Cancer", "Normal", "Benign")}, "benign, cancer, normal in batches"),
        ({"batch": (1, 2, np.nan)}, "in batches 1.0, 2.0, nan"),
        ({"name": "otherEset"}, "bladderEset"),
    ],
)
def test_damaged_samples_are_named(tmp_path, change, message):
    path = write_samples(tmp_path / "s.rda", **{"values": VALUES, **change})
    with pytest.raises(UserError, match=message):
        genomics.read_samples(path, CLASSES)


def test_cut_off_file_of_r(tmp_path):
    path = write_samples(tmp_path / "s.rda", VALUES)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="Get the file again"):
        genomics.read_samples(path, CLASSES)


def test_without_the_reader_the_error_names_the_extra(tmp_path):
    path = write_samples(tmp_path / "s.rda", VALUES)
    code = (
        "import sys; sys.modules['rdata'] = None\n"
        "from nrm_keras.data import genomics; from nrm_keras.errors import UserError; from pathlib import Path\n"
        f"try: genomics.read_samples(Path({str(path)!r}), genomics.BladderBatch.classes)\n"
        "except UserError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'nrm_keras[data]'" in said


# Data that is not here -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [pbmc(folds=4), bladder(genes=7), schema.BreastCancer(source="breast_cancer")])
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
    examples = sources.load(schema.BreastCancer(source="breast_cancer"))
    assert [len(examples.train), len(examples.validation), len(examples.test)] == [398, 57, 114]
    assert examples.classes == ("malignant", "benign") and examples.shape == (30,)
    assert len(set.union(*map(rows, (examples.train, examples.validation, examples.test)))) == 569
