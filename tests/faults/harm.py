"""Measures that each planted fault really harms: final loss and scores of the faulty program and of its twin.

    python tests/faults/harm.py [NAME ...] [--seeds 0 1 2]

A name is a program's, a healthy one's with its faulty twin, or a family's; without names all are measured. `loss` and
`train` are the training loss and score of the last epoch, `validation` is the score at inference: accuracy, or R2 of a
regression. A fault harms a seed if the validation score ends at least 0.1 below the twin's, or a weight is no finite
number. A healthy program learns if its validation score is at least 0.75, or 0.3 as R2.
"""

import argparse
import math
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import keras
import numpy as np

from tests.faults.programs import PROGRAMS

MARGIN, ACCURACY, R2 = 0.1, 0.75, 0.3


def measure(program, seed: int) -> dict[str, float]:
    """Trains the program and returns its last epoch's figures, and the seconds of CPU."""
    start = time.process_time()
    run = program.build(seed)
    last = {key: values[-1] for key, values in run.fit().history.items()}
    steps = int(run.model.optimizer.iterations.numpy())
    weights = all(np.isfinite(w).all() for w in run.model.get_weights())
    validation = float(np.ravel(last["val_score"])[0]) if weights else math.nan
    return {
        "loss": float(last["loss"]),
        "train": float(np.ravel(last["score"])[0]),
        "validation": validation,
        "steps": steps,
        "seconds": time.process_time() - start,
        "least": R2 if run.model.loss.name == "mean_squared_error" else ACCURACY,
    }


def verdict(figures, twin) -> str:
    """What the figures say of a faulty program with a twin's, or of a healthy one."""
    if twin is None:
        return "learns" if figures["validation"] >= figures["least"] else "DOES NOT LEARN"
    # Written so that NaN counts as harm.
    return "DOES NO HARM" if twin["validation"] - figures["validation"] < MARGIN else "harms"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    measured, counts = {}, {}
    print(f"{'program':26} seed      loss  train  validation  steps  seconds")
    for program in PROGRAMS:
        if arguments.names and not {program.name, program.twin, program.family} & set(arguments.names):
            continue
        for seed in arguments.seeds:
            figures = measured[program.name, seed] = measure(program, seed)
            says = verdict(figures, measured.get((program.twin, seed)))
            counts[says] = counts.get(says, 0) + 1
            print(
                f"{program.name:26} {seed:4} {figures['loss']:9.3g} {figures['train']:6.3f} {figures['validation']:11.3f}"
                f" {figures['steps']:6} {figures['seconds']:8.1f}  {says}",
                flush=True,
            )
            keras.backend.clear_session()
    print(", ".join(f"{says}: {count}" for says, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
