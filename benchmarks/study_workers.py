"""Cells per hour of a study on two workers against one, local or on Ray, and how many processors a cell takes.

    python benchmarks/study_workers.py [--ray] [--cells 6] [--rounds 3] [section.key=value ...]

Trains the same number of cells on one worker and on two, in turn: about three minutes with local workers. What starts the
workers and TensorFlow is left out: a worker's time begins when its first cell has ended. Prints cells per hour of both, their
ratio (median of the rounds), processor seconds per second of a cell, and in how many processes the cells were trained. It is
only worth as much as the processors are free: the load before each measurement is printed too.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict

from nrm_keras.recipe import loading
from nrm_keras.studies.executors import cluster, local
from nrm_keras.studies.outcome import Job

RECIPE, SHORT = "images/digits_adaptive", "train.epochs=2"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ray", action="store_true", help="workers are actors of a local Ray cluster")
    parser.add_argument("--cells", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    loading.load(RECIPE, arguments.overrides)
    rates, processors, rounds = {1: [], 2: []}, [], []
    for number in range(arguments.rounds):
        for workers in (1, 2) if number % 2 == 0 else (2, 1):
            load = os.getloadavg()[0]
            rate, outcomes = measure(workers, arguments)
            rates[workers].append(rate)
            processors += [one.processor_seconds / one.seconds for one in outcomes]
            processes = len({one.process for one in outcomes})
            rounds.append({"load_before": round(load, 1), "workers": workers, "processes": processes})
    ratios = [two / one for one, two in zip(*rates.values(), strict=True)]
    result = {
        "cells_per_hour": {workers: round(statistics.median(values)) for workers, values in rates.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "processors_per_cell": round(max(processors), 3),
        "rounds": rounds,
    }
    print(json.dumps(result))


def measure(workers: int, arguments) -> tuple[float, list]:
    """Cells per hour of all workers together, each from the end of its first cell to that of its last; all outcomes."""
    ended = []

    def told(event):
        kind, value = event
        if kind == "ended":
            assert value.status == "finished", value.error
            ended.append((time.monotonic(), value))

    with tempfile.TemporaryDirectory() as study:
        jobs = [
            Job(study, f"cell-{number}", RECIPE, [SHORT, *arguments.overrides, f"train.seed={number}"], {})
            for number in range(workers + arguments.cells)
        ]
        cluster.run(jobs, None, workers, told) if arguments.ray else local.run(jobs, workers, told)
    times = defaultdict(list)
    for moment, outcome in ended:
        times[outcome.process].append(moment)
    spans = [(len(moments) - 1, moments[-1] - moments[0]) for moments in times.values() if len(moments) > 1]
    rate = sum(3600 * cells / seconds for cells, seconds in spans)
    return rate, [outcome for _, outcome in ended]


if __name__ == "__main__":
    main()
