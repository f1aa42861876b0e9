"""What the benchmarks share: interleaved times, and memory in a process of its own."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

WARM_UP = 3


def interleaved(steps: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median milliseconds of each step, all taking turns, so that what else the machine does hits them alike."""
    times = {name: [] for name in steps}
    for number in range(rounds + WARM_UP):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if number >= WARM_UP:  # the first ones trace
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_megabytes(step: Callable) -> float:
    """Megabytes that some steps add to the most that the process held before."""
    before = _high_water_mark()
    for _ in range(WARM_UP):
        step()
    return _high_water_mark() - before


def in_own_process(script: str, *arguments: str) -> float:
    """The number that the script prints with these arguments."""
    command = [sys.executable, script, *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _high_water_mark() -> float:
    # Unlike getrusage's, this one starts anew in a new program.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
