"""Studies that train: small ones, stopped and begun again; one that fails in places."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import nrm_keras
from nrm_keras.errors import UserError
from nrm_keras.studies import launch, planning, summary
from nrm_keras.studies.store import NOT_JUDGED, Store

# a class that the digits don't have: found when the data are read
BROKEN = {"grid": {"norm": {"broken": {"train": {"class_weights": {"nobody": 1.0}}}}}, "seeds": [0, 1]}
COMMAND = [sys.executable, "-u", "-m", "nrm_keras", "study", "tiny.yaml", "--workers", "1"]


def start(*options, cwd):
    environment = {**os.environ, "PYTHONPATH": str(Path(nrm_keras.__file__).parents[1])}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([*COMMAND, *options], cwd=cwd, env=environment, text=True, **streams)


def test_a_study_is_stopped_and_goes_on_and_cells_that_fail_do_not_stop_it(write, tmp_path):
    write(BROKEN)
    process = start(cwd=tmp_path)
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("[1/6]"):
            process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert "this goes on: python -m nrm_keras study tiny.yaml --workers 1\n" in said[-1]
    before = Store(tmp_path / "studies/tiny")
    done = {cell for cell in before.results() if before.done(cell)}
    assert done and f"Stopped. {len(done)} of 6 cells are done" in said[-1]
    first = json.loads((before.folder("norm=batch/seed-0") / "result.json").read_text())

    lines = []
    result = launch.study("tiny.yaml", workers=1, say=lines.append)
    assert any(line.startswith(f"{len(done)} of 6 cells are done already; {6 - len(done)} to train") for line in lines)
    assert not any("norm=batch/seed-0:" in line for line in lines)
    assert lines[-1].startswith("[6/6] norm=broken/seed-1: failed (")
    assert "nobody" in lines[-1] and "log.txt" in lines[-1]
    assert json.loads((before.folder("norm=batch/seed-0") / "result.json").read_text()) == first
    assert [one.cell for one in result.failed] == ["norm=broken/seed-0", "norm=broken/seed-1"]

    [judged] = result.judged
    assert judged.verdict == "supported" and judged.seeds == (0, 1)
    rows = list(csv.DictReader((result.path / "results.csv").open()))
    assert [row["status"] for row in rows] == ["finished"] * 4 + ["failed"] * 2
    for row in rows[:4]:
        summary = json.loads((result.path / row["run"] / "summary.json").read_text())
        assert float(row["error"]) == pytest.approx(1 - summary["metrics"]["test"]["accuracy"])
    assert result.report.is_file()

    # other cells of the same directory
    with pytest.raises(
        UserError, match=r"norm=batch/seed-0: train.epochs: 1 -> 2\n.*\n.*\n.*and 1 more\nChoose another"
    ):
        planning.plan(write({**BROKEN, "overrides": {"train": {"epochs": 2}}}), workers=1)
    more = planning.plan(write({**BROKEN, "seeds": [0, 1, 2], "title": "More seeds"}), workers=1)
    assert len(more.done) == 4 and len(more.left) == 5 and more.measured


def test_smoke(write, tmp_path):
    said = []
    result = launch.study(write(), smoke=True, cells="*none/seed-0", workers=1, say=said.append)
    assert said[-1].startswith("[1/1] norm=none/seed-0: error ")
    assert [part.sentences for part in summary.of_result(result)] == [["No verdict: every cell works."]]
    assert Store(tmp_path / "studies/tiny-smoke").judged()[0].verdict == NOT_JUDGED
    assert not (tmp_path / "studies/tiny").exists()


def test_missing_data_are_named_before_anything_is_made(write, tmp_path):
    name = write({"recipe": "images/mnist_5k", "overrides": {"data": {"source": "mnist_5k"}, "model": {"type": "mlp"}}})
    with pytest.raises(UserError, match="python -m nrm_keras data prepare mnist_5k"):
        launch.study(name)
    own = {"source": "npz", "path": "none.npz"}
    with pytest.raises(UserError, match="none.npz"):
        launch.study(write({"overrides": {"data": own}}))
    assert not (tmp_path / "studies").exists()


def test_patterns_of_cells(write):
    name = write()
    plan = planning.plan(name, workers=1, cells="norm=b*/seed-[01]")
    assert [cell.name for cell in plan.cells] == ["norm=batch/seed-0", "norm=batch/seed-1"]
    with pytest.raises(UserError, match="matches none of 6. The first is 'norm=batch/seed-0'"):
        planning.plan(name, workers=1, cells="batch")


def test_cost_and_what_seeds_detect(write):
    plan = planning.plan(write({"seconds_per_cell": 10}), workers=4)
    assert plan.seconds == 20 and not plan.measured  # 6 cells, 4 at a time
    assert planning.plan("tiny.yaml", workers=100).workers == 6
    # Cohen 1988, one-sided at 0.025, 80 %: about 1.7 standard deviations with 5 pairs; nothing with one
    five = planning.plan(write({"claims": {"alike": {"expect": "less"}}}), workers=1, seeds=range(5))
    seeds, effect = five.detectable("alike")
    assert seeds == 5 and effect == pytest.approx(1.68, abs=0.01)
    assert planning.plan("tiny.yaml", workers=1, seeds=[3]).detectable("alike") == (1, float("inf"))


def test_two_studies_at_a_time_in_one_directory(write, tmp_path):
    from nrm_keras.runs import directory

    (tmp_path / "studies/tiny").mkdir(parents=True)
    with directory.lock(tmp_path / "studies/tiny"), pytest.raises(UserError, match="another one is"):
        launch.study(write())
