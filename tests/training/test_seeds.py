"""Several seeds in processes of their own, as a user starts and stops them."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import h5py
import numpy as np
import pytest

from nrm_keras.data import sources
from nrm_keras.recipe.loading import load
from nrm_keras.runs import directory, environment
from nrm_keras.training import earlier, launch

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
    """The bits of each weight; the file around them counts the layers that a process has made."""
    with zipfile.ZipFile(path / directory.MODEL) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    found = {}
    with h5py.File(content) as file:
        file.visititems(lambda name, one: found.update({name: one[()].tobytes()} if hasattr(one, "dtype") else {}))
    assert len(found) > 5
    return found


def test_seeds_are_single_runs_and_are_reused(folder):
    """Of two recipes with two seeds, the first one was trained before, by itself."""
    for changes in (["train.seed=1"], ["train.seed=1", "norm.type=batch"]):
        launch.run(folder / "mine.yaml", changes, out=folder / "runs", say=lambda line: None)
    status, output = run(folder, "--seeds", "1,3", "--against", "norm.type=batch", "train.epochs=2")
    assert status == 0, output
    lines, found = output.splitlines(), {}
    for path in runs(folder):
        recipe = load(path / directory.RECIPE).recipe
        found[recipe.norm.type, recipe.train.seed] = path
    assert len(runs(folder)) == len(found) == 4
    said = [line for line in lines if line.startswith("Seed ")]
    titles = ("mine.yaml train.epochs=2", "mine.yaml train.epochs=2 norm.type=batch")
    for title, norm, lines_of_both in zip(titles, ("adaptive", "batch"), (said[:2], said[2:]), strict=True):
        taken = found[norm, 1].relative_to(folder)
        assert lines_of_both == [
            f"Seed 1 of 2: {title} train.seed=1 is trained already, in {taken}",
            f"Seed 2 of 2: {title} train.seed=3",
        ]
    first = next(index for index, line in enumerate(lines) if line.startswith("Run directory"))
    assert lines.index(said[1]) < first, "our lines must stand before those of the process"

    one, three = (directory.summary(found["adaptive", seed])["metrics"]["test"]["loss"] for seed in (1, 3))
    table = lines[lines.index(f"Test data, {titles[0]}:") + 1 :]
    printed = {line.split("  ")[0]: float(line.split()[-1]) for line in table[1:4]}
    assert printed == pytest.approx({"1": one, "3": three, "mean": (one + three) / 2}, rel=1e-3)
    others = [directory.summary(found["batch", seed])["metrics"]["test"]["loss"] for seed in (1, 3)]
    below = lines[lines.index("The first minus the second, seed by seed:") :]
    row = next(line.split() for line in below if line.startswith("loss"))
    assert float(row[3]) == pytest.approx((one + three - sum(others)) / 2, rel=1e-2)

    # the bits are those of a single run
    launch.run(folder / "mine.yaml", ["train.seed=3"], out=folder / "single", say=lambda line: None)
    (single,) = directory.find_all(folder / "single")
    assert weights(single) == weights(found["adaptive", 3]) != weights(found["adaptive", 1])


def wait_for(condition, process):
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.01)


def stop(process, send):
    """What the command said that was stopped."""
    send(process)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in output, output
    return output


def test_stopped_seeds_go_on_with_the_same_command(folder):
    arguments = ("--seeds", "0,1", "train.epochs=400")
    process = start(folder, *arguments)
    wait_for(lambda: list(folder.glob("runs/mine/2*/metrics.csv")), process)
    output = stop(process, lambda process: os.killpg(process.pid, signal.SIGINT))
    command = "python -m nrm_keras run mine.yaml train.epochs=400 --seeds 0,1"
    assert output.splitlines()[-1] == f"Stopped at seed 1 of 2. The same command goes on: {command}"
    (path,) = runs(folder)
    assert directory.summary(path) is None and (path / "checkpoints" / "state.npz").exists()

    # SIGTERM goes to one process, which passes it on to the one that trains
    process = start(folder, *arguments)
    wait_for(lambda: "Resuming at epoch" in (path / directory.LOG).read_text(), process)
    output = stop(process, subprocess.Popen.terminate)
    assert f"goes on in runs/mine/{path.name}" in output and runs(folder) == [path]


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
        "data": {"origin": "here", "fingerprint": sources.load(loaded.recipe.data).fingerprint()},
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


def test_a_seed_that_fails_ends_the_command(finished, folder):
    """Another process trains in the run that the first seed would go on with."""
    _, path, _ = finished
    (path / directory.SUMMARY).unlink()
    with directory.lock(path):
        status, output = run(folder, "--seeds", "1,2", "--out", ".")
    assert status == 2 and "Traceback" not in output, output
    assert "every seed must be trained. Received: exit status 2, see above." in output.splitlines()[-1]
    assert "one process at a time" in output and "Seed 2" not in output
