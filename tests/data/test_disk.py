"""Arrays on disk that leave nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nrm_keras.data.disk import DiskRows, release


def test_rows_are_what_was_written():
    values = np.random.default_rng(0).normal(size=(50, 3, 4)).astype("float32")
    with DiskRows((3, 4), "float32") as rows, DiskRows((3,), "uint8") as none:
        for part in np.array_split(values, 7):
            rows.append(part)
        with pytest.raises(ValueError, match=r"Rows have the shape \(3, 4\)"):
            rows.append(values[:, 0])
        array = rows.array()
        assert len(rows) == 50 and none.array().shape == (0, 3)
    assert isinstance(array, np.memmap) and (array == values).all()  # though the rows are closed
    assert (array[[49, 0]] == values[[49, 0]]).all()


def test_what_was_read_and_released_is_not_in_memory_and_can_be_read_again():
    with DiskRows((2**20,), "uint8") as rows:
        for value in range(64):
            rows.append(np.full((1, 2**20), value, "uint8"))
        array = rows.array()
    before = resident()
    assert array[:, ::4096].sum() == 256 * sum(range(64)) and resident() - before > 50 * 2**20
    release(array)
    assert resident() - before < 5 * 2**20
    assert array[63, 0] == 63
    release(np.zeros(3))


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run(code, folder):
    start = f"import numpy as np, os, resource, signal; from nrm_keras.data.disk import DiskRows\nrows = DiskRows((1000,), 'uint8')\n{code}"
    return subprocess.run(
        [sys.executable, "-c", start],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )


def test_nothing_is_left_by_a_process_that_is_killed(tmp_path):
    code = "rows.append(np.ones((5000, 1000), 'uint8')); rows.array().sum(); os.kill(os.getpid(), signal.SIGKILL)"
    assert run(code, tmp_path).returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_the_users_to_mend(tmp_path):
    code = "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\nfor _ in range(9): rows.append(np.ones((500, 1000), 'uint8'))"
    done = run(code, tmp_path)
    assert f"UserError: {tmp_path}: prepared examples are written there." in done.stderr
    assert "set TMPDIR" in done.stderr
