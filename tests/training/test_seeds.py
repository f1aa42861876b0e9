"""Several seeds in processes of their own, as a user starts and stops them."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from nrm_keras.recipe.loading import load
from nrm_keras.runs import directory, environment
from nrm_keras.training import earlier

RECIPE = """\
data: {source: npz, path: data.npz, batch_size: 16}
model: {type: mlp, units: [8]}
norm: {type: adaptive}
optimizer: {type: adam, learning_rate: 1e-2}
train: {epochs: 2}
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a recipe of a second, and its data."""
    chance = np.random.default_rng(0)
    y = np.arange(96) % 3
    x = chance.integers(0, 100, (96, 4, 4, 1)) + 50 * y[:, None, None, None]
    np.savez(tmp_path / "data.npz", x=x.astype("uint8"), y=y)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "nrm_keras", "run", "mine.yaml", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a terminal of its own, so that Ctrl-C reaches its processes and not the tests
    )


def run(folder, *arguments):
    process = start(folder, *arguments)
    output, _ = process.communicate(timeout=200)
    return process.returncode, output


def runs(folder):
    return directory.find_all(folder / "runs")


def weights(path):
    with zipfile.ZipFile(path / directory.MODEL) as archive:
        return archive.read("model.weights.h5")


def test_seeds_are_single_runs_and_are_reused(folder):
    status, output = run(folder, "--seeds", "3", "--against", "norm.type=batch")
    assert status == 0, output
    lines = output.splitlines()
    assert [line for line in lines if line.startswith("Seed ")] == [
        "Seed 1 of 1: mine.yaml train.seed=3",
        "Seed 1 of 1: mine.yaml norm.type=batch train.seed=3",
    ]
    assert lines[0].startswith("Seed "), "our lines must stand before those of the process"
    assert "Test data, mine.yaml:" in lines and "Test data, mine.yaml norm.type=batch:" in lines
    (row,) = [line for line in lines if line.startswith("loss")]
    assert row.endswith("none (one seed)")

    # what was trained is taken as it is, and another seed joins it
    before = runs(folder)
    status, output = run(folder, "--seeds", "1,3", "train.epochs=2")
    assert status == 0 and output.count("is trained already") == 1, output
    new = [path for path in runs(folder) if path not in before]
    assert len(new) == 1 and load(new[0] / directory.RECIPE).recipe.train.seed == 1
    losses = {}
    for path in runs(folder):
        recipe = load(path / directory.RECIPE).recipe
        losses[recipe.norm.type, recipe.train.seed] = directory.summary(path)["metrics"]["test"]["loss"]
    column = output.splitlines()[output.splitlines().index("Test data, mine.yaml train.epochs=2:") + 1 :]
    printed = {line.split("  ")[0]: float(line.split()[-1]) for line in column[1:4]}
    one, three = losses["adaptive", 1], losses["adaptive", 3]
    assert printed == pytest.approx({"1": one, "3": three, "mean": (one + three) / 2}, rel=1e-3)

    # the bits are those of a single run
    assert run(folder, "train.seed=1", "--out", "single")[0] == 0
    (single,) = directory.find_all(folder / "single")
    assert weights(single) == weights(new[0])


def wait_for(condition, process):
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.01)


def stop(folder, process, send):
    """The run directory that was stopped in, and what the command said."""
    wait_for(lambda: list(folder.glob("runs/mine/2*/metrics.csv")), process)
    send(process)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in output, output
    (path,) = runs(folder)
    assert directory.summary(path) is None and (path / "checkpoints" / "state.npz").exists()
    return path, output


def test_a_stopped_seed_goes_on_with_the_same_command(folder):
    arguments = ("--seeds", "0", "train.epochs=30")
    path, output = stop(folder, start(folder, *arguments), lambda process: os.killpg(process.pid, signal.SIGINT))
    command = "python -m nrm_keras run mine.yaml train.epochs=30 --seeds 0"
    assert output.splitlines()[-1] == f"Stopped at seed 1 of 1. The same command goes on: {command}"
    status, output = run(folder, *arguments)
    assert status == 0 and f"goes on in runs/mine/{path.name}" in output and "Resuming at epoch" in output, output
    assert runs(folder) == [path] and directory.summary(path)["epochs"] == 30


def test_sigterm_reaches_the_training(folder):
    stop(folder, start(folder, "--seeds", "0,1", "train.epochs=400"), subprocess.Popen.terminate)


def test_a_seed_that_fails_ends_the_command(folder):
    np.savez(folder / "data.npz", x=np.zeros((4, 2)))
    status, output = run(folder, "--seeds", "0,1")
    assert status == 2 and "Traceback" not in output, output
    assert "every seed must be trained. Received: exit status 2, see above." in output.splitlines()[-1]
    assert "Seed 2" not in output and runs(folder) == []


def test_seeds_can_be_tried_with_a_smoke_test(folder):
    status, output = run(folder, "--seeds", "0", "--smoke")
    assert status == 0 and "Test data, mine.yaml:" in output, output
    (path,) = runs(folder)
    assert directory.summary(path)["smoke"] is True


# What is reused ------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(folder):
    """A run as one leaves it: (recipe, run directory, function that changes its environment)."""
    loaded = load(folder / "mine.yaml", ["train.seed=1"])
    facts = {
        "run": {"recipe": "mine", "smoke": False},
        "versions": environment.versions(),
        "git": environment.git_state(),
        "data": {"origin": "here", "fingerprint": earlier._data(loaded)},
    }
    files = {directory.RECIPE: loaded.to_yaml(origin=True), directory.ENVIRONMENT: json.dumps(facts)}
    path = directory.create(folder, "mine", {**files, directory.SUMMARY: '{"epochs": 2}'})
    return loaded, path, lambda **changes: directory.record(path, changes)


def test_the_same_is_found(finished, folder):
    loaded, path, _ = finished
    assert earlier.find(folder, loaded) == (path, "")
    assert earlier.find(folder, load(folder / "mine.yaml", ["train.seed=2"])) == (None, "")
    assert earlier.find(folder, load(folder / "mine.yaml", ["train.seed=1", "norm.balance=9"])) == (None, "")


def test_a_finished_run_comes_before_a_newer_one_that_is_not(finished, folder):
    loaded, path, _ = finished
    newer = directory.create(folder, "mine", {f: (path / f).read_text() for f in ("recipe.yaml", "environment.json")})
    assert newer.name > path.name and earlier.find(folder, loaded) == (path, "")
    (path / directory.SUMMARY).unlink()
    assert earlier.find(folder, loaded) == (newer, "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"versions": {**environment.versions(), "keras": "3.0"}}, "was made with keras 3.0; here is"),
        ({"versions": {}}, "of unknown version"),
        ({"git": {"commit": "abc", "diff": ""}}, "another state of this package's code"),
        ({"data": {"origin": "here", "fingerprint": "other"}}, "saw other data"),
    ],
)
def test_other_code_or_data_is_not_and_it_says_why(finished, folder, changes, reason):
    loaded, _, change = finished
    change(**changes)
    found, why = earlier.find(folder, loaded)
    assert found is None and reason in why


def test_changed_data_under_the_same_name_is_not(finished, folder):
    np.savez(folder / "data.npz", x=np.ones((96, 4, 4, 1), "uint8"), y=np.arange(96) % 3)
    found, why = earlier.find(folder, finished[0])
    assert found is None and "saw other data" in why


def test_smoke_tests_and_damaged_runs_are_not(finished, folder):
    loaded, path, change = finished
    change(run={"recipe": "mine", "smoke": True})
    assert earlier.same_recipe(path, loaded, smoke=True) and not earlier.same_recipe(path, loaded)
    assert earlier.find(folder, loaded) == (None, "")
    (path / directory.ENVIRONMENT).write_text("{")
    assert earlier.find(folder, loaded) == (None, "")
