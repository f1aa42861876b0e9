"""Training curves as plotly figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape

import plotly.graph_objects as go

from nrm_keras.report import plots
from nrm_keras.report.statistics import Series
from nrm_keras.report.verdict import heading, number
from nrm_keras.runs.metrics import smaller_is_better

NOT_METRICS = {"epoch", "learning_rate", "seconds"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
# two colours with contrast above 3 : 1 on their background that colour-blind people tell apart; dashes help too
SCHEMES = {
    "light": {
        "text": "#3d4657",
        "grid": "#e6e9ef",
        "line": "#c3c9d4",
        "paper": "#ffffff",
        "colors": ["#2f6fde", "#c2570c", "#2a8a57", "#8a4fc2", "#b33a6a"],
        "scale": ["#f3f6fb", "#b9d0f5", "#6b9bea", "#2f6fde", "#173f8f", "#0a1f4d"],
    },
    "dark": {
        "text": "#b9c2d0",
        "grid": "#2a313d",
        "line": "#465062",
        "paper": "#171c25",
        "colors": ["#6ea8ff", "#ff9e5e", "#5fd394", "#c79bff", "#ff8fb8"],
        "scale": ["#1d2430", "#1f3f77", "#2f6fde", "#6ea8ff", "#b9d5ff", "#f2f7ff"],
    },
}


@dataclass(frozen=True)
class Chart:
    """A figure with a heading and a sentence that says what is to be seen, for those who cannot see it.

    Where there are `choices`, the reader takes one of these figures, by name; `choose` says of what, such as "layer".
    """

    title: str
    sentence: str
    figure: dict
    choices: dict[str, dict] = field(default_factory=dict)
    choose: str = ""
    wide: bool = False


def chosen(title: str, sentence: str, choices: dict[str, dict], choose: str, wide: bool = False) -> list[Chart]:
    """A chart of which the reader chooses the figure where there are several; none without any."""
    if not choices:
        return []
    first = next(iter(choices.values()))
    return [Chart(title, sentence, first, choices if len(choices) > 1 else {}, choose, wide)]


def charts(metrics: dict[str, list[float]], best_epoch: int | None) -> list[Chart]:
    """One chart a metric, training beside validation, then the learning rate; none without a finite value."""
    epochs = metrics.get("epoch", [])
    # a dict as an ordered set: a metric may be measured on one of the two only
    names = list(dict.fromkeys(name.removeprefix("val_") for name in metrics if name not in NOT_METRICS))
    names.sort(key=lambda name: name != "loss")
    pairs = [
        (name, {"training": metrics.get(name, []), "validation": metrics.get(f"val_{name}", [])}) for name in names
    ]
    pairs.append(("learning_rate", {"learning rate": metrics.get("learning_rate", [])}))
    drawn = [
        (name, {key: values for key, values in curves.items() if any(map(math.isfinite, values))})
        for name, curves in pairs
    ]
    return [_chart(name, epochs, curves, best_epoch) for name, curves in drawn if curves]


def _chart(name: str, epochs: list[float], curves: dict[str, list[float]], best_epoch: int | None) -> Chart:
    is_rate = name == "learning_rate"
    figure = go.Figure(layout=_layout(curves))
    for key, values in curves.items():
        figure.add_trace(_line(key, epochs, values, dashed=key == "validation", marked=len(epochs) <= 30))
    if best_epoch and not is_rate:
        _mark(figure, best_epoch, at_top=smaller_is_better(name), leftwards=best_epoch > len(epochs) / 2)
    if len(epochs) <= 12:
        figure.update_xaxes(tick0=1, dtick=1)
    if len(epochs) == 1:
        figure.update_xaxes(range=[epochs[0] - 1, epochs[0] + 1])
    if is_rate:
        figure.update_yaxes(rangemode="tozero", exponentformat="power", tickformat="~g")
    title = heading(name)
    return Chart(
        title, _sentence(epochs, curves, highest=not smaller_is_better(name), is_rate=is_rate), figure.to_plotly_json()
    )


def _mark(figure: go.Figure, epoch: int, at_top: bool, leftwards: bool) -> None:
    """A vertical line with its words where the curves of an error, or of a score, usually aren't."""
    figure.add_vline(x=epoch, line={"dash": "dot", "width": 1.5})
    place = {"y": 1, "yanchor": "top"} if at_top else {"y": 0, "yanchor": "bottom"}
    side = {"xanchor": "right", "xshift": -3} if leftwards else {"xanchor": "left", "xshift": 3}
    figure.add_annotation(x=epoch, yref="paper", text=f"best: {epoch}", showarrow=False, **place, **side)


def _line(key: str, epochs: list[float], values: list[float], dashed: bool, marked: bool) -> go.Scatter:
    return go.Scatter(
        x=[int(epoch) for epoch in epochs],
        y=[value if math.isfinite(value) else None for value in values],
        name=escape(key),
        mode="lines+markers" if marked else "lines",
        line={"width": 2.5, "dash": "dash" if dashed else "solid"},
        marker={"size": 5},
        hovertemplate="%{y:.4~g}",
    )


def _layout(curves: dict[str, list[float]]) -> dict:
    drawn = [Series([], values) for values in curves.values()]
    logarithmic = plots.spread_widely(drawn) and "learning rate" not in curves
    return {
        "height": 290,
        "margin": {"l": 56, "r": 16, "t": 34, "b": 44},
        "showlegend": len(curves) > 1,
        "legend": plots.ABOVE,
        "hovermode": "x unified",
        "xaxis": {"title": {"text": "epoch", "font": {"size": 13}}, "tickformat": "d", "hoverformat": "d"},
        "yaxis": plots.log_axis([value for series in drawn for value in series.finite]) if logarithmic else {},
    }


def _sentence(epochs: list[float], curves: dict[str, list[float]], highest: bool, is_rate: bool) -> str:
    if is_rate:
        values = [value for value in curves["learning rate"] if math.isfinite(value)]
        first, last = number(values[0]), number(values[-1])
        return (
            f"Constant at {last}."
            if min(values) == max(values)
            else f"{first} after the first epoch, {last} after the last."
        )
    parts = []
    for key, values in curves.items():
        finite = [(value, epoch) for value, epoch in zip(values, epochs, strict=True) if math.isfinite(value)]
        value, epoch = (max if highest else min)(finite, key=lambda pair: pair[0])
        parts.append(f"{key} {number(value)} at epoch {int(epoch)}")
    return f"{'Highest' if highest else 'Lowest'}: {', '.join(parts)}."


def templates() -> dict[str, dict]:
    """Plotly templates for light and dark screens; the page's script chooses and keeps to the reader's scheme."""
    return {name: _template(scheme) for name, scheme in SCHEMES.items()}


def _template(scheme: dict) -> dict:
    axis = {
        "gridcolor": scheme["grid"],
        "linecolor": scheme["line"],
        "showline": True,
        "zeroline": False,
        "automargin": True,
    }
    scale = [[index / (len(scheme["scale"]) - 1), color] for index, color in enumerate(scheme["scale"])]
    return go.layout.Template(
        data={
            "heatmap": [{"colorscale": scale, "hoverongaps": False, "colorbar": {"outlinewidth": 0, "thickness": 12}}]
        },
        layout={
            "colorway": scheme["colors"],
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 13, "color": scheme["text"]},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": scheme["paper"],
                "bordercolor": scheme["line"],
                "font": {"color": scheme["text"]},
            },
            "shapedefaults": {"line": {"color": scheme["text"]}},
        },
    ).to_plotly_json()
