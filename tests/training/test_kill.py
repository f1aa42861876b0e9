"""A real training process, killed with SIGKILL again and again, ends with the bits of one that never was."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np

from nrm_keras.runs import directory

RECIPE = """\
title: everything that has a state
data: {source: digits, batch_size: 48, augment: [crop]}
model: {type: mlp, units: [32, 16], dropout: 0.2}
norm: {type: adaptive}
optimizer: {type: adam, learning_rate: 1e-2}
train: {epochs: 12, precision: mixed_float16, checkpoint_every: 4}
callbacks:
  - {type: reduce_lr_on_plateau, patience: 0, factor: 0.7, min_delta: 0.05}
  - {type: early_stopping, patience: 2, min_delta: 0.03, restore_best_weights: true}
"""


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "nrm_keras", "run", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def only_run(out):
    (run,) = directory.find_all(out)
    return run


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "the moment to kill never came"
        time.sleep(0.0005)


def inode(path):
    """Which file stands there; None while there is none: between the two renames of a save, for a moment."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def results(run):
    with open(run / "metrics.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    summary = json.loads((run / "summary.json").read_text())
    del summary["seconds"]
    with zipfile.ZipFile(run / "checkpoints" / "model.keras") as archive:
        weights = archive.read("model.weights.h5")
    with np.load(run / "checkpoints" / "state.npz") as state:
        arrays = {name: state[name].tobytes() for name in state.files if name != "json"}
    return rows, summary, weights, arrays


def test_killed_ten_times_and_resumed_bit_for_bit(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    reference = start(recipe, "--out", tmp_path / "whole")
    process = start(recipe, "--out", tmp_path / "killed")
    wait_for(lambda: any((run / "log.txt").exists() for run in directory.find_all(tmp_path / "killed")), process)
    run = only_run(tmp_path / "killed")
    state = run / "checkpoints" / "state.npz"
    chance = random.Random(0)
    killed_in = []
    for saves in (0, 1, 2, 1, 3, 6, 2, 7, 5, 3):  # how many checkpoints this process may write before it dies
        for _ in range(saves):
            before = inode(state)
            wait_for(lambda before=before: inode(state) not in (None, before), process)
        time.sleep(chance.uniform(0, 0.04))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (run / "summary.json").exists(), "killed too late to show anything"
        metrics = run / "metrics.csv"
        killed_in.append(len(metrics.read_text().splitlines()) if metrics.exists() else 0)
        process = start("--resume", run)
    output = finish(process)
    finish(reference)
    assert "Resuming at epoch" in output
    assert len(set(killed_in)) >= 4, f"the kills should hit several epochs: {killed_in}"
    rows, summary, weights, arrays = results(run)
    expected_rows, expected_summary, expected_weights, expected_arrays = results(only_run(tmp_path / "whole"))
    assert rows == expected_rows
    assert summary == expected_summary
    assert arrays == expected_arrays
    assert weights == expected_weights
    assert summary["status"] == "stopped early" and len({row["learning_rate"] for row in rows}) > 1
