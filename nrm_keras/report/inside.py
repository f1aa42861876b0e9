"""What the page shows of a model's inside: sections of charts from the statistics of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nrm_keras.report import plots
from nrm_keras.report.figures import Chart, chosen
from nrm_keras.report.statistics import Series, Statistics, as_number, number_of
from nrm_keras.report.verdict import duration, number, percent


@dataclass(frozen=True)
class Section:
    """A part of the page: `name` is its anchor."""

    name: str
    title: str
    about: str
    charts: list[Chart]


def sections(statistics: Statistics) -> list[Section]:
    """Those that there is something to show of, in the page's order."""
    found = [
        Section(
            "drift",
            "Drift of the layers",
            "How far each layer's outputs on one fixed batch have moved: root mean square over the channels of "
            "the shift of the mean, in standard deviations of the reference.",
            _drift(statistics),
        ),
        Section(
            "bands",
            "Activations of a layer",
            "Median, and 15th to 85th percentile, of what a layer gives in training.",
            _bands(statistics),
        ),
        Section(
            "units",
            "Dead and saturated units",
            "Dead is a channel that is 0 for all examples of a batch; saturated a value within 0.01 of its activation's bounds.",
            [*_share(statistics, "dead", "Dead channels"), *_share(statistics, "saturated", "Saturated values")],
        ),
        Section(
            "gradients",
            "Gradients and updates",
            "Root mean square, or norm, of each; colours are powers of 10.",
            _flow(statistics),
        ),
        Section(
            "gates",
            "Gates",
            "The weight on batch statistics that each adaptive layer has learned; the rest is on those of the example. The prior, "
            "dashed, is what the batch size alone would give. Dark curves are near the input, bright ones near the output.",
            _gates(statistics),
        ),
        Section(
            "gap",
            "Training against inference",
            "How far running statistics, which count at inference, are from those of the batch: root mean square over the channels.",
            _gap(statistics),
        ),
        Section(
            "rates",
            "Effective learning rates",
            "Of weights whose scale does not matter, because a normalizer follows: learning rate over squared norm (SGD) or norm.",
            _rates(statistics),
        ),
        Section(
            "curvature", "Curvature", "The Hessian of the loss on one batch, in training mode.", _curvature(statistics)
        ),
        Section(
            "landscape",
            "Landscape and noise",
            "Along the gradient, and between parts of one batch.",
            _landscape(statistics),
        ),
    ]
    return [section for section in found if section.charts]


def thinning(statistics: Statistics) -> str:
    """What the charts leave out, in a sentence; empty if nothing."""
    thinned = {kind: counts for kind, counts in statistics.counts.items() if counts[0] > counts[1]}
    if not thinned:
        return ""
    words = ", ".join(f"{shown:,} of {count:,} of {kind}" for kind, (count, shown) in thinned.items())
    return (
        f"Thinned for display: of the steps with records these are drawn, evenly spaced, with the latest and those of findings: {words}. "
        "statistics.jsonl has all."
    )


def cost(statistics: Statistics) -> str:
    """What watching cost, in a sentence; empty where that is not known yet."""
    records = statistics.of("cost")
    # a run that was stopped and went on has a record of each time
    first, later, elapsed, probes = (
        sum(number_of(record, name) for record in records)
        for name in ("first_seconds", "later_seconds", "elapsed_seconds", "probes")
    )
    if not math.isfinite(first + later + elapsed + probes) or elapsed <= 0:
        return ""
    times = f" after each of {len(records)} starts" if len(records) > 1 else ""
    return (
        f"Watching cost {percent((first + later) / elapsed)} of {duration(elapsed)}: {duration(first)} for the first of "
        f"{probes:,.0f} probed steps{times} with its trace, {duration(later)} for all others and what was measured beside them."
    )


def _drift(statistics):
    choices, sentence = {}, ""
    for reference, name in (("start", "the start"), ("last epoch", "the last epoch")):
        shift = statistics.by_layer("drift", "mean_shift", reference=reference)
        if not any(len(series.steps) > 1 for series in shift.values()):
            continue
        more = {
            "log variance ratio": statistics.by_layer("drift", "log_variance_ratio", reference=reference),
            "KL divergence": statistics.by_layer("drift", "kl_divergence", reference=reference),
        }
        choices[name] = plots.layer_map(shift, "mean shift", more)
        sentence = sentence or _most(f"moved farthest from {name}", shift, " standard deviations")
    if any(map(plots.has_outliers, choices.values())):
        sentence += " A few cells that are far beyond all others have the last colour; hovering tells their number."
    return chosen("Shift of the mean", sentence, choices, "against", wide=True)


def _bands(statistics):
    parts = [statistics.by_layer("activation", column) for column in ("p15", "p50", "p85")]
    layers = [layer for layer in parts[1] if all(layer in part for part in parts)]
    choices = {layer: plots.band(*(part[layer] for part in parts), "activation") for layer in layers}
    return chosen("Distribution over time", f"{len(layers)} layers to choose from.", choices, "layer", wide=True)


def _share(statistics, column, title):
    layers = statistics.by_layer("activation", column)
    if not layers:
        return []
    if not any(value > 0 for series in layers.values() for value in series.finite):
        return [Chart(title, f"None in any of {len(layers)} layers at any step that is shown.", {})]
    return [Chart(title, _most("has most", layers, "", percent), plots.layer_map(layers, "share", bounds=(0, 1)))]


