"""Runs the probes of a study behind the training of a cell."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

from nrm_keras.studies.probes import PROBES
from nrm_keras.studies.probes.trained import Trained


def measure_all(probes: dict[str, dict], recipe, run_dir: Path, smoke: bool = False) -> dict[str, dict[str, float]]:
    """What each probe finds in a finished run.

    Args:
        probes: by name, `{"type": ..., options}` each.
        recipe: the cell's `Recipe`.
        run_dir: of its run.
        smoke: whether it was a smoke run.

    Returns:
        Each field of each probe. NaN where the probed weights are not finite, the probe has nothing to measure in such a
        model (see `Probe.problems`), or the field is not defined.

    Raises:
        UserError: the run is unfinished, or a probe can't measure its model.
    """
    trained = Trained(recipe, run_dir, smoke)
    return {name: measure(plain, trained) for name, plain in probes.items()}


def measure(plain: dict, trained: Trained) -> dict[str, float]:
    """What one probe finds."""
    probe = PROBES[plain["type"]]
    if problems := probe.problems(trained.recipe):
        print(f"Probe {plain['type']}: {'; '.join(problems)}. Its numbers are NaN.")
        return dict.fromkeys(probe.fields, math.nan)
    options = probe.options.model_validate(plain).model_dump(exclude={"type"})
    at_end = options.get("at", "start" if plain["type"] == "stable_learning_rate" else "end") == "end"
    if at_end and not trained.finite:
        return dict.fromkeys(probe.fields, math.nan)
    module, _, function = probe.measure.partition(":")
    found = getattr(importlib.import_module(module), function)(trained, **options)
    return {field: float(found[field]) for field in probe.fields}
