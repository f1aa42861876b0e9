"""The file of records: complete lines at each moment, JSON and nothing else, and what a killed process leaves."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from nrm_keras.diagnostics.records import Records, to_line
from tests.programs import ROOT


def strictly(line):
    """What JSON says, which has no NaN and no Infinity."""

    def refuse(word):
        raise ValueError(word)

    return json.loads(line, parse_constant=refuse)


def test_what_is_not_finite_becomes_null():
    record = {
        "nan": float("nan"),
        "inf": -np.inf,
        "float32": np.float32("nan"),
        "float64": np.float64("inf"),
        "array": np.array([1.0, np.nan, -np.inf]),
        "float32s": np.array([np.nan, 2.0], "float32"),
        "none": None,
    }
    found = strictly(to_line(record))
    assert found.pop("array") == [1.0, None, None]
    assert found.pop("float32s") == [None, 2.0]
    assert set(found.values()) == {None}


def test_other_values():
    record = {
        "number": 1 / 3,
        "float32": np.float32(0.1),
        "large": 1e300,
        "integer": 7,
        "integer64": np.int64(7),
        "true": True,
        "numpy": np.bool_(False),
        "text": 'quo"ted',
        "names": ["a", "b"],
        "array": np.arange(3) / 3,
        "empty": np.array([]),
        "huge": np.array([1e308, 1e308]),
    }
    assert strictly(to_line(record)) == {
        "number": 0.333333,
        "float32": 0.1,
        "large": 1e300,
        "integer": 7,
        "integer64": 7,
        "true": True,
        "numpy": False,
        "text": 'quo"ted',
        "names": ["a", "b"],
        "array": [0.0, 0.3333, 0.6667],
        "empty": [],
        "huge": [1e308, 1e308],
    }
    assert to_line(record).count("\n") == 1


def test_each_writing_is_there_at_once_and_appended(tmp_path):
    path = tmp_path / "deep" / "down.jsonl"
    records = Records(path)
    records.write([])
    assert not path.exists()
    for n in range(3):
        records.write([{"n": n, "values": np.ones(3000)}] * 4)
        assert [strictly(line)["n"] for line in path.read_text().splitlines()] == [
            m for m in range(n + 1) for _ in range(4)
        ]
    records.close()
    again = Records(path)
    again.write([{"n": 3}])
    again.close()
    assert strictly(path.read_text().splitlines()[-1]) == {"n": 3}
    Records(None).write([{"n": 1}])


def test_torn_line_is_ended(tmp_path):
    path = tmp_path / "statistics.jsonl"
    path.write_text('{"n": 1}\n{"n": 2, "valu')
    records = Records(path)
    records.write([{"n": 3}])
    records.close()
    assert path.read_text() == '{"n": 1}\n{"n": 2, "valu\n{"n": 3}\n'


@pytest.fixture
def training(tmp_path):
    """A process that trains and watches, and its file of records."""
    path = tmp_path / "statistics.jsonl"
    own = {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "tests.diagnostics.watched_until_killed", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **own}, stderr=subprocess.DEVNULL)
    yield process, path
    process.kill()
    process.wait()


def test_lines_are_complete_while_it_trains_and_after_it_is_killed(training):
    process, path = training
    wait_for(lambda: path.exists() and path.stat().st_size > 10**5, process)
    sizes = set()
    while len(sizes) < 50:
        text = path.read_text()
        sizes.add(len(text))
        *lines, rest = text.split("\n")
        # what is written at once is read at once, but for a reader who comes within the system's copying
        assert all(strictly(line)["step"] for line in lines[-30:])
        assert not rest or rest.startswith("{")
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    lines = path.read_text().splitlines()
    torn = [line for line in lines if not is_whole(line)]
    assert len(torn) <= 1 and torn in ([], lines[-1:])
    steps = [strictly(line)["step"] for line in lines if is_whole(line)]
    assert steps == sorted(steps)
    records = Records(path)
    records.write([{"step": "last"}])
    records.close()
    assert [line for line in path.read_text().splitlines() if not is_whole(line)] == torn
    assert strictly(path.read_text().splitlines()[-1]) == {"step": "last"}


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < end
        time.sleep(0.05)


def is_whole(line):
    try:
        strictly(line)
    except ValueError:
        return False
    return True


def test_pandas_reads_it_in_three_lines(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = pathlib.Path(tmp_path / "statistics.jsonl")
    records = Records(path)
    records.write([{"kind": "step", "loss": 1.0}, {"kind": "weight", "layer": "dense", "norm": float("nan")}])
    records.close()
    table = pandas.read_json(path, lines=True)
    assert table[table.kind == "weight"].norm.isna().all()
