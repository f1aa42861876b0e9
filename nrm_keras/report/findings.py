"""What the diagnostics found, as cards with advice and a chart of the evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from nrm_keras.report import plots
from nrm_keras.report.alerts import Finding
from nrm_keras.report.figures import Chart
from nrm_keras.report.statistics import Series, Statistics, number_of


@dataclass(frozen=True)
class Evidence:
    """Where a rule's evidence is: kind of record, and how its number follows from one, with what a reader calls it.

    `is_threshold`: whether the rule's threshold is a value of that number. `is_share`: whether it is between 0 and 1.
    """

    kind: str
    name: str
    number: Callable[[dict], float]
    is_threshold: bool = False
    is_share: bool = False


def _column(column):
    return lambda record: number_of(record, column)


def _deviation(record):
    return max(number_of(record, "variance"), 0.0) ** 0.5


def _root_mean_square(record):
    return math.hypot(_deviation(record), number_of(record, "mean"))


_VARIANCE = Evidence("activation", "variance of the outputs", _column("variance"))
_UPDATES = Evidence("weight", "update over weight", _column("update_ratio"), True)
_LOSS = Evidence("step", "loss", _column("loss"))
EVIDENCE = {
    "dead_units": Evidence("activation", "share of dead channels", _column("dead"), True, True),
    "saturated_units": Evidence("activation", "share of saturated values", _column("saturated"), True, True),
    "saturated_attention": _VARIANCE,
    "normalizer_scale": _VARIANCE,
    "activation_scale": Evidence("activation", "standard deviation of the outputs", _deviation, True),
    "constant_activation": Evidence("activation", "root mean square of the outputs", _root_mean_square, True),
    "vanishing_gradient": Evidence("weight", "gradient norm", _column("gradient_norm")),
    "exploding_gradient": Evidence("step", "gradient norm", _column("gradient_norm")),
    "updates_too_large": _UPDATES,
    "updates_too_small": _UPDATES,
    "unchanged_weights": Evidence("weight", "norm of the update", _column("update_norm")),
    "running_statistics": Evidence("running", "gap of the means, in standard deviations", _column("mean_gap")),
    "loss_not_decreasing": _LOSS,
    "no_better_than_constant": _LOSS,
    "overfitting": _LOSS,
    "non_finite": _LOSS,
}
# What rules about updates look at; gammas and biases move by other shares of their norm.
MATRICES = ("kernel", "embeddings")


@dataclass(frozen=True)
class Card:
    finding: Finding
    chart: Chart | None


def cards(findings: list[Finding], statistics: Statistics) -> list[Card]:
    """Each finding with a chart of what it was found in, where that was recorded."""
    return [Card(finding, _chart(finding, statistics)) for finding in findings]


def _chart(finding, statistics):
    evidence = EVIDENCE.get(finding.rule)
    curves = {name: series for name, series in _curves(evidence, finding, statistics).items() if series.finite}
    if not curves:
        return None
    if len(curves) > 8:
        curves = {f"median of {len(curves)} weights": _median(curves)}
    threshold = finding.threshold if evidence.is_threshold else None
    if threshold is not None and not math.isfinite(threshold):  # a damaged record
        threshold = None
    level = [] if threshold is None else [Series([finding.step], [threshold])]
    figure = plots.lines(
        curves,
        evidence.name,
        logarithmic=not evidence.is_share and plots.spread_widely([*curves.values(), *level]),
        bounds=(0, 1.02) if evidence.is_share else None,
        mark=finding.step,
        threshold=threshold,
    )
    title = evidence.name.capitalize()
    if len(curves) == 1 and evidence.kind == "weight":
        title += f", {next(iter(curves))}"  # one curve has no legend
    elif finding.layer and evidence.kind != "step":
        title += f": {finding.layer}"
    words = f"The dotted line is step {finding.step}, where it was found" + (
        f", and the threshold {threshold:g}." if threshold is not None else "."
    )
    return Chart(title, words, figure)


def _curves(evidence, finding, statistics):
    if evidence is None:
        return {}
    found: dict[str, Series] = {}
    for record in statistics.of(evidence.kind):
        name = evidence.name if evidence.kind == "step" else record.get("layer")
        if not isinstance(name, str) or not _is_meant(name, evidence, finding):
            continue
        series = found.setdefault(name, Series([], []))
        series.steps.append(record["step"])
        series.values.append(evidence.number(record))
    return found


def _is_meant(name, evidence, finding):
    if evidence is _UPDATES and not name.endswith(MATRICES):
        return False
    return evidence.kind == "step" or finding.layer is None or _belongs(name, finding.layer)


def _belongs(name: str, layer: str) -> bool:
    """Whether a record is of the layer: under its name, one of its calls, or one of its weights by their path."""
    return name == layer or name.startswith(f"{layer}#") or f"/{layer}/" in f"/{name}"


def _median(curves):
    by_step: dict[int, list[float]] = {}
    for series in curves.values():
        for step, value in zip(series.steps, series.values, strict=True):
            if math.isfinite(value):
                by_step.setdefault(step, []).append(value)
    return Series(list(by_step), [median(values) for values in by_step.values()])
