"""Probes: what is measured on the trained model of a cell."""

PROBES = {}
