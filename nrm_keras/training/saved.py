"""Models on disk."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras
from keras.src.saving.serialization_lib import SafeModeScope

from nrm_keras import layers, models  # noqa: F401  registers the layers with Keras
from nrm_keras.errors import UserError
from nrm_keras.runs import directory
from nrm_keras.training import optimizers, tasks  # noqa: F401  and the schedules, losses and metrics


def load(run: str | Path) -> keras.Model:
    """The trained model of a finished run.

    Args:
        run: its run directory.

    Raises:
        UserError: this is no run directory, or the run is unfinished.
    """
    path = directory.check(Path(run)) / directory.MODEL
    if not path.exists():
        raise UserError(
            f"{run}: the run has no model yet, it is unfinished. `python -m nrm_keras run --resume {run}` finishes it."
        )
    return load_model(path)


def load_model(path: str | Path, compile: bool = True) -> keras.Model:
    """`keras.saving.load_model` with the layers of this package known, in safe mode.

    Args:
        compile: whether the model's loss, metrics and optimizer are loaded too.

    Raises:
        UserError: Keras can't load the file.
    """
    try:
        with SafeModeScope(True):  # the argument alone gives way to keras.config.enable_unsafe_deserialization()
            return keras.saving.load_model(path, compile=compile, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: a .keras file was expected. Received: {reason}") from error


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a `.keras` file as a whole or not at all."""
    partial = path.with_name(f"partial-{path.name}")
    model.save(partial)
    partial.replace(path)
