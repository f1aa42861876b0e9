"""Cells of a small study, what they leave behind, and a main process to kill: python study_cells.py EXECUTOR DIRECTORY CELL..."""

import csv
import json
import re
import sys
import time
import zipfile
from pathlib import Path

from nrm_keras.runs import directory
from nrm_keras.studies.executors import cluster, local
from nrm_keras.studies.outcome import Job

SMALL = {"data.limit": 100, "optimizer.learning_rate": 0.1}
OVERRIDES = {
    # what it leaves behind in its process would change the bits of cells behind it
    "watched": {
        **SMALL,
        "model": {"type": "mlp", "units": [8]},
        "train.epochs": 1,
        "train.deterministic": True,
        "train.precision": "mixed_bfloat16",
        "diagnostics": {"every": 1, "alerts": False, "channels": False},
    },
    "long": {
        **SMALL,
        "model": {"type": "mlp", "units": [8], "dropout": 0.2},
        "train.epochs": 12,
        "train.checkpoint_every": 3,
    },
    "broken": {"norm": {"type": "batch", "momentun": 0.9}},
}


def job(study: Path, cell: str) -> Job:
    return Job(str(study), cell, "images/digits_adaptive", OVERRIDES[cell], {})


def jobs(study: Path, cells=OVERRIDES) -> list[Job]:
    study.mkdir(exist_ok=True)
    return [job(study, cell) for cell in cells]


def wait_for(condition, seconds=120):
    """The first value of the condition that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "what is waited for never came"
        time.sleep(0.01)
    return value


def worker_at(study: Path, cell: str, place: str) -> int:
    """The worker that trains the cell, as soon as its log has come to this place; the log begins anew."""
    log = job(study, cell).folder / "log.txt"
    text = wait_for(lambda: log.exists() and place in (text := log.read_text()) and text)
    log.unlink()
    return int(re.findall(r"process (\d+)", text)[-1])


def bits(study: Path, cell: str) -> dict:
    """All of a cell's results but for times and memory addresses."""
    (run,) = directory.find_all(job(study, cell).folder)  # a cell that goes on, or begins again, leaves no second one
    with open(run / directory.METRICS, newline="") as file:
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    summary = json.loads((run / directory.SUMMARY).read_text())
    del summary["seconds"]
    with zipfile.ZipFile(run / directory.MODEL) as archive:
        weights = archive.read("model.weights.h5")
    statistics = run / directory.STATISTICS
    records = [json.loads(line) for line in statistics.read_text().splitlines()] if statistics.exists() else []
    return {
        "rows": rows,
        "summary": summary,
        "weights": weights,
        "statistics": [record for record in records if record["kind"] != "cost"],
    }


if __name__ == "__main__":
    executor, study, *cells = sys.argv[1:]
    run = {"local": local.run, "ray": lambda *arguments: cluster.run(arguments[0], None, *arguments[1:])}[executor]
    run(jobs(Path(study), cells), 1, lambda event: print(*event, flush=True))
