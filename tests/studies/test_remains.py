"""What is left of a Ray cluster ends, and nothing else."""

import subprocess
import sys

import pytest

from nrm_keras.studies.executors import remains

OPENS = "import sys; file = open(sys.argv[1], sys.argv[2]); print('open', flush=True); sys.stdin.read()"


def opened(path, mode):
    """A process that has the file open."""
    command = [sys.executable, "-c", OPENS, str(path), mode]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    return process


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how a process has opened a file")
def test_writers_end_and_readers_and_others_live_on(tmp_path):
    (folder := tmp_path / "cluster").mkdir()
    (log := folder / "worker.log").touch()
    writer, reader, other = opened(log, "a"), opened(log, "r"), opened(tmp_path / "cluster.log", "a")
    try:
        ending = subprocess.Popen([sys.executable, remains.__file__, str(folder)], stdin=subprocess.DEVNULL)
        assert writer.wait(10) < 0
        assert ending.wait(10) == 0 and not folder.exists()
        assert reader.poll() is None and other.poll() is None
    finally:
        for process in (writer, reader, other):
            process.kill()
            process.communicate()
