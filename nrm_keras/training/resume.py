"""Resume a training exactly where it was: the same bits as if it had never stopped."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from nrm_keras.errors import UserError
from nrm_keras.training import snapshot
from nrm_keras.training.callback_state import kind_of, pack, set_state, state_of, unpack
from nrm_keras.training.distribution import LazyDataset, PerReplica


class ExactResume(keras.callbacks.Callback):
    """Saves the whole state of `fit` so that a killed training resumes bit for bit.

    One atomic file holds all variables of model, optimizer, metrics and seed generators, the state of the other
    callbacks, the epoch and the step. It is written every `every` steps and at each epoch's end; the previous one is
    kept until the new one is complete. Construct it the same way to start and to resume: it looks into `directory`.

    Args:
        directory: where the state is kept.
        every: steps between saves; None saves at each epoch's end only.
        dataset_at: `dataset_at(epoch, step)`, given ints, returns a `tf.data.Dataset` of the epoch's batches from `step`
            on, the same ones each time. `skip_forward` makes one from a dataset that can only be read from its start.
        callbacks: the other callbacks of `fit` whose state (best value, best weights, patience ...) is saved too: their plain
            attributes, or what their `get_state()` returns and their `set_state(state)` takes.
        say: told in a line what the user should know: a damaged file, a callback that starts afresh.
        strategy: the `tf.distribute.Strategy`, where `dataset_at` yields one element per replica in turn.

    Raises:
        TypeError: `dataset_at` is a dataset, which can't be rewound.
        ValueError: the number of batches in an epoch is unknown.
        UserError: the saved state is of another model, or damaged.

    Example:

        resume = ExactResume("checkpoints", every=500, dataset_at=batches, callbacks=[early_stopping])
        model.fit(resume.dataset, epochs=20, initial_epoch=resume.initial_epoch, callbacks=resume.callbacks)

    The first epoch after a resume runs only its remaining steps, so the batch numbers that `fit` shows begin at 0.
    """

    def __init__(
        self,
        directory: str | Path,
        every: int | None = None,
        *,
        dataset_at: Callable[[int, int], tf.data.Dataset],
        callbacks: Sequence[keras.callbacks.Callback] = (),
        say: Callable[[str], None] = warnings.warn,
        strategy: tf.distribute.Strategy | None = None,
    ):
        super().__init__()
        if isinstance(dataset_at, tf.data.Dataset) or not callable(dataset_at):
            raise TypeError(
                "dataset_at must be a function (epoch, step) -> tf.data.Dataset: a plain dataset can't be rewound to a "
                f"step. Received: {type(dataset_at).__name__}. Give such a function, or "
                "nrm_keras.callbacks.skip_forward(dataset), which reads from the start again and drops batches."
            )
        if every is not None and every < 1:
            raise ValueError(f"every must be a positive number of steps, or None. Received: every={every}")
        self.directory = Path(directory)
        self.every = every
        self.epoch, self.step, self._first_step = 0, 0, 0
        self._others = list(callbacks)
        self._strategy = strategy
        self._dataset_at = dataset_at
        self._replicas = strategy.num_replicas_in_sync if strategy else 1
        self._template = dataset_at(0, 0)
        self.steps_per_epoch = self._known_steps()
        self._stop_requested = False
        self._quiet = contextlib.ExitStack()
        self._say = say
        self._saved = snapshot.read(self.directory, say)
        if self._saved:
            self.epoch, self.step = self._saved[0]["epoch"], self._saved[0]["step"]

    @property
    def resuming(self) -> bool:
        """Whether there is a saved state to go on from; its place is `epoch` and `step`."""
        return self._saved is not None

    @property
    def initial_epoch(self) -> int:
        """What `fit` takes: the epoch to go on with, or one past any if a callback had ended the training."""
        return sys.maxsize if self._saved and self._saved[0]["stopped"] else self.epoch

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What `fit` takes: the other callbacks and, behind them, this one, so that it saves what they have done."""
        return [*self._others, self]

    @property
    def dataset(self):
        """What `fit` takes: the batches from the current position on, in each epoch that epoch's."""
        if self._strategy:
            return PerReplica(self._strategy, self._remaining, self._template)
        return LazyDataset(self._remaining, self._template)

    def train_on(self) -> None:
        """Forgets that a callback had ended the training, because something about it has changed."""
        if self._saved:
            self._saved[0]["stopped"] = False

    def request_stop(self) -> None:
        """Ends the training at the end of the current step (or validation), saved, with KeyboardInterrupt."""
        self._stop_requested = True

    # Called by fit -----------------------------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        if self._saved:
            self._restore()

    def on_epoch_begin(self, epoch, logs=None):
        if self._saved:
            if epoch != self.epoch:
                raise ValueError(
                    f"The saved state goes on with epoch {self.epoch}. Received: fit began with epoch {epoch}. "
                    "Pass initial_epoch=resume.initial_epoch."
                )
            # fit has reset the metrics, and History its record, behind on_train_begin
            if self.step:  # between epochs they hold the validation's
                self._assign("metric", self.model.metrics_variables)
            self._restore_history()
            self._saved = None
        else:
            self.epoch, self.step = epoch, 0
        self._first_step = self.step

    def on_train_batch_begin(self, batch, logs=None):
        if self.step >= self.steps_per_epoch:
            # A resumed epoch has fewer steps than fit expects. Fit would find that out by running a step without data,
            # which moves the seed generators; end the loop as the end of the data would. Keras warns, in vain.
            self._quiet.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "Your input ran out of data")
            raise tf.errors.OutOfRangeError(None, None, "end of a resumed epoch")

    def on_train_batch_end(self, batch, logs=None):
        before, self.step = self.step, self._first_step + batch + 1  # several at once with steps_per_execution
        if self.step >= self.steps_per_epoch:
            return  # the epoch isn't over before its validation
        if self._stop_requested or (self.every and self.step // self.every > before // self.every):
            self.save()
        if self._stop_requested:
            raise KeyboardInterrupt

    def on_test_begin(self, logs=None):
        self._quiet.close()

    def on_epoch_end(self, epoch, logs=None):
        self._quiet.close()
        self.epoch, self.step = epoch + 1, 0
        self.save(logs)
        if self._stop_requested:
            raise KeyboardInterrupt

    def on_train_end(self, logs=None):
        if self._saved:  # no epoch was left
            self._restore_history()

    # Saving and restoring ----------------------------------------------------------------------------------------

    def save(self, logs: dict | None = None) -> None:
        """Writes the state as it is now; with `logs`, as at the end of the epoch before."""
        arrays = {}
        for group, variables in self._variables().items():
            arrays |= {name: part.numpy() for name, part in _parts(group, variables)}
        meta = {
            "epoch": self.epoch,
            "step": self.step,
            "stopped": bool(self.step == 0 and self.model.stop_training),
            "names": {group: _describe(variables) for group, variables in self._variables().items()},
            "callbacks": [[kind_of(c), pack(state_of(c), f"callback/{i}", arrays)] for i, c in enumerate(self._others)],
            "history": self._history(logs),
        }
        snapshot.write(self.directory, meta, arrays)

    def _history(self, logs: dict | None) -> list:
        epochs, values = self.model.history.epoch, self.model.history.history
        if logs is None:
            return [epochs, values]
        # fit tells History last, after this callback
        return [
            [*epochs, self.epoch - 1],
            {name: [*values.get(name, []), float(value)] for name, value in logs.items()},
        ]

    def _variables(self) -> dict[str, list]:
        return {
            "model": self.model.variables,
            "optimizer": self.model.optimizer.variables,
            "metric": self.model.metrics_variables,
        }

    def _restore(self) -> None:
        self._build()
        meta, arrays = self._saved
        for group, variables in self._variables().items():
            _check_same(meta["names"][group], _describe(variables), group, self.directory)
        self._assign("model", self.model.variables)
        self._assign("optimizer", self.model.optimizer.variables)
        states = list(meta["callbacks"])
        for callback in self._others:
            found = next((entry for entry in states if entry[0] == kind_of(callback)), None)
            if found is None:
                self._say(f"{kind_of(callback)} starts afresh: the saved state has none.")
            else:
                states.remove(found)
                set_state(callback, unpack(found[1], arrays))

    def _restore_history(self) -> None:
        self.model.history.epoch, self.model.history.history = self._saved[0]["history"]

    def _build(self) -> None:
        """Makes the variables that Keras would make in the first step only."""
        if not self._strategy:  # under a strategy fit does this itself
            self.model._symbolic_build(data_batch=next(iter(self._template)))
            self.model.reset_metrics()
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)

    def _assign(self, group: str, variables) -> None:
        for name, part in _parts(group, variables):
            part.assign(self._saved[1][name])

    def _known_steps(self) -> int:
        elements = int(self._template.cardinality())
        if elements <= 0:
            raise ValueError(
                "dataset_at(0, 0) must have a known number of batches, one at least. Received: cardinality "
                f"{elements}. Add .apply(tf.data.experimental.assert_cardinality(steps))."
            )
        return elements // self._replicas

    def _remaining(self) -> tf.data.Dataset | None:
        if self.step >= self.steps_per_epoch:
            return None
        return self._dataset_at(self.epoch, self.step)


