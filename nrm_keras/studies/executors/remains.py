"""Ends what is left of a Ray cluster on this machine: python remains.py FOLDER.

Waits until standard input ends, as it does when the process that started this one ends, in whatever way. Run as a script,
since it starts with every such cluster and needs nothing of the package.
"""

import contextlib
import os
import shutil
import sys

import psutil

SECONDS = 10


def processes(folder: str, main: int) -> list[psutil.Process]:
    """Those but the main one that write to a file in the cluster's folder, as all of Ray's do to their logs.

    They are not known by their command lines, which most of them hide. Who only reads a log there, as `tail` does, is
    spared where the system tells (Linux).
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != main and any(_writes(file, folder) for file in process.open_files()):
                found.append(process)
    return found


def _writes(file, folder: str) -> bool:
    return file.path.startswith(f"{folder}/") and getattr(file, "mode", "w") != "r"


def end(folder: str, main: int) -> None:
    """Kills the cluster's processes and removes its folder."""
    while found := processes(folder, main):  # again, as one may have started another meanwhile
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main = os.getppid()
    sys.stdin.read()
    end(sys.argv[1], main)
