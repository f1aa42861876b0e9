"""Every executor gives the same bits, whoever is killed meanwhile, and leaves nothing behind."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nrm_keras.errors import UserError
from nrm_keras.studies.executors import cluster, local
from nrm_keras.studies.outcome import Outcome
from tests.studies import study_cells
from tests.studies.study_cells import OVERRIDES, bits, job, jobs, wait_for, worker_at

needs_ray = pytest.mark.skipif(
    not importlib.util.find_spec("ray"), reason="ray is not installed: pip install 'nrm_keras[ray]'"
)
TRAINED = [cell for cell in OVERRIDES if cell != "broken"]


def outcomes(execute):
    """What the executor told of each cell, in the order in which they ended."""
    events = []
    execute(events.append)
    ended = [value for kind, value in events if kind == "ended"]
    assert sorted(value for kind, value in events if kind == "started") == sorted(one.cell for one in ended)
    return ended


@pytest.fixture(scope="module")
def each_alone(tmp_path_factory):
    """The bits of cells that were each the only one of its process, two processes at a time."""
    study = tmp_path_factory.mktemp("alone")
    ended = outcomes(lambda told: local.run(jobs(study), 2, told, cells_per_worker=1))
    assert len({one.process for one in ended}) == len(OVERRIDES)
    return {cell: bits(study, cell) for cell in TRAINED}


def assert_same_bits(study, each_alone):
    for cell in TRAINED:
        assert bits(study, cell) == each_alone[cell], cell


@pytest.fixture
def start():
    """Starts a main process with one worker."""
    started = []

    def start(executor, study, *cells):
        command = [sys.executable, study_cells.__file__, executor, study, *cells]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def kill_worker(study, cell) -> int:
    worker = worker_at(study, cell, "epoch  3/12")
    os.kill(worker, signal.SIGKILL)
    return worker


def kill_with_all_its_processes(main):
    """Kills the main process; what it had started, down to the last process, must end by itself."""
    others = psutil.Process(main.pid).children(recursive=True)
    main.kill()
    _, left = psutil.wait_procs(others, timeout=15)
    assert not left


def test_one_local_process_after_others_were_killed(tmp_path, each_alone, start):
    study = tmp_path / "study"
    main = start("local", study, "long", "watched")
    killed = kill_worker(study, "long")
    second = worker_at(study, "watched", "\n")
    result = Outcome.read(job(study, "long").folder)
    assert (result.status, result.process) == ("failed", killed)
    assert second != killed
    assert "SIGKILL" in result.error
    assert result.error in (job(study, "long").folder / "log.txt").read_text()
    kill_with_all_its_processes(main)
    assert not psutil.pid_exists(second)

    ended = outcomes(lambda told: local.run(jobs(study), 1, told))
    assert [(one.cell, one.status) for one in ended] == [
        ("watched", "finished"),
        ("long", "finished"),
        ("broken", "failed"),
    ]
    assert len({one.process for one in ended}) == 1
    assert [one.threads for one in ended] == [1, 1, 0]  # the recipe is read before TensorFlow is imported
    assert "Resuming at" in (job(study, "long").folder / "log.txt").read_text()
    assert "Did you mean 'momentum'?" in ended[-1].error
    assert ended[-1].error in (job(study, "broken").folder / "log.txt").read_text()
    for one in ended:
        assert Outcome.read(job(study, one.cell).folder) == one
    assert_same_bits(study, each_alone)
    assert [path.name for path in study.iterdir()] == ["cells"]  # nothing of the main process that was killed


@needs_ray
def test_two_workers_on_ray_after_others_were_killed(tmp_path, each_alone, start):
    study = tmp_path / "study"
    main = start("ray", study, "long")
    killed = kill_worker(study, "long")
    result = wait_for(lambda: Outcome.read(job(study, "long").folder))
    assert (result.status, result.process, result.executor) == ("failed", killed, "ray")
    (folder,) = [
        process.cmdline()[-1]
        for process in psutil.Process(main.pid).children()
        if process.cmdline()[1:2] == [cluster.remains.__file__]
    ]
    assert Path(folder).is_dir()
    kill_with_all_its_processes(main)
    assert not Path(folder).exists()

    ended = outcomes(lambda told: cluster.run(jobs(study, ["long", "watched"]), None, 2, told))
    assert {one.cell: one.status for one in ended} == dict.fromkeys(TRAINED, "finished")
    assert {one.executor for one in ended} == {"ray"}
    assert {one.threads for one in ended} == {1}
    assert len({one.process for one in ended}) == 2
    assert "Resuming at" in (job(study, "long").folder / "log.txt").read_text()
    assert_same_bits(study, each_alone)
    assert [path.name for path in study.iterdir()] == ["cells"]
    assert not [child for child in psutil.Process().children(recursive=True) if "ray" in child.name()]


def test_a_machine_that_does_not_see_the_directory(tmp_path):
    assert cluster.Remote().start(str(tmp_path / "elsewhere" / "file")) == (os.getpid(), False)


@needs_ray
def test_an_address_where_nothing_listens_is_said_at_once(tmp_path):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"Received: {address}: .*refused.*RAY_AUTH_MODE"):
            cluster.run(jobs(tmp_path), address, 1, print)
