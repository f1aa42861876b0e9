"""`export`: from a trained model to a directory that a server takes."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nrm_keras.errors import PROGRAM, UserError
from nrm_keras.serving.exporting import destination
from nrm_keras.training.startup import quiet_start

if TYPE_CHECKING:
    import keras

SAVED_MODEL = "savedmodel"
FORMATS = (SAVED_MODEL, "onnx", "litert")
GATE_TOLERANCE = 1e-3
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Args:
        path: the version's folder, such as `DEST/1`.
        card: the content of its `model_card.json`.
    """

    path: Path
    card: dict


def export(
    model_or_run: keras.Model | str | Path,
    directory: str | Path,
    *,
    version: int = 1,
    format: str = SAVED_MODEL,
    inputs=None,
    labels=None,
    classes: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    name: str | None = None,
    specialized: bool = True,
    gate_tolerance: float = GATE_TOLERANCE,
    tolerance: float = TOLERANCE,
    monitor: bool = True,
    allow_imports: bool = False,
    say: Callable[[str], None] = print,
) -> Exported:
    """Exports a model for serving to `directory/version/`, after checking that it answers as the Keras model.

    A SavedModel as TensorFlow Serving takes it: raw inputs, any batch size, signatures `serving_default`, `features` and
    `monitor`, requests that warm it up, and a model card. Or one file for ONNX or LiteRT, with its card. The exported model
    is loaded in a fresh process and asked for real examples one by one, by 3 and by 64; the folder appears only where its
    answers and the metric are those of the Keras model.

    Args:
        model_or_run: the directory of a finished run; a `.keras` file, which is loaded in safe mode; or a built functional
            or sequential Keras model.
        directory: one model's directory, which holds a folder per version.
        version: a whole number; a version that is there is never overwritten.
        format: "savedmodel", "onnx" or "litert".
        inputs: for a model or file: real examples for the check, an array or a dictionary of arrays. A run has its own.
        labels: for a model or file: the labels of these examples, to compare a metric.
        classes: for a model or file: the names of its classes; None for one that predicts values.
        targets: for a model or file: the names of the predicted values.
        name: what servers call the model; None for the directory's name.
        specialized: whether the model is specialized for inference: normalizers folded, constant parts computed.
        gate_tolerance: an adaptive layer whose gate is so close to 1 (or 0) becomes batch (or group) normalization, unless that
            takes more than half of the tolerance.
        tolerance: the largest difference of outputs that is taken, relative to the largest output where these are no
            probabilities. In half precision eight roundings are granted in any case.
        monitor: whether the SavedModel has a drift monitor.
        allow_imports: whether the modules that the run's recipe lists may be imported.
        say: prints one line.

    Returns:
        The path that was written, and the model card.

    Raises:
        UserError: the run is unfinished, the version is there already, the directory isn't writable, the format can't
            express the model, or the exported model answers otherwise. Nothing is left behind then.

    Example:

        >>> import nrm_keras
        >>> run = nrm_keras.run("images/digits_adaptive")                     # doctest: +SKIP
        >>> nrm_keras.export(run.path, "served/digits").path                  # doctest: +SKIP
        PosixPath('served/digits/1')
    """
    began = time.monotonic()
    if format not in FORMATS:
        raise UserError(f"--format is one of {', '.join(FORMATS)}. Received: {format}.")
    for option, value in {"--tolerance": tolerance, "--gate-tolerance": gate_tolerance}.items():
        if not 0 <= value < 1:
            raise UserError(f"{option} is a number from 0 and below 1. Received: {value}.")
    path = destination.check(Path(directory), version)
    source = _source(model_or_run)
    with quiet_start():
        from nrm_keras.serving.exporting import card, checking, formats, making, own_model, subject
        from nrm_keras.serving.specialize import granted
    if format != SAVED_MODEL:
        formats.require(format)
    name = subject.servable(name or path.absolute().parent.name)
    if isinstance(source, Path) and source.suffix != ".keras":
        _require_none(source, inputs=inputs, labels=labels, classes=classes, targets=targets)
        exported = subject.of_run(source, name, allow_imports, say)
    else:
        exported = own_model.of_model(source, name, inputs, labels=labels, classes=classes, targets=targets)
    model, steps = exported.model, ()
    if specialized:
        model, steps = making.specialized(exported, gate_tolerance, tolerance, say)
    with destination.written(path) as folder:
        made = making.write(folder, exported, model, format, monitor, say)
        say("Checking in a fresh process: batches of 1, 3 and 64.")
        allowed = granted(exported.model, tolerance)
        found = checking.check(exported, made.path, format, made.signatures, allowed, made.monitor)
        content = card.write(folder, path.name, exported, made, format, steps, found)
    done = Exported(path, content)
    _summarize(done, time.monotonic() - began, say)
    return done


def _source(model_or_run) -> Path | keras.Model:
    """A path, of a run directory or a `.keras` file that are there; or the model itself."""
    if not isinstance(model_or_run, str | Path):
        return model_or_run
    path = Path(model_or_run)
    if path.suffix == ".keras":
        if not path.is_file():
            raise UserError(f"{path}: a .keras file to export. Received: no such file.")
        return path
    from nrm_keras.runs import directory

    directory.finished(path)
    return path


def _require_none(run: Path, **given) -> None:
    if unused := [name for name, value in given.items() if value is not None]:
        raise UserError(
            f"{run}: a run has its own data and names. Received: {', '.join(unused)} beside it. Leave that out, or export its"
            " model.keras."
        )


def _summarize(exported: Exported, seconds: float, say: Callable[[str], None]) -> None:
    card, path = exported.card, exported.path
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 2**20
    found = card["check"]
    differences = ", ".join(f"{name} {value:.1e}" for name, value in found["differences"].items())
    say(f"Largest differences from the Keras model on {found['examples']:,} {found['split']} examples: {differences}.")
    say(
        f"Between batches of 1, 3 and 64 and in another order answers differ by {found['batch_dependence']:.1e} at most,"
        " relative to their scale."
    )
    for name, pair in found["metrics"].items():
        say(f"{found['split'].capitalize()} {name}: {pair['keras']:.6g}, exported {pair['exported']:.6g}.")
    say(f"Exported: {path}   ({size:.1f} MB, {seconds:.0f} s). How to ask it: {path / 'README.md'}")
    if card["format"] == SAVED_MODEL:
        say(f"Serve it: {PROGRAM} serve {shlex.quote(str(path.parent))} --name {card['name']}")
