"""Leaving one laboratory batch out."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from nrm_keras.data import genomics, sources
from nrm_keras.data.confounding import cramers_v
from nrm_keras.data.examples import Split
from nrm_keras.errors import UserError
from nrm_keras.recipe.sections import data as data_sections
from tests.data.r_files import write_samples

needs_rdata = pytest.mark.skipif(not find_spec("rdata"), reason="needs rdata: pip install 'nrm_keras[data]'")


def rows(split):
    return {row.tobytes() for row in split.inputs}


def bladder(**options):
    return data_sections.BladderBatch(source="bladderbatch", **{"genes": 4, **options})


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


@needs_rdata
@pytest.mark.skipif(
    not genomics.BladderBatch.package.installed_root(), reason="needs the Debian package r-bioc-bladderbatch"
)
def test_real_samples():
    examples = sources.load(bladder(fold=0, genes=2000))
    assert examples.shape == (2000,) and len(examples.test) == 11
    assert "batch 5: 4, 15, 0" in " ".join(examples.notes)


VALUES = np.array([[1.5, 2, 3], [4, 5, 6]])


@needs_rdata
def test_samples_are_read_from_a_file_of_r(tmp_path):
    read = genomics.read_samples(write_samples(tmp_path / "s.rda", VALUES), CLASSES)
    assert read.inputs.dtype == "float32" and read.inputs.tolist() == VALUES.T.tolist()
    assert read.labels.tolist() == [1, 2, 0] and read.domains.tolist() == [3, 2, 2]


@needs_rdata
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


@needs_rdata
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
