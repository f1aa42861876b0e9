"""`report.html`: one file that shows a run, from its run directory alone, without TensorFlow and without a network."""

from __future__ import annotations

import secrets
import shlex
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from nrm_keras.errors import UserError
from nrm_keras.report import evaluation, figures, findings, inside, regression, tables, verdict
from nrm_keras.report.reading import RunFiles, read_run
from nrm_keras.runs import directory
from nrm_keras.version import __version__


def write(run_dir: Path) -> Path:
    """Writes `report.html` into a run directory, at any time, also while the run is still training.

    Returns:
        The page's path. A reader of an older page at that path sees it whole until the new one is complete.

    Raises:
        UserError: this is no run directory, or it cannot be written to.
    """
    run = read_run(run_dir)
    return save(run.path / directory.REPORT, render(run))


def save(path: Path, text: str) -> Path:
    """A page's text at its path, which is returned, or an error that says what to do."""
    try:
        directory.write_text(path, text)
    except OSError as error:
        raise UserError(
            f"{path}: a report is written into its directory. Received: {error.strerror}. Make it writable."
        ) from error
    return path


def render(run: RunFiles) -> str:
    """The page as text."""
    return fill("page.html", _content(run))


def fill(template: str, content: dict) -> str:
    """A template of this folder with its content, and with what every page needs."""
    environment = Environment(
        loader=PackageLoader("nrm_keras.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        # scripts without this number don't run, whatever a name or a recipe smuggles in
        nonce=secrets.token_urlsafe(16),
        plotly=get_plotlyjs(),
        templates=figures.templates(),
        version=__version__,
        **content,
    )


def _content(run: RunFiles) -> dict:
    summary = run.summary
    notices = [*run.notices, *_not_finite(run)]
    answers = evaluation.read(run.path, notices)
    return {
        "run": run,
        "badge": _badge(run),
        "sentences": verdict.sentences(run),
        "notes": summary.notes if summary else [],
        "tiles": _tiles(run),
        "commands": _commands(run),
        "notices": notices,
        "classes": _classes(run, answers, notices) if isinstance(answers, evaluation.Evaluation) else None,
        "predictions": regression.charts(answers) if isinstance(answers, regression.Predictions) else [],
        "charts": figures.charts(run.metrics, summary.best_epoch if summary else None),
        "findings": findings.cards(run.findings, run.statistics),
        "sections": inside.sections(run.statistics),
        "thinning": inside.thinning(run.statistics),
        "cost": inside.cost(run.statistics),
        "results": tables.results(summary),
        "epochs": tables.epochs(run),
        "recipe": tables.recipe_lines(run.recipe),
        "environment": tables.environment(run.environment),
        "diff": _diff(run.environment),
    }


def _classes(run: RunFiles, answers: evaluation.Evaluation, notices: list[str]) -> dict:
    """What is shown of how the classes fare."""
    examples = answers.unit == "examples"
    return {
        "split": answers.split,
        "interval": "; in parentheses the 95 % confidence interval of recall in percent" if examples else "",
        "pictures_title": "Most confident mistakes" if examples else "Least overlap: input, true mask, predicted mask",
        "table": evaluation.per_class(answers),
        "confusion": evaluation.confusion(answers),
        "pictures": evaluation.pictures(run.path, answers, notices),
    }


def _badge(run: RunFiles) -> tuple[str, str]:
    """(kind, words): how far the run came."""
    if run.summary is None:
        return ("open", "unreadable summary") if run.finished else ("open", "unfinished")
    return ("open", f"{run.summary.status}, smoke test") if run.summary.smoke else ("done", run.summary.status)


def _tiles(run: RunFiles) -> list[tuple[str, str, str]]:
    """(name, value, note) of the few numbers that one looks for first."""
    summary = run.summary
    if summary is None:
        return []
    tiles = [*_score_tile(run), *_model_tile(run)]
    if summary.parameters is not None:
        tiles.append(("parameters", f"{summary.parameters:,}", summary.precision))
    if summary.seconds is not None:
        per_epoch = f"{verdict.duration(summary.seconds / summary.epochs)} per epoch" if summary.epochs else ""
        tiles.append(("time", verdict.duration(summary.seconds), per_epoch))
    if summary.epochs is not None:
        tiles.append(("epochs", str(summary.epochs), f"{summary.steps:,} steps" if summary.steps is not None else ""))
    if summary.classes:
        tiles.append(("classes", str(len(summary.classes)), _names(summary.classes)))
    return tiles


def _score_tile(run: RunFiles) -> list[tuple[str, str, str]]:
    name = verdict.main_metric(run.summary)
    score = verdict.score(run.summary, "test", name) if name else None
    if score is None:
        return []
    if not score.is_share:
        return [(f"test {verdict.label(name)}", verdict.number(score.value), "")]
    interval = f"95 % CI: {tables.interval_words(score.interval)} %"
    return [(f"test {verdict.label(name)}", verdict.percent(score.value), interval)]


def _model_tile(run: RunFiles) -> list[tuple[str, str, str]]:
    """What variants and changes on the command line leave out of the recipe's title."""
    norm, model = (
        section.get("type") if isinstance(section := run.planned.get(name), dict) else None
        for name in ("norm", "model")
    )
    return [("normalization", str(norm), str(model or ""))] if norm else []


def _names(classes: list[str], limit: int = 40) -> str:
    text = ", ".join(classes)
    return text if len(text) <= limit else f"{text[:limit].rsplit(',', 1)[0]}, …"


def _commands(run: RunFiles) -> list[tuple[str, str]]:
    """(what for, command): each can be pasted into a shell."""
    found = [("Repeat this run", run.command)] if run.command else []
    if not run.finished:
        path = shlex.quote(str(run.path))
        found.append(("Continue it, if it was interrupted", f"python -m nrm_keras run --resume {path}"))
        found.append(("Make this page again", f"python -m nrm_keras report {path}"))
    return found


def _not_finite(run: RunFiles) -> list[str]:
    loss = run.metrics.get("loss", [])
    epochs = [epoch for epoch, value in zip(run.epochs, loss, strict=False) if value - value != 0]
    if not epochs:
        return []
    return [f"The training loss was not finite in {len(epochs)} of {len(loss)} epochs, first in epoch {epochs[0]}."]


def _diff(environment: dict) -> str:
    git = environment.get("git")
    return str(git.get("diff") or "") if isinstance(git, dict) else ""
