"""Predicted against true values of a run that learned numbers."""

from __future__ import annotations

import math
from html import escape
from typing import Annotated

import plotly.graph_objects as go
from pydantic import BaseModel, Field, field_validator, model_validator

from nrm_keras.report.figures import Chart
from nrm_keras.report.reading import Count
from nrm_keras.report.verdict import number

MOST_POINTS = 2000

Row = list[Annotated[float, Field(allow_inf_nan=False)]]


def known_version(version: int) -> int:
    if version != 1:
        raise ValueError(f"this nrm_keras reads version 1. Received: {version}. Another release wrote it")
    return version


class Predictions(BaseModel):
    """The content of `evaluation.json` of a regression: a row per example, a column per target."""

    version: int
    split: str
    targets: list[str]
    true: list[Row]
    predicted: list[Row]
    unanswered: Count = 0
    unit: str = "examples"

    _known = field_validator("version")(known_version)

    @model_validator(mode="after")
    def _shapes(self) -> Predictions:
        widths = {len(row) for row in (*self.true, *self.predicted)}
        if len(self.true) != len(self.predicted) or widths - {len(self.targets)}:
            raise ValueError(
                f"true and predicted have a row per example and a column per target. Received: {len(self.true)} and"
                f" {len(self.predicted)} rows of {sorted(widths)} columns for {len(self.targets)} targets"
            )
        return self

    @property
    def answered(self) -> int:
        return len(self.true)


def charts(found: Predictions) -> list[Chart]:
    """One chart a target: true values to the right, predicted ones upwards, and the line where they are equal."""
    return [_chart(found, column) for column in range(len(found.targets))]


def _chart(found: Predictions, column: int) -> Chart:
    name = found.targets[column]
    true, predicted = ([row[column] for row in rows] for rows in (found.true, found.predicted))
    errors = [there - here for here, there in zip(true, predicted, strict=True)]
    ends = [min(true), max(true)]
    figure = go.Figure(layout=_layout(name))
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line={"width": 1.5, "dash": "dot"}, hoverinfo="skip"))
    figure.add_trace(
        go.Scatter(
            x=true,
            y=predicted,
            mode="markers",
            marker={"size": 5, "opacity": 0.6},
            hovertemplate="true %{x:.5g}<br>predicted %{y:.5g}<extra></extra>",
        )
    )
    rmse = math.sqrt(math.fsum(error * error for error in errors) / len(errors))
    worst = max(range(len(errors)), key=lambda index: abs(errors[index]))
    sentence = (
        f"{len(true):,} {found.split} examples: root mean square error {number(rmse)}, mean error"
        f" {number(math.fsum(errors) / len(errors))}; the largest error is that of {number(true[worst])}, predicted as"
        f" {number(predicted[worst])}."
    )
    return Chart(f"Predicted against true {name}", sentence, figure.to_plotly_json())


def _layout(name: str) -> dict:
    return {
        "height": 380,
        "showlegend": False,
        "margin": {"l": 60, "r": 16, "t": 16, "b": 48},
        "xaxis": {"title": {"text": f"true {escape(name)}", "font": {"size": 13}}},
        "yaxis": {"title": {"text": "predicted", "font": {"size": 13}}},
    }
