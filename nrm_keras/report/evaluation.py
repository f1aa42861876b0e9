"""What a run got right and wrong: results per class, confusion matrix, and pictures of its mistakes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated, Literal

import plotly.graph_objects as go
from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from nrm_keras.report.figures import Chart
from nrm_keras.report.reading import Count
from nrm_keras.report.regression import Predictions, known_version
from nrm_keras.report.tables import Table, interval_words
from nrm_keras.report.verdict import number, percent, wilson
from nrm_keras.runs import directory

MOST_PICTURES, MOST_BYTES = 12, 100_000
CHART_CLASSES, TABLE_CLASSES, WRITTEN_CLASSES = 30, 200, 15
PNG = b"\x89PNG\r\n\x1a\n"
# a cell without examples stays empty, so every other one must stand out from white and from black; it changes fastest
# where the shares of mistakes are, and its darkness alone gives the order
COLORSCALE = [[0, "#f4c95d"], [0.05, "#ee9b4a"], [0.3, "#d0587e"], [1, "#3f5fd0"]]

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Example(BaseModel):
    """One input with the model's answer; files are named relative to the run directory."""

    image: str
    true: str = ""
    predicted: str = ""
    probability: Annotated[float, Field(ge=0, le=1)] | None = None
    mask: str | None = None
    predicted_mask: str | None = None
    caption: str = ""


class Evaluation(BaseModel):
    """The content of `evaluation.json`; `confusion` has a row per true class and a column per predicted one.

    `unit` is what it counts: examples, or pixels or voxels of masks.
    """

    version: int
    split: str
    unit: Literal["examples", "pixels", "voxels"] = "examples"
    classes: list[str]
    confusion: list[list[Count]]
    loss_per_class: list[Finite | None] | None = None
    unanswered: Count = 0
    examples: list[Example] = []

    _known = field_validator("version")(known_version)

    @model_validator(mode="after")
    def _shapes(self) -> Evaluation:
        count = len(self.classes)
        losses = count if self.loss_per_class is None else len(self.loss_per_class)
        widths = sorted({len(row) for row in self.confusion})
        if len(self.confusion) != count or widths not in ([], [count]) or losses != count:
            raise ValueError(
                f"confusion is a square with one row per class, and loss_per_class has one loss per class."
                f" Received: {count} classes, {len(self.confusion)} rows of {widths} columns, {losses} losses"
            )
        return self

    @property
    def answered(self) -> int:
        return sum(self.examples_per_class)

    @property
    def examples_per_class(self) -> list[int]:
        return [sum(row) for row in self.confusion]

    @property
    def answers_per_class(self) -> list[int]:
        return [sum(column) for column in zip(*self.confusion, strict=True)]

    def most_wrong(self, limit: int) -> list[int]:
        """At most `limit` classes, those with the most errors (missed or wrongly answered), in their order."""
        totals = zip(self.examples_per_class, self.answers_per_class, strict=True)
        errors = [sum(both) - 2 * self.confusion[index][index] for index, both in enumerate(totals)]
        worst = sorted(range(len(errors)), key=lambda index: -errors[index])
        return sorted(worst[:limit])

    def most_often_taken_for(self, index: int) -> int | None:
        """The class that examples of class `index` are most often mistaken for."""
        row = self.confusion[index]
        others = [other for other in range(len(row)) if other != index and row[other]]
        return max(others, key=row.__getitem__, default=None)


def _kind(content) -> str:
    return "targets" if isinstance(content, dict) and "targets" in content else "classes"


CONTENT = TypeAdapter(
    Annotated[Annotated[Evaluation, Tag("classes")] | Annotated[Predictions, Tag("targets")], Discriminator(_kind)]
)


@dataclass(frozen=True)
class Picture:
    """An example as data URIs of PNGs, with what is to be seen in words; masks are empty where there are none."""

    caption: str
    image: str
    mask: str = ""
    predicted_mask: str = ""


