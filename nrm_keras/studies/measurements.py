"""The number that a measurement is of a cell: metrics of its run. (Statistics and probes are merged later.)"""

from __future__ import annotations

import math

from nrm_keras.errors import UserError
from nrm_keras.runs import directory
from nrm_keras.runs.metrics import read_metrics

TRANSFORMS = {
    "none": lambda x: x,
    "complement": lambda x: 1 - x,
    "log2": math.log2,
    "log10": math.log10,
    "negative": lambda x: -x,
    "absolute": abs,
}


def check(measurement, recipe, probes):
    return []


def value(measurement, run, probes):
    name = measurement.metric
    split, dot, metric = name.partition(".")
    try:
        if dot:
            number = directory.summary(run)["metrics"][split][metric]
        else:
            number = read_metrics(run)[name][(measurement.epoch or 0) - 1]
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"{run}: the run has no {name} ({error}).") from error
    return math.nan if number is None else TRANSFORMS[measurement.transform](number)
