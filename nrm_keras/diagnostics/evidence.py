"""What is kept of a training that is stopped: weights, the last records, and why."""

from collections import deque
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics.records import to_line

FOLDER = "evidence"
RECORDS = 5_000


class Evidence:
    """Writes a folder of evidence, and brings back the last finite weights.

    Args:
        model: the model that is trained.
        path: the file of records, beside which the folder is made; None: below the working directory.
        keep: whether copies of all variables are kept, so that there is a finite state to go back to.
    """

    def __init__(self, model: keras.Model, path: Path | None, keep: bool):
        self._model, self._keep = model, keep
        self._folder = (path.parent if path else Path("nrm_keras")) / FOLDER
        self._records: deque = deque(maxlen=RECORDS)
        self._candidate = self._finite = None

    def copy_weights(self) -> None:
        """Copies the variables as they are before a step that will be looked at."""
        if self._keep:
            self._candidate = [(v, tf.identity(v.value)) for v in self._variables()]

    def keep_copies(self) -> None:
        """The copies are of a finite state: the step that was made from it was finite throughout."""
        self._finite = self._candidate

    def remember_records(self, records: list[dict]) -> None:
        self._records.extend(records)

    def write(self, alert) -> str:
        """Writes the folder, and puts the last finite weights back where the alert is that there are none any more.

        Returns:
            A line that says what was done.
        """
        folder = self._free_folder(f"{alert.rule}-{alert.step}")
        folder.mkdir(parents=True)
        (folder / "alert.json").write_text(to_line(alert.record()), "utf-8")
        (folder / "statistics.jsonl").write_text("".join(map(to_line, self._records)), "utf-8")
        if self._model.built:
            self._model.save_weights(folder / "stopped.weights.h5")
        done = f"Stopped. Evidence is in {folder}"
        finite = self._finite or self._candidate_if_finite()
        if alert.rule == "non_finite" and finite:
            for variable, value in finite:
                variable.assign(value)
            self._model.save_weights(folder / "last_finite.weights.h5")
            done += "; the model has its last finite weights back"
        return done + "."

    def _candidate_if_finite(self):
        """What the very first step began with, where it is the batch that was not finite."""
        values = [value for _, value in self._candidate or () if value.dtype.is_floating]
        return self._candidate if values and all(np.isfinite(value).all() for value in values) else None

    def _variables(self):
        return [*self._model.variables, *(self._model.optimizer.variables if self._model.optimizer else ())]

    def _free_folder(self, name):
        number = 1
        while (path := self._folder / (name if number == 1 else f"{name}-{number}")).exists():
            number += 1
        return path