def skip_forward(dataset: tf.data.Dataset) -> Callable[[int, int], tf.data.Dataset]:
    """`dataset_at` for a dataset that can only be read from its start: batches up to the step are read and dropped.

    That costs the time to produce them once more; a resume in the middle of an epoch warns how long that is, from the speed
    of the first few. The resume is exact only where the dataset gives the same batches in the same order each time it is
    read: shuffle with a seed and `reshuffle_each_iteration=False`.
    """

    def dataset_at(epoch: int, step: int) -> tf.data.Dataset:
        if step:
            few = min(step, 20)
            began = time.monotonic()
            for _ in dataset.take(few):
                pass
            seconds = (time.monotonic() - began) * step / few
            warnings.warn(f"skip_forward reads and drops {step} batches, about {seconds:.1f} s.", stacklevel=2)
        return dataset.skip(step)

    return dataset_at


def _parts(group: str, variables):
    """The TensorFlow variables and their names in the file. Under a strategy each replica has one of its own: metrics hold
    what the replica has counted."""
    for number, variable in enumerate(variables):
        values = getattr(variable.value, "values", [variable.value])
        for replica, part in enumerate(values):
            yield f"{group}/{number}/{replica}", part


def _describe(variables) -> list:
    return [[v.path, list(v.shape), str(v.dtype)] for v in variables]


def _check_same(saved: list, here: list, group: str, directory: Path) -> None:
    for number in range(max(len(saved), len(here))):
        a = saved[number] if number < len(saved) else ["nothing"]
        b = here[number] if number < len(here) else ["nothing"]
        if a[1:] != b[1:]:  # not the path, which counts the models made in a process
            raise UserError(
                f"{directory}: the saved state is of another model ({group} variable {number}). "
                f"Saved: {a}; received: {b}. Resume with the same recipe and versions, or start a new run."
            )
