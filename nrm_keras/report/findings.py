"""What the diagnostics found, as cards with advice and a chart of the evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nrm_keras.report import plots
from nrm_keras.report.alerts import Finding
from nrm_keras.report.figures import Chart
from nrm_keras.report.statistics import Series, Statistics

# Where each rule's evidence is: kind of record, column, whether the threshold is a value of that column.
EVIDENCE = {
    "dead_units": ("activation", "dead", True),
    "saturated_units": ("activation", "saturated", True),
    "saturated_attention": ("activation", "variance", False),
    "normalizer_scale": ("activation", "variance", False),
    "activation_scale": ("activation", "variance", False),
    "constant_activation": ("activation", "variance", False),
    "vanishing_gradient": ("weight", "gradient_norm", False),
    "exploding_gradient": ("step", "gradient_norm", False),
    "updates_too_large": ("weight", "update_ratio", True),
    "updates_too_small": ("weight", "update_ratio", True),
    "unchanged_weights": ("weight", "update_norm", False),
    "running_statistics": ("running", "mean_gap", False),
    "loss_not_decreasing": ("step", "loss", False),
    "no_better_than_constant": ("step", "loss", False),
    "overfitting": ("step", "loss", False),
    "non_finite": ("step", "loss", False),
}


@dataclass(frozen=True)
class Card:
    finding: Finding
    chart: Chart | None


def cards(findings: list[Finding], statistics: Statistics) -> list[Card]:
    """Each finding with a chart of what it was found in, where that was recorded."""
    return [Card(finding, _chart(finding, statistics)) for finding in findings]


def _chart(finding, statistics):
    kind, column, is_threshold = EVIDENCE.get(finding.rule, ("", "", False))
    if kind == "step":
        curves = {column.replace("_", " "): statistics.single(kind, column)}
    else:
        curves = {
            name: series
            for name, series in statistics.by_layer(kind, column).items()
            if finding.layer is None or _belongs(name, finding.layer)
        }
    curves = {name: series for name, series in curves.items() if series.finite}
    if not curves:
        return None
    unit = column.replace("_", " ")
    if len(curves) > 8:
        curves = {f"median of {len(curves)} weights": _median(curves)}
    threshold = finding.threshold if is_threshold and math.isfinite(finding.threshold or 0) else None
    figure = plots.lines(
        curves,
        unit,
        logarithmic=plots.spread_widely(curves.values()) and not is_threshold,
        mark=finding.step,
        threshold=threshold,
    )
    where = f" of {finding.layer}" if finding.layer and kind != "step" else ""
    words = f"The dotted line is step {finding.step}, where it was found" + (
        f", and the threshold {threshold:g}." if threshold is not None else "."
    )
    return Chart(f"{unit.capitalize()}{where}", words, figure)


def _belongs(name: str, layer: str) -> bool:
    """Whether a record is of the layer: under its name, one of its calls, or one of its weights by their path."""
    return name == layer or name.startswith(f"{layer}#") or f"/{layer}/" in f"/{name}"


def _median(curves):
    by_step: dict[int, list[float]] = {}
    for series in curves.values():
        for step, value in zip(series.steps, series.values, strict=True):
            if math.isfinite(value):
                by_step.setdefault(step, []).append(value)
    return Series(list(by_step), [sorted(values)[len(values) // 2] for values in by_step.values()])