def _flow(statistics):
    sources = {
        "gradient of the activations": ("activation", "gradient_rms"),
        "gradient of the weights": ("weight", "gradient_norm"),
        "update over weight": ("weight", "update_ratio"),
    }
    choices = {}
    for name, (kind, column) in sources.items():
        layers = statistics.by_layer(kind, column)
        if layers:
            choices[name] = plots.layer_map(layers, name, logarithmic=True)
    ends = [series.finite[-1] for series in statistics.by_layer("activation", "gradient_rms").values()]
    sentence = ""
    if len(ends) > 1 and ends[-1] > 0 and ends[0] > 0:
        sentence = f"At the last step the first layer's gradient is {number(ends[0] / ends[-1])} times the last one's."
    return chosen("Gradient flow", sentence, choices, "show", wide=True)


def _gates(statistics):
    gates = statistics.by_layer("gate", "batch_weight")
    prior = statistics.by_layer("gate", "prior")
    if not gates:
        return []
    curves = dict(gates)
    if prior:
        curves["prior of the batch size"] = next(reversed(prior.values()))
    sentence = _range("At the last step the weights on batch statistics are", gates)
    figure = plots.lines(curves, "weight on batch statistics", dashed=["prior of the batch size"], bounds=(0, 1.02))
    return [Chart("Weight on batch statistics", sentence, figure, wide=True)]


def _gap(statistics):
    choices = {}
    for name, column in (("means, in standard deviations", "mean_gap"), ("variances, as a logarithm", "variance_gap")):
        layers = statistics.by_layer("running", column)
        if layers:
            choices[name] = plots.layer_map(layers, name)
    sentence = _last("is farthest off at the end", statistics.by_layer("running", "mean_gap"), " standard deviations")
    return chosen("Running against batch statistics", sentence, choices, "show", wide=True)


def _rates(statistics):
    rates = statistics.by_layer("effective rate", "effective_learning_rate")
    norms = statistics.by_layer("effective rate", "norm")
    equilibrium = statistics.by_layer("effective rate", "equilibrium_norm")
    charts = []
    if rates:
        figure = plots.lines(rates, "effective learning rate", logarithmic=True)
        charts.append(Chart("Effective learning rate", _range("At the last step they are", rates), figure))
    if equilibrium:
        choices = {
            layer: plots.lines(
                {"norm": norms[layer], "norm at equilibrium": equilibrium[layer]},
                "norm",
                dashed=["norm at equilibrium"],
            )
            for layer in norms
            if layer in equilibrium
        }
        charts += chosen(
            "Norm and where it settles", "Steps and weight decay balance at the dashed norm.", choices, "weight"
        )
    return charts


def _curvature(statistics):
    records = statistics.of("curvature")
    choices = {}
    for record in records:
        nodes, weights = (_numbers(record.get(name)) for name in ("density_nodes", "density_weights"))
        if nodes and len(nodes) == len(weights):
            choices[f"step {record['step']}"] = plots.stems(nodes, weights, "eigenvalue")
    if not records:
        return []
    last = records[-1]
    condition = number_of(last, "first_to_fifth")
    sentence = f"At step {last['step']} the largest eigenvalue is {number(number_of(last, 'largest'))}, the trace {number(number_of(last, 'trace'))}"
    sentence += f", the condition number (first over fifth) {number(condition)}." if math.isfinite(condition) else "."
    curves = {
        "largest eigenvalue": statistics.single("curvature", "largest"),
        "edge of stability": statistics.single("curvature", "edge_of_stability"),
    }
    curves = {name: series for name, series in curves.items() if series.finite}
    charts = chosen("Spectrum", sentence, dict(reversed(choices.items())), "step")
    if curves:
        figure = plots.lines(
            curves, "eigenvalue", dashed=["edge of stability"], logarithmic=plots.spread_widely(curves.values())
        )
        words = "Gradient descent at full batch hovers where the largest eigenvalue meets the edge of stability."
        charts.append(Chart("Largest eigenvalue", words, figure))
    return charts


def _landscape(statistics):
    smoothness = statistics.single("landscape", "effective_beta")
    noise = statistics.single("noise", "averaged")
    charts = []
    if smoothness.finite:
        words = "Largest change of the gradient over the length of the step."
        charts.append(
            Chart("Smoothness along the gradient", words, plots.lines({"smoothness": smoothness}, "effective beta"))
        )
    if noise.finite:
        words = "The batch size, in examples, beyond which larger batches gain little."
        charts.append(Chart("Gradient noise scale", words, plots.lines({"noise scale": noise}, "examples")))
    cosines = statistics.by_layer("covariate shift", "cosine")
    if cosines:
        words = "Cosine between a layer's gradient before and after the layers below it were updated (Santurkar et al. 2018); 1 is no shift."
        charts.append(Chart("Internal covariate shift", words, plots.lines(cosines, "cosine")))
    return charts


def _most(words, layers: dict[str, Series], unit, text=number):
    layer, step, value = max(
        (
            (name, step, v)
            for name, s in layers.items()
            for step, v in zip(s.steps, s.values, strict=True)
            if math.isfinite(v)
        ),
        key=lambda found: found[2],
    )
    return f"{layer} {words}: {text(value)}{unit} at step {step}."


def _last(words, layers: dict[str, Series], unit):
    if not layers:
        return ""
    layer, series = max(layers.items(), key=lambda item: item[1].finite[-1])
    return f"{layer} {words}: {number(series.finite[-1])}{unit}."


def _range(words, layers: dict[str, Series]):
    ends = [series.finite[-1] for series in layers.values()]
    return f"{words} {number(min(ends))} to {number(max(ends))}." if len(ends) > 1 else f"{words} {number(ends[0])}."


def _numbers(values):
    return [as_number(value) for value in values] if isinstance(values, list) else []
