"""Starts and resumes runs: the run directory around `train`."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from nrm_keras.data import sources
from nrm_keras.errors import PROGRAM, UserError
from nrm_keras.recipe import loading
from nrm_keras.recipe.lints import lints
from nrm_keras.recipe.writing import difference
from nrm_keras.report import page
from nrm_keras.runs import directory, environment
from nrm_keras.runs.run import Run
from nrm_keras.training.startup import quiet_start


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
    require_files(loaded.recipe)
    for warning in lints(loaded):
        say(warning)
    files = {
        directory.RECIPE: loaded.to_yaml(origin=True),
        directory.COMMAND: _command(recipe, overrides, out, smoke),
        directory.ENVIRONMENT: json.dumps({"run": {"recipe": loaded.name, "smoke": smoke}}),
    }
    path = directory.create(Path(out), loaded.name, files)
    say(f"Run directory: {path}")
    try:
        return _train(loaded, path, say)
    except UserError:
        if not (path / directory.METRICS).exists() and not any((path / directory.CHECKPOINTS).iterdir()):
            shutil.rmtree(path)  # nothing was trained: nobody should find it among the runs
        raise


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
    directory.environment(path)
    before = loading.load(path / directory.RECIPE, allow_imports=allow_imports)
    loaded = loading.load(recipe or path / directory.RECIPE, overrides, allow_imports=allow_imports)
    changes = difference(before.recipe, loaded.recipe)
    if not changes and directory.summary(path):
        say(f"{path} is finished; there is nothing to resume.")
        return Run(path)
    listed = "\n".join(f"  {name}: {old!r} -> {new!r}" for name, old, new in changes)
    if changes and not accept_changes:
        raise UserError(
            f"{path}: a run goes on with the recipe it began with. Received:\n{listed}\n"
            "Add --accept-changes to go on with these changes, or start a new run."
        )
    loading.import_modules(loaded)
    with open(path / directory.COMMAND, "a", encoding="utf-8") as file:
        file.write(f"{PROGRAM} run --resume {shlex.quote(str(path))}" + (" --accept-changes" if changes else "") + "\n")
    if not changes:
        return _train(loaded, path, say)
    say(f"Going on with changes:\n{listed}")
    with _changed(path, loaded.to_yaml(origin=True)):
        return _train(loaded, path, say, [name for name, *_ in changes])


@contextlib.contextmanager
def _changed(path: Path, recipe: str):
    """The run's recipe changes, and it is no longer finished; all is as before where it can't go on like that."""
    before = {
        file: (path / file).read_text("utf-8")
        for file in (directory.RECIPE, directory.SUMMARY, directory.EVALUATION)
        if (path / file).exists()
    }
    directory.write_text(path / directory.RECIPE, recipe)
    for file in (directory.SUMMARY, directory.EVALUATION):
        (path / file).unlink(missing_ok=True)
    try:
        yield
    except UserError:
        for file, text in before.items():
            directory.write_text(path / file, text)
        raise


def _train(loaded: loading.Loaded, path: Path, say: Callable[[str], None], changed: Collection[str] = ()) -> Run:
    go_on = f"{PROGRAM} run --resume {path}"
    with directory.lock(path), open(path / directory.LOG, "a", encoding="utf-8", buffering=1) as log:

        def tell(line: str) -> None:
            log.write(f"{line}\n")
            with contextlib.suppress(BrokenPipeError):  # who read along has left; the training stays
                say(line)

        try:
            with quiet_start():
                from nrm_keras.training import train  # imports TensorFlow: everything cheap has been checked
            identity = directory.environment(path)["run"]
            directory.record(path, environment.collect())
            scores = train.train(loaded.recipe, path, tell, identity["smoke"], changed)
            summary = {
                "version": directory.VERSION,
                "recipe": identity["recipe"],
                "title": loaded.recipe.title,
                "task": loaded.recipe.task,
                **scores,
            }
            directory.write_json(path / directory.SUMMARY, summary)
            report = page.write(path)
        except KeyboardInterrupt:
            page.write(path)
            tell(f"Stopped. Nothing is lost; this goes on: {go_on}")
            raise
        except OSError as error:
            raise UserError(
                f"{path}: the system refused: {error}. What was saved stays; this goes on: {go_on}"
            ) from error
        words = "  ".join(f"{name} {value:.4f}" for name, value in scores["metrics"].get("test", {}).items())
        tell(f"Test: {words or 'no test split'}   ({scores['seconds']:.0f} s)")
        if scores["caveat"]:
            tell(f"Note: {scores['caveat']}")
        tell(f"Report: {report}")
    return Run(path)


def require_files(recipe) -> None:
    """Checks that the user's files are there, before anything is made.

    Raises:
        UserError: one is not.
    """
    sources.require(recipe.data)
    start = recipe.train.init_from
    if start and not (Path(start) / directory.MODEL).is_file() and not Path(start).is_file():
        raise UserError(
            f"train.init_from: the directory of a finished run, or a .keras file. Received: {start}, which is neither. "
            f"`{PROGRAM} runs ls` lists runs."
        )


def _command(recipe, overrides, out, smoke: bool) -> str:
    """The command that does the same, however the run was started."""
    if isinstance(overrides, Mapping):
        overrides = [f"{name}={json.dumps(value)}" for name, value in overrides.items()]
    options = [*(["--smoke"] if smoke else []), *(["--out", str(out)] if str(out) != "runs" else [])]
    return shlex.join([*PROGRAM.split(), "run", str(recipe), *overrides, *options]) + "\n"
