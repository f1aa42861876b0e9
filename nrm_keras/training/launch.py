"""Starts and resumes runs: the run directory around `train`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from nrm_keras.data import sources
from nrm_keras.errors import UserError
from nrm_keras.recipe import loading
from nrm_keras.recipe.lints import lints
from nrm_keras.recipe.writing import difference
from nrm_keras.report import page
from nrm_keras.runs import directory, environment
from nrm_keras.runs.run import Run
from nrm_keras.training.startup import quiet_start

PROGRAM = "python -m nrm_keras"


def run(
    recipe: str | Path,
    overrides=(),
    *,
    out: str | Path = "runs",
    smoke: bool = False,
    allow_imports: bool = False,
    say: Callable[[str], None] = print,
) -> Run:
    """Trains a recipe in a new run directory.

    Args:
        recipe: the name of a shipped recipe, NAME@variant, or a path.
        overrides: `{"section.key": value}`, or `["section.key=value"]` as on the command line.
        out: where run directories are made.
        smoke: two steps of the smallest model on a few examples: does everything work?
        allow_imports: whether a recipe that is not shipped may import the modules it lists.
        say: prints one line.

    Returns:
        The finished `Run`.

    Raises:
        UserError: the recipe, its data or its devices are not in order.
        KeyboardInterrupt: stopped; `resume` goes on.

    Example:

        >>> import nrm_keras
        >>> run = nrm_keras.run("images/digits_adaptive", {"train.epochs": 1}, smoke=True, say=lambda line: None)  # doctest: +SKIP
    """
    loaded = loading.load(recipe, overrides, allow_imports=allow_imports)
    loading.import_modules(loaded)
    sources.require(loaded.recipe.data)
    for warning in lints(loaded):
        say(warning)
    files = {
        directory.RECIPE: loaded.to_yaml(origin=True),
        directory.COMMAND: _command(),
        directory.ENVIRONMENT: json.dumps({"run": {"recipe": loaded.name, "smoke": smoke}}),
    }
    path = directory.create(Path(out), loaded.name, files)
    say(f"Run directory: {path}")
    return _train(loaded, path, say)


def resume(
    path: str | Path,
    recipe: str | Path | None = None,
    overrides=(),
    *,
    accept_changes: bool = False,
    allow_imports: bool = False,
    say: Callable[[str], None] = print,
) -> Run:
    """Goes on with a run that was stopped or killed, from its last checkpoint; the end is as if it never was.

    Args:
        path: the run directory.
        recipe: None for the run's own; another one is compared with it.
        overrides: changes, as in `run`.
        accept_changes: whether a recipe that differs from the run's is taken.

    Raises:
        UserError: the recipe or the data changed; lists the differences.
    """
    path = directory.check(Path(path))
    before = loading.load(path / directory.RECIPE, allow_imports=True)
    loaded = loading.load(recipe or path / directory.RECIPE, overrides, allow_imports=allow_imports or recipe is None)
    changes = difference(before.recipe, loaded.recipe)
    if changes:
        listed = "\n".join(f"  {name}: {old!r} -> {new!r}" for name, old, new in changes)
        if not accept_changes:
            raise UserError(
                f"{path}: a run goes on with the recipe it began with. Received:\n{listed}\n"
                "Add --accept-changes to go on with these changes, or start a new run."
            )
        say(f"Going on with changes:\n{listed}")
        directory.write_text(path / directory.RECIPE, loaded.to_yaml(origin=True))
    elif directory.summary(path):
        say(f"{path} is finished; there is nothing to resume.")
        return Run(path)
    loading.import_modules(loaded)
    with open(path / directory.COMMAND, "a", encoding="utf-8") as file:
        file.write(_command())
    return _train(loaded, path, say)


def _train(loaded: loading.Loaded, path: Path, say: Callable[[str], None]) -> Run:
    with open(path / directory.LOG, "a", encoding="utf-8", buffering=1) as log:

        def tell(line: str) -> None:
            log.write(f"{line}\n")
            say(line)

        with quiet_start():
            from nrm_keras.training import train  # imports TensorFlow: everything cheap has been checked

        identity = directory.environment(path)["run"]
        directory.record(path, environment.collect())
        try:
            scores = train.train(loaded.recipe, path, tell, identity["smoke"])
        except KeyboardInterrupt:
            page.write(path)
            tell(f"Stopped. Nothing is lost; this goes on: {PROGRAM} run --resume {path}")
            raise
        summary = {"recipe": identity["recipe"], "title": loaded.recipe.title, "task": loaded.recipe.task, **scores}
        directory.write_json(path / directory.SUMMARY, summary)
        report = page.write(path)
        words = "  ".join(f"{name} {value:.4f}" for name, value in scores["metrics"].get("test", {}).items())
        tell(f"Test: {words}   ({scores['seconds']:.0f} s)")
        tell(f"Report: {report}")
    return Run(path)


def _command() -> str:
    return shlex.join([*PROGRAM.split(), *sys.argv[1:]]) + "\n"