def read(run_dir: Path, notices: list[str]) -> Evaluation | Predictions | None:
    """The run's evaluation. A run that is still training has none; anything else that is amiss becomes a notice."""
    file = directory.EVALUATION
    try:
        found = CONTENT.validate_json((Path(run_dir) / file).read_bytes())
    except FileNotFoundError:
        if (Path(run_dir) / directory.SUMMARY).exists():
            notices.append(f"{file} is missing, so results per class are left out.")
        return None
    except OSError as error:
        notices.append(f"{file} cannot be read and is left out: {error}")
        return None
    except ValidationError as error:
        problems = [": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in error.errors()]
        notices.append(f"{file} is not as expected and is left out: {'; '.join(problems[:3])}")
        return None
    if found.unanswered:
        notices.append(
            f"For {found.unanswered:,} of {found.unanswered + found.answered:,} {found.split} {found.unit} the model's answer"
            " is not finite; what follows leaves them out."
        )
    elif not found.answered:
        notices.append(f"{file} counts no {found.unit}, so results per class are left out.")
    return found if found.answered else None


def per_class(evaluation: Evaluation) -> Table:
    """Precision, recall with its 95 % interval, F1 (of masks Dice) and the most frequent mistake of each class.

    A class of which the split has nothing has no scores: every answer of it is wrong, whatever the model knows.
    """
    shown = evaluation.most_wrong(TABLE_CLASSES)
    losses = ["loss"] if evaluation.loss_per_class else []
    f1 = "F1" if evaluation.unit == "examples" else "Dice"
    head = ["class", evaluation.unit, "precision", "recall", f1, *losses, "most often taken for"]
    answers, examples = evaluation.answers_per_class, evaluation.examples_per_class
    rows = [_row(evaluation, index, examples[index], answers[index]) for index in shown]
    return Table(head, rows, _left_out(evaluation, shown))


def _row(evaluation: Evaluation, index: int, examples: int, answers: int) -> list[str]:
    right = evaluation.confusion[index][index]
    precision = percent(right / answers) if answers else "never answered"
    recall = percent(right / examples) if examples else ""
    if examples and evaluation.unit == "examples":  # pixels are not independent: their interval would be far too narrow
        recall += f" ({interval_words(wilson(right / examples, examples))})"
    other = evaluation.most_often_taken_for(index)
    return [
        evaluation.classes[index],
        f"{examples:,}",
        precision if examples else "",
        recall,
        number(2 * right / (examples + answers)) if examples else "",
        *([number(evaluation.loss_per_class[index]) if examples else ""] if evaluation.loss_per_class else []),
        "" if other is None else f"{evaluation.classes[other]} ({evaluation.confusion[index][other]:,})",
    ]


def _left_out(evaluation: Evaluation, shown: list[int]) -> str:
    count = len(evaluation.classes)
    if len(shown) == count:
        return ""
    return f"The {len(shown)} of {count:,} classes with the most errors; {directory.EVALUATION} has all."


def confusion(evaluation: Evaluation) -> Chart | None:
    """The confusion matrix, each row coloured by its shares; None where there is only one class."""
    if len(evaluation.classes) < 2:
        return None
    shown = evaluation.most_wrong(CHART_CLASSES)
    totals = evaluation.examples_per_class
    counts = [[evaluation.confusion[true][predicted] for predicted in shown] for true in shown]
    places = list(range(len(shown)))
    figure = go.Figure(layout=_layout([_short(evaluation.classes[index]) for index in shown]))
    figure.add_heatmap(
        x=places,
        y=places,
        z=[[n / totals[true] if n else None for n in row] for true, row in zip(shown, counts, strict=True)],
        zmin=0,
        zmax=1,
        colorscale=COLORSCALE,
        colorbar={"tickformat": ".0%", "thickness": 10, "outlinewidth": 0},
        xgap=1,
        ygap=1,
        hoverinfo="text",
        hovertext=[[_hover(evaluation, true, predicted, totals[true]) for predicted in shown] for true in shown],
    )
    if len(shown) <= WRITTEN_CLASSES:
        words = [[f"{n:,}" if n else "" for n in row] for row in counts]
        figure.update_traces(text=words, texttemplate="%{text}", textfont={"size": 11})
    sentence = " ".join(filter(None, (_mistakes(evaluation), _left_out(evaluation, shown))))
    return Chart("Confusion matrix", sentence, figure.to_plotly_json())


def _layout(names: list[str]) -> dict:
    # places, not names, on the axes: plotly would take names such as 0 and 1 for numbers, and equal ones for one
    axis = {"tickvals": list(range(len(names))), "ticktext": list(map(escape, names)), "showgrid": False}
    return {
        "height": max(290, 110 + 22 * len(names)),
        "margin": {"l": 56, "r": 16, "t": 16, "b": 44},
        "xaxis": axis | {"title": {"text": "predicted", "font": {"size": 13}}},
        "yaxis": axis | {"title": {"text": "true", "font": {"size": 13}, "standoff": 12}, "autorange": "reversed"},
    }


def _short(name: str, limit: int = 16) -> str:
    """The name without its middle where it is long: names often share their beginning."""
    half = limit // 2
    return name if len(name) <= limit else f"{name[: half - 1]}…{name[-half:]}"


def _hover(evaluation: Evaluation, true: int, predicted: int, total: int) -> str:
    count = evaluation.confusion[true][predicted]
    names = f"true {evaluation.classes[true]}, predicted {evaluation.classes[predicted]}"
    return escape(f"{names}: {count:,} of {total:,} ({percent(count / total)})" if total else f"{names}: no examples")


def _mistakes(evaluation: Evaluation) -> str:
    names, split, matrix = evaluation.classes, evaluation.split, evaluation.confusion
    total = sum(evaluation.examples_per_class)
    wrong = total - sum(row[index] for index, row in enumerate(matrix))
    if not wrong:
        return f"All {total:,} {split} {evaluation.unit} are classified correctly."
    sentence = f"{wrong:,} of {total:,} {split} {evaluation.unit} are taken for another class."
    others = ((index, evaluation.most_often_taken_for(index)) for index in range(len(names)))
    count, true, predicted = max((matrix[index][other], index, other) for index, other in others if other is not None)
    if count == 1:
        return f"{sentence} No two classes are confused more than once."
    of_all = f"{count:,} of {evaluation.examples_per_class[true]:,}"
    return f"{sentence} Most often {names[true]} is taken for {names[predicted]} ({of_all})."


def pictures(run_dir: Path, evaluation: Evaluation, notices: list[str]) -> list[Picture]:
    """The pictured examples; a file that is missing, too large, no PNG or not in `examples/` becomes a notice."""
    return list(_pictures(Path(run_dir), evaluation.examples[:MOST_PICTURES], notices))


def _pictures(run_dir: Path, examples: list[Example], notices: list[str]) -> Iterator[Picture]:
    for example in examples:
        try:
            files = (example.image, example.mask, example.predicted_mask)
            yield Picture(_caption(example), *(_data_uri(run_dir, file) if file else "" for file in files))
        except (OSError, ValueError) as error:
            notices.append(f"A picture is left out: {error}")


def _caption(example: Example) -> str:
    if example.caption:
        return example.caption
    names = [name for name in (example.true, example.predicted) if name]
    sure = "" if example.probability is None else f" ({percent(example.probability)})"
    return f"{' taken for '.join(dict.fromkeys(names))}{sure}"


def _data_uri(run_dir: Path, name: str) -> str:
    """The file as a data URI.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a PNG of the allowed size below the run's `examples/`, links followed.
    """
    root = run_dir.resolve() / directory.EXAMPLES
    path = (run_dir / name).resolve()
    shown = _short(name, 80)
    if not path.is_relative_to(root):
        raise ValueError(f"pictures are files below {directory.EXAMPLES}/. Received: {shown}")
    if not path.is_file():
        raise ValueError(f"{shown} is missing")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{shown} has {path.stat().st_size:,} bytes; at most {MOST_BYTES:,} are shown")
    content = path.read_bytes()
    if not content.startswith(PNG):
        raise ValueError(f"{shown} is not a PNG")
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
