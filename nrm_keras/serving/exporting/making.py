"""The steps of an export that make something: the specialized model, the drift monitor, the files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from nrm_keras.serving.drift.monitor import FEWEST, DriftMonitor
from nrm_keras.serving.exporting import formats, saved_model
from nrm_keras.serving.exporting.subject import CHECKED, Subject
from nrm_keras.serving.specialize import specialize


@dataclass(frozen=True)
class Made:
    """What was written: the SavedModel's folder or the file of another runtime, its signatures, and its drift monitor."""

    path: Path
    signatures: tuple[str, ...]
    monitor: DriftMonitor | None = None


def specialized(subject: Subject, gate_tolerance: float, tolerance: float, say: Callable[[str], None]):
    """The subject's model for inference only, and the steps that made it.

    Raises:
        UserError: it answers otherwise than before, beyond the tolerance.
    """
    say(f"Specializing {subject.model.name} for inference.")
    done = specialize(
        subject.model, subject.model_inputs(0, CHECKED), gate_tolerance=gate_tolerance, tolerance=tolerance
    )
    for step in done.steps:
        say(f"  {step.layer}: {step.what}; outputs differ by {step.difference:.1e} at most")
    return done.model, done.steps


def write(
    folder: Path, subject: Subject, model: keras.Model, format: str, monitor: bool, say: Callable[[str], None]
) -> Made:
    """Writes the model into the folder."""
    interface = subject.interface
    if format != "savedmodel":
        say(f"Writing {formats.FILES[format]}.")
        path = folder / formats.FILES[format]
        formats.write(path, interface.portable(model), format)
        return Made(path, (saved_model.SERVING,))
    watching = _monitor(subject, model, say) if monitor else None
    say("Writing the SavedModel.")
    signatures = tuple(saved_model.functions(model, interface, watching))
    try:
        saved_model.write(folder, model, interface, watching)
        saved_model.write_warmup(folder, subject.name, subject.requests, signatures)
    except tf.errors.OpError as error:  # TensorFlow's own writer has a full disk as one of these
        raise OSError(error.message) from error
    return Made(folder, signatures, watching)


def _monitor(subject: Subject, model: keras.Model, say: Callable[[str], None]) -> DriftMonitor | None:
    if subject.count < FEWEST:
        say(
            f"Note: the drift monitor is left out: it needs {FEWEST} {subject.split} examples, and there are {subject.count}."
        )
        return None
    say(f"Collecting what the drift monitor compares with, on {subject.split} data.")
    return DriftMonitor.of(model, subject.reference)
