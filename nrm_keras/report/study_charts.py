"""Figures of a study: the differences that its claims are about, and its measurements over the grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from statistics import fmean

import plotly.graph_objects as go

from nrm_keras.report import plots
from nrm_keras.report.figures import Chart, chosen
from nrm_keras.report.verdict import heading, number
from nrm_keras.studies import grid
from nrm_keras.studies.pairs import Values
from nrm_keras.studies.schema import Measurement, Study
from nrm_keras.studies.verdict import NOT_SUPPORTED, SUPPORTED, Judged

# each seen on white and on black alike
COLORS = ("#3f7fe0", "#d0691a", "#2f9a63", "#9a63d0", "#c2477a", "#8a8f2a", "#2a9ab0", "#7d8899")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "star", "cross")
VERDICTS = {SUPPORTED: ("#2f9a63", "circle"), NOT_SUPPORTED: ("#c2477a", "x")}
UNCLEAR = ("#7d8899", "circle-open")
WIDELY = 10  # from here on numbers of levels are on a logarithmic axis
ALL = "all"


def title_of(name: str, measurement: Measurement) -> str:
    """What tables call a measurement."""
    return measurement.title or name.replace("_", " ")


def with_unit(text: str, unit: str) -> str:
    return f"{text} ({unit})" if unit else text


# Claims ---------------------------------------------------------------------------------------------------------------


def forests(study: Study, judged: Sequence[Judged]) -> list[Chart]:
    """The differences of all claims with a difference, in a figure for each measurement."""
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        if math.isfinite(one.difference):
            groups.setdefault(one.claim.measurement, []).append(one)
    return [_forest(name, study.measurements[name], group) for name, group in groups.items()]


def _forest(name: str, measurement: Measurement, group: Sequence[Judged]) -> Chart:
    figure = go.Figure()
    figure.add_vline(x=0, line={"width": 1.5})
    for row, one in enumerate(group):
        color, symbol = VERDICTS.get(one.verdict, UNCLEAR)
        seeds = [(a - b, seed) for seed, a, b in one.pairs]
        figure.add_trace(_seeds_of_claim(seeds, row, color))
        if one.interval:
            figure.add_trace(_ends(one, row, color))
        figure.add_trace(_middle(one, row, color, symbol))
        figure.add_trace(_margins(one, row))
    figure.update_layout(
        **{
            **plots.BASE,
            "height": 110 + 58 * len(group),
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": {"title": plots.title(with_unit("difference", measurement.unit)), "range": _range(group)},
            "yaxis": {
                "range": [len(group) - 0.4, -0.6],
                "tickmode": "array",
                "tickvals": list(range(len(group))),
                "ticktext": [escape(one.name) for one in group],
                "showgrid": False,
            },
        }
    )
    words = (
        "Each claim's mean difference with its interval, and small the difference of each seed. "
        "The line is 0, the bars are the smallest effect that matters."
    )
    return Chart(heading(title_of(name, measurement)), words, figure.to_plotly_json())


def _range(group: Sequence[Judged]) -> list[float]:
    """Of all that a forest shows, with some room: plotly gives lines none."""
    shown = [0.0]
    for one in group:
        shown += [a - b for _, a, b in one.pairs] + list(one.interval or ()) + _signed_margins(one)
    return _padded(shown)


def _padded(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return [low - room, high + room]


def _seeds_of_claim(seeds: Sequence[tuple[float, int]], row: int, color: str) -> go.Scatter:
    return go.Scatter(
        x=[difference for difference, _ in seeds],
        y=[row + 0.22] * len(seeds),
        customdata=[seed for _, seed in seeds],
        mode="markers",
        marker={"size": 6, "color": color, "opacity": 0.6},
        hovertemplate="seed %{customdata}: %{x:.4~g}<extra></extra>",
    )


def _ends(one: Judged, row: int, color: str) -> go.Scatter:
    return go.Scatter(
        x=list(one.interval), y=[row, row], mode="lines", line={"width": 3, "color": color}, hoverinfo="skip"
    )


def _middle(one: Judged, row: int, color: str, symbol: str) -> go.Scatter:
    interval = f" [{number(one.interval[0])}, {number(one.interval[1])}]" if one.interval else ""
    return go.Scatter(
        x=[one.difference],
        y=[row],
        mode="markers",
        marker={"size": 12, "color": color, "symbol": symbol, "line": {"width": 2, "color": color}},
        hovertemplate=f"{escape(one.name)}: {number(one.difference)}{interval}, {one.verdict}<extra></extra>",
    )


def _margins(one: Judged, row: int) -> go.Scatter:
    """Where the difference begins to matter, or ends to be none."""
    margins = _signed_margins(one)
    return go.Scatter(
        x=margins,
        y=[row] * len(margins),
        mode="markers",
        marker={"size": 22, "symbol": "line-ns", "line": {"width": 2.5, "color": plots.ACCENT}},
        hovertemplate="smallest effect %{x:.4~g}<extra></extra>",
    )


def _signed_margins(one: Judged) -> list[float]:
    signs = {"greater": [1], "less": [-1], "equal": [-1, 1], "not_greater": [1], "not_less": [-1]}[one.claim.expect]
    return [sign * one.claim.smallest_effect for sign in signs]


# Measurements ---------------------------------------------------------------------------------------------------------


def measurements(study: Study, values: Values) -> list[Chart]:
    """A figure for each measurement that has a finite value."""
    charts = []
    for name, measurement in study.measurements.items():
        found = {
            (cell, seed): value for (of, cell, seed), value in values.items() if of == name and math.isfinite(value)
        }
        if found:
            charts += _measurement(study, name, measurement, found)
    return charts


def _measurement(study: Study, name: str, measurement: Measurement, found: Mapping) -> list[Chart]:
    factors = list(study.grid)
    rest = factors[2:]
    logarithmic = _spread_widely(found.values())
    choices = {}
    for levels in itertools.product(*(study.grid[factor] for factor in rest)):
        fixed = dict(zip(rest, levels, strict=True))
        label = ", ".join(f"{factor} {level}" for factor, level in fixed.items()) or ALL
        choices[label] = _over_grid(study, measurement, found, fixed, logarithmic)
    joined = len(factors) > 1 and _numbers(list(study.grid[factors[1]]))
    marks = "Small points are seeds." if joined else "Bars are means, points are seeds."
    sentence = f"{_extremes(study, found)} {marks}"
    return chosen(heading(title_of(name, measurement)), sentence, choices, " and ".join(rest))


def _over_grid(
    study: Study, measurement: Measurement, found: Mapping, fixed: dict[str, str], logarithmic: bool
) -> dict:
    curves, across = _curves(study, fixed)
    factors = list(study.grid)
    numeric = _numbers(across) if len(factors) > 1 else None
    figure, measured = go.Figure(), {cell for cell, _ in found}
    for index, (name, cells) in enumerate(curves):
        if measured.isdisjoint(cells):  # such as the gates of what has none
            continue
        style = {"color": COLORS[index % len(COLORS)], "symbol": SYMBOLS[(index + index // len(COLORS)) % len(SYMBOLS)]}
        for trace in _curve(name, cells, numeric or across, found, style, joined=numeric is not None):
            figure.add_trace(trace)
    vertical = plots.log_axis(list(found.values())) if logarithmic else {}
    if not numeric:
        # as with bars, plotly would begin at 0 whatever the values are
        vertical |= {"range": _padded([math.log10(one) if logarithmic else one for one in found.values()])}
    horizontal = {"title": plots.title(factors[min(1, len(factors) - 1)].replace("_", " ") if factors else "")}
    if numeric:
        wide = max(numeric) > WIDELY * min(numeric) > 0
        ticks = {"tickmode": "array", "tickvals": numeric, "ticktext": across}
        horizontal |= {**ticks, "type": "log" if wide else "linear"}
    else:
        horizontal |= {"type": "category", "categoryorder": "array", "categoryarray": [escape(one) for one in across]}
    figure.update_layout(
        **{
            **plots.BASE,
            "margin": {**plots.BASE["margin"], "t": 20 if len(curves) < 2 else 60},
            "height": 340,
            "hovermode": "closest",
            "scattermode": "overlay" if numeric else "group",
            "scattergap": 0.5,
            "showlegend": len(curves) > 1,
            "legend": plots.ABOVE,
            "xaxis": horizontal,
            "yaxis": {"title": plots.title(measurement.unit), **vertical},
        }
    )
    return figure.to_plotly_json()


def _curves(study: Study, fixed: dict[str, str]) -> tuple[list, list[str]]:
    """(name, cells across) of each level of the first factor, and the levels across."""
    factors = list(study.grid)
    if len(factors) < 2:
        across = list(study.grid[factors[0]]) if factors else [ALL]
        cells = [frozenset({(factors[0], level)}) for level in across] if factors else [frozenset()]
        return [("", cells)], across
    first, second = factors[:2]
    across = list(study.grid[second])
    rest = fixed.items()
    return [
        (level, [frozenset({(first, level), (second, other), *rest}) for other in across])
        for level in study.grid[first]
    ], across


def _curve(
    name: str, cells: Sequence, across: Sequence, found: Mapping, style: dict, joined: bool
) -> Iterator[go.Scatter]:
    """Means, joined by a line where the levels are numbers, and the value of each seed."""
    by_cell = {cell: {seed: value for (of, seed), value in found.items() if of == cell} for cell in cells}
    means = [fmean(by_cell[cell].values()) if by_cell[cell] else None for cell in cells]
    places = [escape(place) if isinstance(place, str) else place for place in across]
    # a dot would hide the seeds behind it
    bar = {"size": 14, "symbol": "line-ew", "line": {"width": 3, "color": style["color"]}}
    common = {"name": escape(name), "legendgroup": name, "offsetgroup": name or ALL}
    yield go.Scatter(
        x=places,
        y=means,
        mode="lines+markers" if joined else "markers",
        line={"width": 2, "color": style["color"]},
        marker={"size": 10, **style} if joined else bar,
        showlegend=joined,
        hovertemplate=f"{escape(name)} %{{x}}: mean %{{y:.4~g}}<extra></extra>",
        **common,
    )
    points = [
        (place, value, seed) for place, cell in zip(places, cells, strict=True) for seed, value in by_cell[cell].items()
    ]
    yield go.Scatter(
        x=[place for place, *_ in points],
        y=[value for _, value, _ in points],
        customdata=[seed for *_, seed in points],
        mode="markers",
        marker={"size": 5 if joined else 8, **style, "opacity": 0.7},
        hovertemplate=f"{escape(name)} %{{x}}, seed %{{customdata}}: %{{y:.4~g}}<extra></extra>",
        showlegend=not joined,
        **common,
    )


def _extremes(study: Study, found: Mapping) -> str:
    """The combinations with the lowest and the highest mean."""
    cells: dict[frozenset, list[float]] = {}
    for (cell, _), value in found.items():
        cells.setdefault(cell, []).append(value)
    means = {cell: fmean(values) for cell, values in cells.items()}
    if len(means) < 2:
        return f"Mean: {number(next(iter(means.values())))}."
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    names = [grid.name_of({factor: dict(cell)[factor] for factor in study.grid}) for cell in (low, high)]
    return f"Lowest mean: {number(means[low])} ({names[0]}); highest: {number(means[high])} ({names[1]})."


def _numbers(levels: Sequence[str]) -> list[float] | None:
    """The levels as numbers, where all are."""
    try:
        numbers = [float(level) for level in levels]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _spread_widely(values) -> bool:
    values = list(values)
    return min(values) > 0 and max(values) > 50 * min(values)
