"""`compare.html`: one file that shows why runs differ, from their run directories alone, without TensorFlow or a network."""

from __future__ import annotations

import math
from pathlib import Path

from nrm_keras.errors import UserError
from nrm_keras.report import inside, layer_differences, page, parting, plots
from nrm_keras.report.compare_parts import Part, names, number_name
from nrm_keras.report.comparison import Compared, Comparison, Going
from nrm_keras.report.figures import NOT_METRICS, Chart, chosen
from nrm_keras.report.layer_differences import MEAN, QUANTITIES
from nrm_keras.report.statistics import Series
from nrm_keras.report.verdict import heading, label, number
from nrm_keras.runs import directory


def write(comparison: Comparison, parts: list[Part], path: Path) -> Path:
    """Writes the page.

    Args:
        comparison: see `comparison.read`.
        parts: what it says, see `compare_parts.parts`.
        path: of the file, which is replaced as a whole.

    Raises:
        UserError: it cannot be written.
    """
    try:
        directory.write_text(path, render(comparison, parts))
    except OSError as error:
        raise UserError(
            f"{path}: a comparison is written to a file, in a directory that exists. Received: {error.strerror}. Choose another with --html FILE."
        ) from error
    return path


def render(comparison: Comparison, parts: list[Part]) -> str:
    """The page as text."""
    charts = {
        "results": curves(comparison),
        "parting": [chart for going in comparison.goings for chart in _evidence(going)],
        "layers": _profiles(comparison),
    }
    thinning = ((run.letter, inside.thinning(run.files.statistics)) for run in comparison.watched)
    content = {
        "title": " and ".join(dict.fromkeys(run.files.title for run in comparison.runs)),
        "letters": names(comparison.runs),
        "notices": comparison.notices,
        "thinning": next((f"{letter}: {words}" for letter, words in thinning if words), ""),
        "parts": [(part, charts.get(part.name, [])) for part in parts],
        "drawn": any(charts.values()),
    }
    return page.fill("compare.html", content)


def curves(comparison: Comparison) -> list[Chart]:
    """A chart for each metric, on validation where all runs that have it have that, then learning rates that differ; a curve a run."""
    found = dict.fromkeys(name.removeprefix("val_") for run in comparison.runs for name in run.files.metrics)
    metrics = sorted((name for name in found if name not in NOT_METRICS), key=lambda name: name != "loss")
    charts = [_curve(comparison, name) for name in (*metrics, "learning_rate")]
    return [chart for chart in charts if chart]


def _curve(comparison: Comparison, name: str) -> Chart | None:
    validated = all(
        f"val_{name}" in run.files.metrics or name not in run.files.metrics for run in comparison.runs
    ) and any(f"val_{name}" in run.files.metrics for run in comparison.runs)
    column = f"val_{name}" if validated else name
    found = {
        run.letter: Series(run.files.epochs, run.files.metrics[column])
        for run in comparison.runs
        if column in run.files.metrics
    }
    found = {letter: series for letter, series in found.items() if series.finite}
    first = next(iter(found.values()), None)
    if first is None:
        return None
    if name == "learning_rate" and all(series == first for series in found.values()):
        return None
    logarithmic = plots.spread_widely(found.values())
    figure = plots.lines(found, label(column), dashed=_dashed(comparison), logarithmic=logarithmic, over="epoch")
    ends = ", ".join(f"{letter} {number(series.finite[-1])}" for letter, series in found.items())
    where = "" if name == "learning_rate" else ", validation" if validated else ", training"
    return Chart(f"{heading(name)}{where}", f"At the end: {ends}.", figure)


def _dashed(comparison: Comparison) -> list[str]:
    """Seeds of one recipe look alike: those of the first are solid."""
    return [run.letter for group in comparison.groups[1:] for run in group]


def _evidence(going: Going) -> list[Chart]:
    """The number in which they part first, and how many do, over steps."""
    found = going.course.parting
    if found is None:
        return []
    runs = [*going.reference, *going.others]
    series = {run.letter: _series(run, found) for run in runs}
    series = {letter: one for letter, one in series.items() if one.finite}
    dashed = [run.letter for run in going.others]
    name = number_name(found.kind, found.column)
    where = f" of {found.layer}" if found.layer else ""
    charts = []
    if series:
        words = f"The dotted line is step {found.step}, where {names(going.others)} first differ in it."
        figure = plots.lines(series, name, dashed=dashed, mark=found.step)
        charts.append(Chart(f"{name.capitalize()}{where}", words, figure))
    if going.has_band:
        chance = parting.chance(len(going.reference), len(going.others))
        if going.shares.finite:
            words = f"The dotted line is what it would be if nothing but the seed differed: about {100 * chance:.0f} %."
            top = min(1.02, 1.2 * max(*going.shares.finite, 2 * chance))
            title = f"Share of the numbers of {names(going.others)} outside of the band"
            figure = plots.lines({"share outside": going.shares}, "share", bounds=(0, top), threshold=chance)
            charts.append(Chart(title, words, figure))
    return charts


def _series(run: Compared, found: parting.Parting) -> Series:
    statistics = run.files.statistics
    if found.kind == "step":
        return statistics.single("step", found.column)
    return statistics.by_layer(found.kind, found.column).get(found.layer, Series([], []))


def _profiles(comparison: Comparison) -> list[Chart]:
    """A number of each layer from input to output, a curve a run; the reader chooses the number."""
    step = layer_differences.last_step(comparison)
    choices = {}
    for quantity in QUANTITIES:
        layers = layer_differences.values(comparison, quantity, step)
        values = [value for one in layers.values() for value in one.values() if math.isfinite(value)]
        if not values:
            continue
        found = {run.letter: {layer: one[run.letter] for layer, one in layers.items()} for run in comparison.watched}
        logarithmic = quantity is not MEAN and not quantity.is_share and min(values) > 0
        choices[quantity.name] = plots.profile(
            found, quantity.name, dashed=_dashed(comparison), logarithmic=logarithmic
        )
    return chosen("Layer by layer", "Layers from input to output downwards.", choices, "number", wide=True)
