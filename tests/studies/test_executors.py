"""Every executor gives the same bits, whoever is killed meanwhile, and leaves no process behind."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from nrm_keras.studies.executors import cluster, local
from nrm_keras.studies.outcome import Outcome
from tests.studies.study_cells import OVERRIDES, bits, job, jobs, wait_for, worker_at

TRAINED = [cell for cell in OVERRIDES if cell != "broken"]


def outcomes(execute):
    """What the executor told of each cell, in the order in which they ended."""
    events = []
    execute(events.append)
    ended = [value for kind, value in events if kind == "ended"]
    assert sorted(value for kind, value in events if kind == "started") == sorted(one.cell for one in ended)
    return ended


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    study = tmp_path_factory.mktemp("one")
    return study, outcomes(lambda told: local.run(jobs(study), 1, told))


def assert_same_bits(study, one_by_one):
    for cell in TRAINED:
        assert bits(study, cell) == bits(one_by_one[0], cell), cell


def test_one_process_trains_all_cells(one_by_one):
    study, ended = one_by_one
    assert [(one.cell, one.status) for one in ended] == [(cell, "finished") for cell in TRAINED] + [
        ("broken", "failed")
    ]
    assert {one.threads for one in ended} == {1}
    assert len({one.process for one in ended}) == 1
    assert "Did you mean 'momentum'?" in ended[-1].error
    assert ended[-1].error in (job(study, "broken").folder / "log.txt").read_text()
    for one in ended:
        assert Outcome.read(job(study, one.cell).folder) == one
    assert [path.name for path in study.iterdir()] == ["cells"]


def test_killed_workers_and_main_processes(tmp_path, one_by_one):
    study = tmp_path / "study"

    def start(*cells):
        script = pathlib.Path(__file__).with_name("study_cells.py")
        return subprocess.Popen([sys.executable, script, study, *cells], stdout=subprocess.PIPE, text=True)

    def result(cell):
        return Outcome.read(job(study, cell).folder)

    main = start("watched", "resnet", "deterministic", "long")  # two workers
    killed = worker_at(study, "watched", "epoch 1/2")
    os.kill(killed, signal.SIGKILL)
    stopped = worker_at(study, "long", "epoch  1/15")
    main.terminate()
    output, _ = main.communicate(timeout=60)
    assert main.returncode == 130, output
    assert (result("watched").status, result("watched").process) == ("failed", killed)
    assert "SIGKILL" in result("watched").error
    assert "SIGKILL" in (job(study, "watched").folder / "log.txt").read_text()
    assert (result("long").status, result("long").process) == ("stopped", stopped)
    others = {result(cell).process for cell in ("resnet", "deterministic", "long")}
    assert len(others) == 2 and killed not in others  # a new worker took its place
    assert not any(map(psutil.pid_exists, others))

    main = start("long")
    worker = worker_at(study, "long", "Resuming at")
    main.kill()
    main.communicate()
    wait_for(lambda: not psutil.pid_exists(worker), seconds=5)
    assert result("long").status == "stopped"

    rest = [cell for cell in TRAINED if result(cell).status != "finished"]
    ended = outcomes(lambda told: local.run(jobs(study, rest), 1, told))
    assert {one.status for one in ended} == {"finished"}
    assert "Resuming at" in (job(study, "long").folder / "log.txt").read_text()
    assert_same_bits(study, one_by_one)


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed: pip install 'nrm_keras[ray]'")
def test_ray(tmp_path, one_by_one):
    study = tmp_path / "study"
    killer = threading.Thread(target=lambda: os.kill(worker_at(study, "long", "epoch  1/15"), signal.SIGKILL))
    killer.start()
    # in another order, so that other cells are the first of their process
    cells = ["resnet", "deterministic", "watched", "long"]
    ended = outcomes(lambda told: cluster.run(jobs(study, cells), None, 2, told))
    killer.join()
    assert {one.cell: one.status for one in ended} == dict.fromkeys(TRAINED, "finished") | {"long": "failed"}
    assert {one.executor for one in ended} == {"ray"}
    assert {one.threads for one in ended if one.status == "finished"} == {1}
    assert len({one.process for one in ended}) == 2
    assert not [child for child in psutil.Process().children(recursive=True) if "ray" in child.name()]

    (again,) = outcomes(lambda told: local.run(jobs(study, ["long"]), 1, told))
    assert again.status == "finished"
    assert_same_bits(study, one_by_one)
