"""Run directories as a training leaves them, without one and by a real one; a browser to look at their pages."""

import contextlib
import fcntl
import json
import math
import random
from pathlib import Path

import pytest

from tests import programs

RECIPE = """\
name: images/digits_adaptive                       # recipes/images/digits_adaptive.yaml:1
title: Digits with the adaptive mixer              # recipes/images/digits_adaptive.yaml:2
task: classification                               # default
data:
  source: digits                                   # recipes/images/digits_adaptive.yaml:4
  batch_size: 64                                   # recipes/base/images.yaml:3
  augment: []                                      # default
model:
  type: resnet                                     # recipes/images/digits_adaptive.yaml:6
  depth: 8                                         # recipes/images/digits_adaptive.yaml:6
  width: 16                                        # recipes/images/digits_adaptive.yaml:6
norm:
  type: adaptive                                   # recipes/images/digits_adaptive.yaml:7
  alternative: layer                               # recipes/images/digits_adaptive.yaml:7
  balance: 8.0                                     # default
optimizer:
  type: sgd                                        # recipes/base/images.yaml:8
  learning_rate: 0.1                               # command line
  momentum: 0.9                                    # recipes/base/images.yaml:8
  weight_decay: 0.005                              # recipes/base/images.yaml:8
schedule:
  type: cosine                                     # recipes/base/images.yaml:9
  warmup_epochs: 2                                 # default
train:
  epochs: 15                                       # command line
  precision: auto                                  # default
  seed: 0                                          # default
"""

SUMMARY = {
    "recipe": "images/digits_adaptive",
    "title": "Digits with the adaptive mixer",
    "task": "classification",
    "status": "finished",
    "seed": 0,
    "smoke": False,
    "precision": "float32",
    "epochs": 15,
    "steps": 315,
    "best_epoch": 12,
    "keep": "best",
    "monitor": "val_accuracy",
    "metrics": {
        "train": {"loss": 0.0112, "accuracy": 1.0},
        "validation": {"loss": 0.0461, "accuracy": 0.993},
        "test": {"loss": 0.0823, "accuracy": 352 / 360},
    },
    "parameters": 77_402,
    "examples": {"train": 1294, "validation": 143, "test": 360},
    "seconds": 31.2,
    "classes": [str(digit) for digit in range(10)],
}

ENVIRONMENT = {
    "recorded": "2026-11-24 11:20:03 UTC",
    "versions": {
        "python": "3.11.2 (CPython)",
        "nrm_keras": "0.1.0",
        "tensorflow": "2.21.0",
        "keras": "3.15.1",
        "numpy": "2.2.6",
    },
    "machine": {"platform": "Linux-6.1-x86_64", "processor": "AMD EPYC", "processors": 2, "memory_gib": 23.5},
    "tensorflow": {
        "keras_backend": "tensorflow",
        "intra_op_threads": "automatic",
        "devices": [
            {"type": "CPU", "name": "CPU:0"},
            {"type": "GPU", "name": "NVIDIA L4", "compute_capability": "8.9"},
        ],
    },
    "variables": {"TF_CPP_MIN_LOG_LEVEL": "2"},
    "git": {
        "commit": "4f1c2b7e9d",
        "branch": "main",
        "dirty": True,
        "diff": "--- a/x.py\n+++ b/x.py\n-a = 1\n+a = 2\n",
    },
}

HEADER = "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds"


def metric_rows(epochs: int, seed: int = 0) -> list[str]:
    noise = random.Random(seed)
    rows = []
    for epoch in range(1, epochs + 1):
        loss = 2.2 * math.exp(-epoch / 3) + 0.01
        val_loss = 2.2 * math.exp(-epoch / 2.6) + 0.05 + noise.uniform(0, 0.02)
        rate = 0.05 * (1 + math.cos(math.pi * epoch / epochs))
        accuracy, val_accuracy = 1 - loss / 3, 1 - val_loss / 3
        rows.append(
            f"{epoch},{loss:.5f},{accuracy:.5f},{val_loss:.5f},{val_accuracy:.5f},{rate:.6g},{2 + noise.random():.3f}"
        )
    return rows


@pytest.fixture
def make_run(tmp_path):
    """Returns a function that writes a run directory; None leaves a file out."""

    def make(
        rows: list[str] | None = None,
        *,
        header: str = HEADER,
        summary: dict | str | None = SUMMARY,
        environment: dict | str | None = ENVIRONMENT,
        recipe: str = RECIPE,
        torn: str = "",
    ) -> Path:
        run = tmp_path / "runs/images/digits_adaptive/20261124-112003-1a2b3c"
        run.mkdir(parents=True)
        rows = metric_rows(15) if rows is None else rows
        (run / "recipe.yaml").write_text(recipe)
        (run / "command.txt").write_text("python -m nrm_keras run images/digits_adaptive train.epochs=15\n")
        (run / "log.txt").write_text("epoch 1/15  loss 1.5\nepoch 2/15  loss 1.1\n")
        if rows:
            (run / "metrics.csv").write_text("\r\n".join([header, *rows]) + "\r\n" + torn)
        for name, content in (("summary.json", summary), ("environment.json", environment)):
            if content is not None:
                (run / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return run

    return make


# every rule is quiet in this run: this threshold of one makes it speak
WATCHED = ["diagnostics.every=10", *(f"diagnostics.alerts.activation_scale.{one}" for one in ("threshold=0.5", "patience=1"))]


@pytest.fixture(scope="session")
def real_run(tmp_path_factory, worker_id) -> Path:
    """A run directory of two epochs by the real command, with statistics and alerts. To be read only: copy it."""
    root = tmp_path_factory.getbasetemp()
    # workers of pytest-xdist share one run
    root = (root if worker_id == "master" else root.parent) / "real_run"
    with _one_at_a_time(root.with_name("real_run.lock")):
        if not list(root.glob("images/*/*/summary.json")):
            command = ["run", "images/digits_adaptive", "train.epochs=2", *WATCHED, "--out", str(root)]
            programs.python("-m", "nrm_keras", *command)
    (run,) = root.glob("images/*/*")
    return run


@contextlib.contextmanager
def _one_at_a_time(lock: Path):
    with open(lock, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# not for the whole session: while Playwright runs, no other test could use asyncio
@pytest.fixture(scope="module")
def browser():
    browsing = pytest.importorskip("tests.report.browsing", reason="needs Playwright", exc_type=ImportError)
    if browsing.CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    yield from browsing.start()


@pytest.fixture
def visit(browser):
    """Returns a function that opens a page; at the end no page may have said, asked or requested anything."""
    from tests.report import browsing

    visits = []

    def open_page(path: Path, width: int = 1200, height: int = 900, scheme: str = "light") -> browsing.Visit:
        visits.append(browsing.visit(browser, path, width, height, scheme))
        return visits[-1]

    yield open_page
    noise = [line for seen in visits for line in seen.noise()]
    for seen in visits:
        seen.page.context.close()
    assert noise == []
