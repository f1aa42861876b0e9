"""Run directories: `runs/<recipe>/<time>-<hash>/`, made atomically and never overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from pathlib import Path

from nrm_keras.errors import UserError

# of what a run leaves behind; summary.json has it
VERSION = 1
RECIPE, COMMAND, SUMMARY, METRICS = "recipe.yaml", "command.txt", "summary.json", "metrics.csv"
ENVIRONMENT, LOG, CHECKPOINTS, REPORT = "environment.json", "log.txt", "checkpoints", "report.html"
STATISTICS, ALERTS = "statistics.jsonl", "alerts.jsonl"
EVALUATION, EXAMPLES = "evaluation.json", "examples"
MODEL = f"{CHECKPOINTS}/model.keras"


def create(root: Path, name: str, files: dict[str, str]) -> Path:
    """Makes a new run directory that holds `files` from its first moment.

    Args:
        root: such as `runs`.
        name: of the recipe, such as `images/digits_adaptive@batch`.
        files: text by file name; `recipe.yaml` is among them and names the run by its hash.
    """
    parent = root / name
    digest = hashlib.sha256(files[RECIPE].encode()).hexdigest()[:6]
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{digest}"
    try:
        partial = parent / f".{stem}-{os.getpid()}"
        partial.mkdir(parents=True)
        (partial / CHECKPOINTS).mkdir()
        for file, text in files.items():
            (partial / file).write_text(text, "utf-8")
        return _move_to_free_name(partial, parent / stem)
    except OSError as error:
        raise UserError(
            f"{parent}: a run directory must be writable. Received: {error}. Choose another with --out."
        ) from error


def _move_to_free_name(partial: Path, wanted: Path) -> Path:
    number = 1
    while True:
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            # refuses a directory that holds something, so no other run is ever replaced
            partial.rename(path)
            return path
        except OSError:
            if not path.exists():
                raise
            number += 1


def check(path: Path) -> Path:
    """The run directory at `path`.

    Raises:
        UserError: there is none.
    """
    if not (path / RECIPE).is_file():
        what = f"a directory without {RECIPE}" if path.is_dir() else "a file" if path.exists() else "no such directory"
        raise UserError(f"{path}: not a run directory. Received: {what}. `python -m nrm_keras runs ls` lists runs.")
    return path


def find_all(root: Path) -> list[Path]:
    """Every run below `root`, oldest first; also while others are made there, whose folders change their names."""
    found = []
    # not Path.glob, which fails where a folder that it is about to enter is renamed
    for folder, inner, files in os.walk(root):
        inner[:] = [] if RECIPE in files else [name for name in inner if not name.startswith(".")]
        found += [Path(folder)] * (RECIPE in files)
    return sorted(found, key=lambda path: path.name)


def summary(path: Path) -> dict | None:
    """What a finished run achieved; None while it is unfinished, or where the file is damaged: resuming writes it anew."""
    try:
        content = json.loads((path / SUMMARY).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def finished(path: Path) -> dict:
    """The summary of a finished run.

    Raises:
        UserError: it is no run, or an unfinished one.
    """
    found = summary(check(path))
    if found is None or not (path / MODEL).exists():
        raise UserError(
            f"{path}: a finished run is needed. Received: one without {MODEL if found else SUMMARY}."
            f" `python -m nrm_keras run --resume {path}` finishes it."
        )
    return found


def environment(path: Path) -> dict:
    """The content of `environment.json`.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return json.loads((path / ENVIRONMENT).read_text("utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(
            f"{path / ENVIRONMENT}: a run directory remembers there what it was begun with. Received: {error}. Start a new run."
        ) from error


def record(path: Path, facts: dict) -> None:
    """Adds facts to `environment.json`; on a resumed run the newest count."""
    write_json(path / ENVIRONMENT, environment(path) | facts)


def record_data(path: Path, origin: str, fingerprint: str) -> None:
    """Keeps what data the run was begun with.

    Raises:
        UserError: a resumed run finds other data.
    """
    before = environment(path).get("data")
    if before and before["fingerprint"] != fingerprint:
        raise UserError(
            f"{path}: a run goes on with the data it began with. Received: data with fingerprint {fingerprint} from {origin}; "
            f"it began with {before['fingerprint']} from {before['origin']}. Restore that data, or start a new run."
        )
    record(path, {"data": {"origin": origin, "fingerprint": fingerprint}})


@contextlib.contextmanager
def lock(path: Path):
    """Keeps other processes out of a run directory that is being trained in.

    Raises:
        UserError: another one is there already.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(path / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{path}: one process at a time trains in a run directory. Received: another one is. Wait for it, or stop it."
            ) from error
        yield


def write_json(path: Path, content: dict) -> None:
    """Writes JSON as a whole or not at all; what is not finite becomes null, since JSON has no word for it."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_text(path: Path, text: str) -> None:
    """Writes a file as a whole or not at all, also where the process is killed meanwhile."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, "utf-8")
        os.replace(partial, path)
    except OSError as error:  # about the file that was asked for, not the partial one
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
