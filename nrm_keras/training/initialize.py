"""Weights from an earlier run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras

from nrm_keras.errors import UserError
from nrm_keras.surgery import structure
from nrm_keras.training.saved import load, load_model


def initialize_from(model: keras.Model, path: str | Path, say: Callable[[str], None]) -> None:
    """Copies every weight that has the same place and shape in both models, and says which have not.

    Raises:
        UserError: none has.
    """
    source = {v.path: v for v in (load if Path(path).is_dir() else load_model)(path).weights}
    fits = [v for v in model.weights if v.path in source and source[v.path].shape == v.shape]
    if not any(v.trainable for v in fits):
        raise UserError(f"train.init_from: no weight of {path} fits this model. Use a run of the same model type.")
    for variable in fits:
        variable.assign(source[variable.path])
    left = [v.path for v in model.weights if all(v is not f for f in fits)]
    say(
        f"Initialized {len(fits)} of {len(model.weights)} weights from {path}."
        + (f" Left: {', '.join(left)}." if left else "")
    )


def freeze_normalizers(model: keras.Model) -> None:
    """Normalizers keep gamma, beta and running statistics, and use the latter in training too."""
    for layer in structure.hidden(model):
        layer.trainable = False
