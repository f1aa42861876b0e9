"""Placeholder until the measurements are merged."""


def check(measurement, recipe, probes):
    return []


def value(measurement, run, probes):
    import csv
    import json

    if measurement.metric.startswith("test."):
        return json.load(open(run / "summary.json"))["metrics"]["test"][measurement.metric[5:]]
    rows = list(csv.DictReader(open(run / "metrics.csv")))
    return float(rows[(measurement.epoch or 0) - 1][measurement.metric])
