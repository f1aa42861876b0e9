"""What the benchmarks share: interleaved times, and memory in a process of its own."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

WARM_UP = 3


def interleaved(steps: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median milliseconds of each step, all taking turns, so that what else the machine does hits them alike."""
    return {name: statistics.median(values) for name, values in interleaved_times(steps, rounds).items()}


def interleaved_times(steps: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """The milliseconds of each step in each round, all taking turns."""
    times = {name: [] for name in steps}
    for number in range(rounds + WARM_UP):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if number >= WARM_UP:  # the first ones trace
                times[name].append(1e3 * (time.perf_counter() - began))
    return times


def peak_megabytes(trace: Callable, step: Callable) -> float:
    """Megabytes that some steps need at most on top of what the process holds once everything is traced."""
    trace()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = held_megabytes()
    for _ in range(WARM_UP):
        step()
    return _status("VmHWM") - before


def in_own_process(script: str, *arguments: str) -> float:
    """The number that the script prints with these arguments."""
    # Memory that is freed goes back at once, so that what is held is what is used.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, script, *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def held_megabytes() -> float:
    """What the process holds now: right behind the imports, what the libraries take."""
    return _status("VmRSS")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
