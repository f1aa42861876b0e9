"""Gene expression: blood cells of ten types, and bladder samples of five laboratory batches."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from nrm_keras.data import confounding
from nrm_keras.data.examples import Examples, Split, holdout
from nrm_keras.data.packages import Package, PackagedSource
from nrm_keras.data.tables import mock_table, require_finite
from nrm_keras.errors import UserError


class Pbmc68k(PackagedSource):
    """Single blood cells by the genes they express (Zheng et al. 2017)."""

    name = "pbmc68k"
    what = "700 blood cells, 765 genes, 10 cell types"
    size = "1.8 MB"
    licence = "BSD-3-Clause (scanpy)"
    package = Package(
        "PyPI",
        "scanpy",
        "1.11.5",
        {
            "scanpy/datasets/10x_pbmc68k_reduced.h5ad": (
                "e71d41e737c941559b7c57c9243bdb3d2c889c2adfdf00e3422ac6b46783676f"
            )
        },
        installed="scanpy",
    )
    classes = (
        "CD4+/CD25 T Reg",
        "CD4+/CD45RA+/CD25- Naive T",
        "CD4+/CD45RO+ Memory",
        "CD8+ Cytotoxic T",
        "CD8+/CD45RA+ Naive Cytotoxic",
        "CD14+ Monocyte",
        "CD19+ B",
        "CD34+",
        "CD56+ NK",
        "Dendritic",
    )

    @classmethod
    def load(cls, data, limit: int | None = None) -> Examples:
        path = cls.files()["10x_pbmc68k_reduced.h5ad"]
        cells, classes = read_cells(path)
        rest, test = fold(cells, data.fold or 0, data.folds, data.split_seed)
        train, validation = holdout(rest, data.validation, data.split_seed)
        return Examples(
            classes,
            train,
            validation,
            test,
            origin=str(path),
            shape=cells.inputs.shape[1:],
            notes=(
                f"Fold {data.fold or 0} of {data.folds} is the test split; a score is the mean over all folds.",
                (
                    "Inputs are log-normalized counts. The genes were chosen by the publisher as those that vary most, on"
                    " all cells, those of the test included."
                ),
            ),
            caveat="the cell types were themselves assigned by the expression of the same genes, so the score measures"
            f" agreement with that assignment; and the smallest type has {np.bincount(cells.labels).min()} cells.",
        )

    @classmethod
    def mock(cls, data, count: int) -> Examples:
        return mock_table(765, cls.classes, count)


class BladderBatch(PackagedSource):
    """Bladder samples measured in five laboratory batches (Dyrskjot et al. 2004; Leek et al. 2010)."""

    name = "bladderbatch"
    what = "57 bladder samples, 22,283 genes, cancer, normal or biopsy, 5 laboratory batches"
    size = "9.6 MB"
    licence = "Artistic-2.0"
    package = Package(
        "Debian",
        "r-bioc-bladderbatch",
        "1.36.0-1",
        {
            "usr/lib/R/site-library/bladderbatch/data/bladderdata.rda": (
                "f53a2f19116f03c2f2c3b71bb8a8803c760116bea73cfb2abaa83b56bf22fd3e"
            )
        },
        installed="/usr/lib/R/site-library/bladderbatch/data",
    )
    classes = ("biopsy", "cancer", "normal")

    @classmethod
    def load(cls, data, limit: int | None = None) -> Examples:
        path = cls.files()["bladderdata.rda"]
        samples = read_samples(path, cls.classes)
        return leave_one_batch_out(samples, cls.classes, data, str(path))

    @classmethod
    def mock(cls, data, count: int) -> Examples:
        return mock_table(data.genes, cls.classes, count, tuple(f"batch {number}" for number in range(1, data.folds)))


def fold(split: Split, number: int, folds: int, seed: int) -> tuple[Split, Split]:
    """The rest and fold `number` of a stratified partition of the examples into `folds`."""
    from sklearn.model_selection import StratifiedKFold

    parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(split.labels, split.labels)
    rest, held = list(parts)[number]
    return split.take(rest), split.take(held)


def leave_one_batch_out(samples: Split, classes: tuple[str, ...], data, origin: str) -> Examples:
    """Examples with one laboratory batch as the test split, and the genes that vary most in the training split.

    Args:
        samples: all samples, `domains` being the laboratory's number of each batch.
    """
    batches, table = confounding.crosstab(samples.domains, samples.labels, len(classes))
    held = batches[data.fold or 0]
    test = samples.take(samples.domains == held)
    train, validation = holdout(samples.take(samples.domains != held), data.validation, data.split_seed)
    genes = most_variable(train.inputs, data.genes)
    known = batches[batches != held]
    splits = {
        name: Split(split.inputs[:, genes], split.labels, domains=_index(split.domains, known))
        for name, split in {"train": train, "validation": validation, "test": test}.items()
    }
    names = tuple(f"batch {number}" for number in batches)
    return Examples(
        classes,
        **splits,
        origin=origin,
        shape=(len(genes),),
        domains=tuple(f"batch {number}" for number in known),
        notes=(
            (
                f"Batch {held} is held out as the test split; validation is drawn from the other batches, so it does not"
                " show what a new batch costs."
            ),
            f"{len(genes)} genes: those that vary most in the training split.",
            *confounding.in_words(names, table, classes, batches != held),
            *_of_the_test(held, test, classes),
        ),
        caveat=f"{len(samples)} samples in {len(batches)} laboratory batches that go with the class: no score here tells"
        " biology from laboratory, and what removes the one removes some of the other.",
    )


def _of_the_test(held, test: Split, classes: tuple[str, ...]) -> tuple[str, ...]:
    present = [classes[label] for label in np.unique(test.labels)]
    if len(present) == len(classes):
        return ()
    if len(present) == 1:
        meaning = "accuracy is the share of it that is recognized, and AUROC is not defined"
    else:
        meaning = f"AUROC is defined for {' and '.join(present)} only"
    only = f"Batch {held} has samples of {' and '.join(present)} only: {meaning}."
    return (f"{only} Pool the predictions of all folds for one score over all samples.",)


def most_variable(values: np.ndarray, count: int) -> np.ndarray:
    """Which `count` columns have the largest variance, in their own order."""
    order = np.argsort(-values.var(0, dtype="float64"), kind="stable")
    return np.sort(order[:count])


def _index(domains: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each domain's index among the known ones, -1 for any other."""
    found = np.minimum(np.searchsorted(known, domains), len(known) - 1)
    return np.where(known[found] == domains, found, -1).astype("int32")


