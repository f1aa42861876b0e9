"""What a training tells: a progress bar or plain lines, and `metrics.csv`."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nrm_keras.runs.directory import write_text


class MetricsLog(keras.callbacks.Callback):
    """Appends one row an epoch to a CSV file, flushed at once; adds `learning_rate` and `seconds` to fit's logs.

    Columns: `epoch` (from 1), the metrics of `fit`, `learning_rate` (after the epoch's last step), `seconds`.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {"epoch": epoch + 1, **logs, "learning_rate": rate, "seconds": round(time.monotonic() - self._began, 3)}
        new = not self.path.exists()
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())

    def forget_from(self, epoch: int) -> None:
        """Removes the rows of epochs that a resumed run will run again (`epoch` counts from 0), and a torn last line."""
        if not self.path.exists():
            return
        header, *rows = self.path.read_text("utf-8").splitlines(keepends=True) or [""]
        kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= epoch]
        if kept:
            write_text(self.path, header + "".join(kept))
        else:
            self.path.unlink()  # the header may be torn too


class ProgressLog(keras.callbacks.Callback):
    """Shows a bar with the current metrics on a terminal, and one line an epoch everywhere.

    Args:
        say: prints one line.
        epochs, steps: how many there are in all.
        console: where the bar is drawn; none is drawn where that is no terminal.

    As a context manager it takes its bar away at the end, also after an exception, which fit doesn't tell callbacks about.
    """

    def __init__(self, say, epochs: int, steps: int, console: Console | None = None):
        super().__init__()
        self.first_step = 0  # of the next epoch; set after a resume
        self._say = say
        self._epochs = epochs
        self._steps = steps
        self._console = console or Console()
        self._bar = None
        self._shown = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._close()

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=self._console,
                transient=True,
            )
            title = f"epoch {epoch + 1}/{self._epochs}"
            self._task = self._bar.add_task(title, total=self._steps, completed=self.first_step, metrics="")
            self._bar.start()
        self.first_step = 0

    def on_train_batch_end(self, batch, logs=None):
        if self._bar:
            # reading the metrics more often than the bar is redrawn would only slow the device down
            due = time.monotonic() - self._shown > 0.2
            if due:
                self._shown = time.monotonic()
            self._bar.update(self._task, advance=1, **({"metrics": _words(logs or {})} if due else {}))

    def on_epoch_end(self, epoch, logs=None):
        self._close()
        seconds = time.monotonic() - self._began
        self._say(f"epoch {epoch + 1:>{len(str(self._epochs))}}/{self._epochs}  {_words(logs)}  {seconds:.1f} s")

    def _close(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


def _words(logs: dict) -> str:
    shown = {name: value for name, value in logs.items() if name not in {"learning_rate", "seconds"}}
    return "  ".join(f"{name} {float(value):.4f}" for name, value in shown.items())
