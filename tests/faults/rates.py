"""How many planted faults the callback's alerts find, and how many healthy programs they call sick.

    python tests/faults/rates.py [NAME ...] [--half "held out"] [--seeds 0 1 2] [--json rates.json]

Each program is trained as it is, with `InternalStatistics(every=5)` at its defaults otherwise. A fault is found if there
is an alert, and where a layer is at fault, one that names it. The thresholds were set on the half "tuning".
"""

import argparse
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import keras

from nrm_keras.callbacks import InternalStatistics
from tests.faults.programs import PROGRAMS, half

EVERY = 5


def judge(program, seed: int) -> dict:
    """What the alerts say of one training."""
    began = time.process_time()
    watch = InternalStatistics(every=EVERY, say=lambda line: None)
    program.build(seed).fit(callbacks=[watch])
    named = {name for alert in watch.alerts for name in (alert.layer, *alert.others) if name}
    named |= {name.split("/")[0] for name in named}  # "attention/query" is inside of "attention"
    return {
        "program": program.name,
        "seed": seed,
        "half": half(program),
        "fault": program.fault,
        "alarm": bool(watch.alerts),
        "named": not program.layers or bool(named & set(program.layers)),
        "alerts": [[alert.rule, alert.step, alert.layer, alert.value] for alert in watch.alerts],
        "seconds": time.process_time() - began,
    }


def rates(results: list[dict]) -> dict[str, float]:
    """Recall over the faulty trainings and false alarms over the healthy ones."""
    faulty = [r for r in results if r["fault"]]
    healthy = [r for r in results if not r["fault"]]
    return {
        "faulty": len(faulty),
        "recall": sum(r["alarm"] and r["named"] for r in faulty) / max(len(faulty), 1),
        "healthy": len(healthy),
        "false alarms": sum(r["alarm"] for r in healthy) / max(len(healthy), 1),
    }


def main() -> None:
    """Prints each training's alerts and the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--half", choices=("tuning", "held out"))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--json", help="where the results go")
    arguments = parser.parse_args()
    results = []
    for program in PROGRAMS:
        if arguments.names and not {program.name, program.twin, program.family} & set(arguments.names):
            continue
        if arguments.half not in (None, half(program)):
            continue
        for seed in arguments.seeds:
            result = judge(program, seed)
            results.append(result)
            right = result["alarm"] and result["named"] if program.fault else not result["alarm"]
            said = ", ".join(
                f"{rule}@{step} {layer or ''} {value:.3g}" for rule, step, layer, value in result["alerts"]
            )
            print(f"{'' if right else 'WRONG':5} {program.name:26} {seed}  {said}", flush=True)
            keras.backend.clear_session()
    for name in ("tuning", "held out"):
        counted = rates([r for r in results if r["half"] == name])
        if counted["faulty"] or counted["healthy"]:
            print(
                f"{name}: {counted['recall']:.3f} of {counted['faulty']} faulty trainings found, the layer named where one is; "
                f"alarms in {counted['false alarms']:.3f} of {counted['healthy']} healthy ones"
            )
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
