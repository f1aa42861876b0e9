"""Arrays on disk that leave nothing behind."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from nrm_keras.data.disk import DiskRows


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
