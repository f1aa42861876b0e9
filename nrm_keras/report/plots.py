"""The kinds of figures that the inside of a model is shown in, on plotly: maps, lines and bands over steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from nrm_keras.report.statistics import Series

LABEL, LEGEND = 28, 8
# Seen on white and on black alike; what has no colour of its own takes those of the page's scheme.
MAIN, ACCENT, AREA = "#3f7fe0", "#d0691a", (63, 127, 224, 0.3)
ABOVE = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"}
BASE = {"margin": {"l": 56, "r": 16, "t": 20, "b": 44}, "xaxis": {"title": {"text": "step", "font": {"size": 13}}}}


def layer_map(
    layers: Mapping[str, Series],
    unit: str,
    more: Mapping[str, Mapping[str, Series]] | None = None,
    logarithmic: bool = False,
    bounds: tuple[float, float] | None = None,
) -> dict:
    """Layers from input to output downwards, steps across, a number as colour.

    Args:
        layers: the number by layer.
        unit: what the colour is, for the hover text.
        more: further numbers by their name, shown on hover.
        logarithmic: whether the colour is the number's logarithm.
        bounds: of the colour; None for those of the numbers, but for a few that are far larger than all others.
    """
    steps = sorted({step for series in layers.values() for step in series.steps})
    rows = [_row(series, steps) for series in layers.values()]
    shown = {unit: rows} if logarithmic else {}
    for name, part in (more or {}).items():
        shown[name] = [_row(part.get(layer, Series([], [])), steps) for layer in layers]
    colors = (
        [[math.log10(v) if v is not None and v > 0 else None for v in row] for row in rows] if logarithmic else rows
    )
    bounds = bounds or (None if logarithmic else _without_outliers(rows))
    first = [] if logarithmic else [f"{escape(unit)} %{{z:.4~g}}"]
    hover = first + [f"{escape(name)} %{{customdata[{index}]:.4~g}}" for index, name in enumerate(shown)]
    names = [escape(name) for name in layers]
    figure = go.Figure(
        go.Heatmap(
            x=steps,
            y=names,
            z=[[_rounded(v) for v in row] for row in colors],
            customdata=[
                [[_rounded(v) for v in cell] for cell in zip(*row, strict=True)]
                for row in zip(*shown.values(), strict=True)
            ]
            or None,
            hovertemplate=f"%{{y}}, step %{{x}}<br>{'<br>'.join(hover)}<extra></extra>",
            **({"zmin": bounds[0], "zmax": bounds[1]} if bounds else {}),
            colorbar={"tickprefix": "10^" if logarithmic else "", "tickformat": ".2~g", **_ticks(colors, logarithmic)},
        )
    )
    return _finished(figure, height=min(max(240, 70 + 19 * len(names)), 900), yaxis=_layer_axis(list(layers)))


def lines(
    curves: Mapping[str, Series],
    unit: str,
    *,
    dashed: Sequence[str] = (),
    logarithmic: bool = False,
    bounds: tuple[float, float] | None = None,
    mark: int | None = None,
    threshold: float | None = None,
    over: str = "step",
) -> dict:
    """Curves over steps, or `over` epochs; `mark` is a step with a dotted line, `threshold` a value with one.

    More than a legend has room for are layers in their order: the first ones dark, the last ones bright.
    """
    figure = go.Figure()
    many = len(curves) > LEGEND
    colors = sample_colorscale("Viridis", [0.15 + 0.65 * i / len(curves) for i in range(len(curves))]) if many else []
    for index, (name, series) in enumerate(curves.items()):
        style = {"width": 2.5, "dash": "dash"} if name in dashed else {"width": 2}
        if many:
            style["color"] = ACCENT if [name] == list(dashed) else colors[index]
        figure.add_trace(_curve(series, name, style))
    if mark is not None:
        figure.add_vline(x=mark, line={"dash": "dot", "width": 1.5})
    if threshold is not None:
        figure.add_hline(y=threshold, line={"dash": "dot", "width": 1.5})
    values = [value for series in curves.values() for value in series.finite]
    values += [] if threshold is None else [threshold]
    steps = [step for series in curves.values() for step in series.steps]
    whole = {"dtick": 1} if steps and max(steps) - min(steps) <= 12 else {}  # no step 1.5
    return _finished(
        figure,
        height=290,
        margin={**BASE["margin"], "t": 20 if many or len(curves) < 2 else 40},
        hovermode="closest" if many else "x unified",
        showlegend=not many and len(curves) > 1,
        legend=ABOVE,
        xaxis={"title": title(over), **whole},
        yaxis={"title": title(unit), "range": bounds, **(log_axis(values) if logarithmic else {})},
    )


def profile(
    curves: Mapping[str, Mapping[str, float]], unit: str, *, dashed: Sequence[str] = (), logarithmic: bool = False
) -> dict:
    """Layers from input to output downwards, a number of each across, a curve for each of `curves`."""
    layers = list(dict.fromkeys(layer for curve in curves.values() for layer in curve))
    figure = go.Figure()
    for name, curve in curves.items():
        figure.add_trace(
            go.Scatter(
                x=[_rounded(curve.get(layer)) for layer in layers],
                y=[escape(layer) for layer in layers],
                name=escape(name),
                mode="lines+markers",
                line={"width": 2, "dash": "dash" if name in dashed else "solid"},
                marker={"size": 5},
                hovertemplate="%{x:.4~g}",
            )
        )
    values = [value for curve in curves.values() for value in curve.values() if math.isfinite(value)]
    return _finished(
        figure,
        height=min(max(280, 110 + 19 * len(layers)), 900),
        margin={**BASE["margin"], "t": 40},
        hovermode="closest" if len(curves) > LEGEND else "y unified",
        showlegend=len(curves) > 1,
        legend=ABOVE,
        xaxis={"title": title(unit), **(log_axis(values) if logarithmic else {})},
        yaxis=_layer_axis(layers),
    )


def band(low: Series, middle: Series, high: Series, unit: str) -> dict:
    """A median as a line, and what lies between two percentiles as an area."""
    figure = go.Figure()
    figure.add_trace(_curve(low, "15th percentile", {"width": 0}))
    figure.add_trace(_curve(high, "85th percentile", {"width": 0}).update(fill="tonexty", fillcolor=f"rgba{AREA}"))
    figure.add_trace(_curve(middle, "median", {"width": 2, "color": MAIN}))
    return _finished(figure, height=320, hovermode="x unified", showlegend=False, yaxis={"title": title(unit)})


def stems(nodes: Sequence[float], weights: Sequence[float], unit: str) -> dict:
    """A spectrum: a share at each value, on a logarithmic axis."""
    pairs = [(x, y) for x, y in zip(nodes, weights, strict=False) if math.isfinite(x) and math.isfinite(y) and y > 0]
    floor = min((y for _, y in pairs), default=1) / 10
    feet = {"x": [v for x, _ in pairs for v in (x, x, None)], "y": [v for _, y in pairs for v in (floor, y, None)]}
    figure = go.Figure(go.Scatter(**feet, mode="lines", line={"width": 2, "color": MAIN}, hoverinfo="skip"))
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in pairs],
            y=[y for _, y in pairs],
            mode="markers",
            marker={"size": 8, "color": MAIN},
            hovertemplate="eigenvalue near %{x:.4~g}<br>share %{y:.2~g}<extra></extra>",
        )
    )
    return _finished(
        figure,
        height=290,
        showlegend=False,
        xaxis={"title": title(unit)},
        yaxis={"title": title("share of the eigenvalues"), **log_axis([y for _, y in pairs])},
    )


def spread_widely(curves: Iterable[Series]) -> bool:
    """Whether a logarithmic axis shows more: what falls by orders of magnitude is a flat line on a linear one."""
    values = [value for series in curves for value in series.finite]
    return bool(values) and min(values) > 0 and max(values) > 50 * min(values)


def _curve(series, name, line):
    few = len(series.steps) <= 30 and line["width"]
    return go.Scatter(
        x=series.steps,
        y=[_rounded(value) for value in series.values],
        name=escape(name),
        mode="lines+markers" if few else "lines",
        line=line,
        marker={"size": 5},
        hovertemplate="%{y:.4~g}",
    )


def title(text):
    return {"text": escape(text), "font": {"size": 13}}


def log_axis(values: Sequence[float]) -> dict:
    """A logarithmic axis with ticks at powers of ten, between them where there are few, and not at each of many."""
    positive = [value for value in values if value > 0]
    decades = math.log10(max(positive)) - math.log10(min(positive)) if positive else 0.0
    if positive and decades < 3:
        return {"type": "log", "dtick": "D2", "tickformat": "~g"}
    return {"type": "log", "dtick": max(1, math.ceil(decades / 7)), "exponentformat": "power"}


def _finished(figure: go.Figure, **layout) -> dict:
    figure.update_layout(**{**BASE, **layout})
    return figure.to_plotly_json()


def _ticks(colors, logarithmic):
    """Whole powers of ten, where there are two of them."""
    values = [value for row in colors for value in row if value is not None]
    decades = max(values) - min(values) if logarithmic and values else 0
    return {"dtick": math.ceil(decades / 10)} if decades >= 2 else {"nticks": 5}


def _without_outliers(rows):
    values = sorted(value for row in rows for value in row if value is not None)
    if not values or values[0] < 0:
        return None
    most = values[int(0.95 * (len(values) - 1))]
    return (0, most) if 0 < most < values[-1] / 2 else (0, values[-1])


def has_outliers(figure: dict) -> bool:
    """Whether a map has cells beyond its last colour."""
    (cells,) = figure["data"]
    return any(value is not None and value > cells.get("zmax", math.inf) for row in cells["z"] for value in row)


def _layer_axis(names):
    """Categories are the whole names, which are unique, and show on hover; there is room for the ends of some."""
    every = -(-len(names) // 45)
    return {
        "type": "category",
        "autorange": "reversed",
        "tickmode": "array",
        "tickvals": [escape(name) for name in names[::every]],
        "ticktext": [escape(_shortened(name)) for name in names[::every]],
        "showgrid": False,
    }


def _shortened(name):
    return name if len(name) <= LABEL else f"…{name[-LABEL + 1 :]}"


def _row(series, steps):
    values = dict(zip(series.steps, series.values, strict=True))
    return [value if math.isfinite(value := values.get(step, math.nan)) else None for step in steps]


def _rounded(value):
    """Four digits, as many as anyone reads off a chart; they halve the page."""
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
