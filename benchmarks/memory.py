"""Peak memory of recipes at their shipped settings, each in a process of its own.

    python benchmarks/memory.py [NAME ...] [--set section.key=value]

Trains one epoch of each recipe whose data is here (or of those named), with everything around it: loading, validation, the
test and the report. Prints the largest resident size of the process, and the time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

from nrm_keras.data import sources
from nrm_keras.recipe import catalog, loading


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: every recipe whose data is here")
    parser.add_argument(
        "--set", action="append", default=["train.epochs=1", "schedule.warmup_epochs=0"], metavar="section.key=value"
    )
    arguments = parser.parse_args()
    for name in arguments.names or catalog.names():
        if sources.find(loading.load(name).recipe.data) is None:
            print(f"{name:40} its data is not here", flush=True)
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            peak, status, said = run([name, *arguments.set, "--out", folder])
        result = f"{peak / 2**30:6.2f} GiB" if status == 0 else f"failed: {said[-200:]}"
        print(f"{name:40} {result}   {time.monotonic() - began:6.0f} s", flush=True)


def run(words):
    """Peak resident bytes of the process (Linux counts in KiB), its exit status and what it said."""
    command = [sys.executable, "-m", "nrm_keras", "run", *words]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return 1024 * usage.ru_maxrss, process.returncode, output.read()


if __name__ == "__main__":
    main()
