"""Placeholder until the measurements are merged."""


def check(measurement, recipe, probes):
    return []