def read_cells(path: Path) -> tuple[Split, tuple[str, ...]]:
    """Cells and the names of their types, from a .h5ad file as anndata wrote it before version 0.7.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    import h5py
    from scipy.sparse import csr_matrix

    try:
        with h5py.File(path) as file:
            raw, shape = file["raw.X"], file["raw.X"].attrs["h5sparse_shape"]
            parts = raw["data"][()], raw["indices"][()], raw["indptr"][()]
            genes = np.char.decode(file["raw.var"]["index"])
            classes = tuple(np.char.decode(file["uns/bulk_labels_categories"][()]).tolist())
            labels = file["obs"]["bulk_labels"].astype("int32")
        counts = csr_matrix(parts, tuple(shape))
        counts.check_format()
        values = counts.toarray().astype("float32")
        if values.shape != (len(labels), len(genes)) or not ((labels >= 0) & (labels < len(classes))).all():
            raise ValueError(
                f"{values.shape[0]}x{values.shape[1]} values for {len(labels)} cells and {len(genes)} genes,"
                f" labels {labels.min()} to {labels.max()} of {len(classes)} types"
            )
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{path}: a .h5ad file with raw.X, raw.var, obs and the types in uns is needed. Received: {error}."
            " Get the file again."
        ) from error
    require_finite(values, genes, str(path))
    return Split(values, labels), classes


def read_samples(path: Path, classes: tuple[str, ...]) -> Split:
    """Samples by genes, with the laboratory's number of each batch as the domain, from an R ExpressionSet.

    Raises:
        UserError: the file is damaged or holds something else, or the reader is not installed.
    """
    try:
        import rdata
    except ImportError as error:
        raise UserError(
            f"{path}: files of R are read with the package rdata. Received: {error}. pip install 'nrm_keras[data]'"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it knows no ExpressionSet and returns its slots: what is needed here
            expressions = rdata.read_rda(path, default_encoding="utf-8")["bladderEset"]
        values, about = expressions.assayData["exprs"], expressions.phenoData.data
        genes, inputs = values.coords["dim_0"].values, values.values.T.astype("float32")
        names, batches = [str(name).lower() for name in about["cancer"]], about["batch"].to_numpy("float64")
        if len(inputs) != len(names) or not set(names) <= set(classes) or (batches % 1 != 0).any():
            found = f"{', '.join(sorted(set(names)))} in batches {', '.join(map(str, np.unique(batches)))}"
            raise ValueError(f"{len(inputs)} samples; descriptions of {len(names)}: {found}")
    except Exception as error:  # rdata raises whatever its decoders do
        raise UserError(
            f"{path}: an R data file with the ExpressionSet bladderEset is needed."
            f" Received: {type(error).__name__}: {error}. Get the file again."
        ) from error
    require_finite(inputs, genes, str(path))
    labels = np.array([classes.index(name) for name in names], "int32")
    return Split(inputs, labels, domains=batches.astype("int32"))
