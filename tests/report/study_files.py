"""A study's directory as a launch leaves it, without training: numbers are made up, files are not."""

import json
import math
from pathlib import Path

from nrm_keras.studies.outcome import Outcome
from nrm_keras.studies.schema import Study
from nrm_keras.studies.store import Store
from tests.report.conftest import ENVIRONMENT, RECIPE, SUMMARY

ERRORS = {"batch": {"2": 0.25, "16": 0.07, "256": 0.06}, "group": {"2": 0.06, "16": 0.06, "256": 0.065}}
STUDY = {
    "title": "Batch size",
    "claim": "BatchNorm's error rises when batches get small.",
    "source": "Wu & He 2018",
    "recipe": "images/digits_adaptive",
    "overrides": {"train": {"epochs": 3}},
    "grid": {
        "norm": {norm: {"norm": {"type": norm}} for norm in ERRORS},
        "batch_size": {size: {"data": {"batch_size": int(size)}} for size in ERRORS["batch"]},
    },
    "seeds": (0, 1, 2, 3),
    "measurements": {
        "error": {"metric": "test.error", "unit": "share", "title": "test error"},
        "loss": {"metric": "test.loss"},
    },
    "claims": {
        "small": {
            "statement": "at batch 2 BatchNorm errs more",
            "measurement": "error",
            "compare": {"norm": "batch", "batch_size": "2"},
            "to": {"norm": "group", "batch_size": "2"},
            "expect": "greater",
            "smallest_effect": 0.01,
        },
        "large": {
            "statement": "at batch 256 BatchNorm errs more",
            "measurement": "error",
            "compare": {"norm": "batch", "batch_size": "256"},
            "to": {"norm": "group", "batch_size": "256"},
            "expect": "greater",
            "smallest_effect": 0.05,
        },
        "floor": {
            "statement": "the loss is 0.4",
            "measurement": "loss",
            "compare": {},
            "to": 0.4,
            "expect": "equal",
            "smallest_effect": 0.001,
        },
    },
}
FAILED = "Traceback (most recent call last):\nMemoryError: <script>alert(1)</script>"


def make(root: Path, *, failed=(), diverged=(), left_out=(), smoke=False, name="batch_size", **changes) -> Path:
    """Writes the directory.

    Args:
        root: where studies are.
        failed, diverged, left_out: names of cells that failed, that diverged, that are not trained.
        smoke, name: of the study.
        changes: sections in place of those of STUDY.
    """
    store = Store.create(root / name, name, Study.model_validate({**STUDY, **changes}), smoke)
    for index, cell in enumerate(store.cells):
        if cell.name in left_out:
            continue
        folder = store.folder(cell.name)
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text(FAILED if cell.name in failed else "trained\n")
        run = None if cell.name in failed else _run(folder, cell, index, cell.name in diverged)
        status = "failed" if cell.name in failed else "diverged" if cell.name in diverged else "finished"
        path = str(run.relative_to(store.path)) if run else None
        error = FAILED if cell.name in failed else ""
        Outcome(cell.name, status, path, {}, 12.5, 12.0, 1, 100 + index % 2, "local", error).write(folder)
    Store(store.path).write()
    return store.path


def _run(folder: Path, cell, index: int, diverged: bool) -> Path:
    run = folder / f"run/images/digits_adaptive/20261127-1200{index:02}-abcdef"
    run.mkdir(parents=True)
    norm, size = (cell.levels.get(factor) for factor in ("norm", "batch_size"))
    error = ERRORS.get(norm, ERRORS["batch"]).get(size, 0.1) * (1 + 0.1 * math.sin(7 * index)) + 0.01 * cell.seed
    test = {"error": error, "accuracy": 1 - error, "loss": None if diverged else 4 * error}
    summary = {**SUMMARY, "seed": cell.seed, "metrics": {"test": test}}
    files = {"summary.json": summary, "environment.json": ENVIRONMENT}
    for name, content in files.items():
        (run / name).write_text(json.dumps(content))
    (run / "recipe.yaml").write_text(RECIPE)
    (run / "report.html").write_text("<title>a run</title>")
    return run
