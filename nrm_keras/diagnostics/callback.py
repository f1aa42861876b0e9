"""The callback that watches the inside of a model while `fit` trains it."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras

from nrm_keras.diagnostics import records, taps
from nrm_keras.diagnostics.alerts import Alert, Alerts, Observation
from nrm_keras.diagnostics.cost import Schedule
from nrm_keras.diagnostics.evidence import Evidence
from nrm_keras.diagnostics.fixed_batch import FixedBatch
from nrm_keras.diagnostics.losses import Losses
from nrm_keras.diagnostics.places import Places
from nrm_keras.diagnostics.probes import ProbedStep
from nrm_keras.diagnostics.tensorboard import TensorBoardLog

ALERTS = "alerts.jsonl"
# Once the loss has leapt, this many steps are all looked at, to see where it breaks if it does.
WATCHFUL = 20


class InternalStatistics(keras.callbacks.Callback):
    """Watches activations, gradients, updates and running statistics of any Keras model during `fit`.

    Every so many steps it has `fit` run a second train function, which does what the model's own does and hands out a small
    vector of statistics. The plain train function, evaluation, saving and export never see a hook.

    Args:
        every: steps between probed steps; the first one is always probed.
        layers: what to watch: names, patterns such as `"stage_1*"`, classes or layers. None: layers with weights,
            normalizers, activations, and what feeds these.
        path: file of records, one JSON object a line, appended to and flushed at each probed step, or None. Alerts go to
            `alerts.jsonl` beside it.
        probe: the fixed batch on which drift is measured: "first", the first training batch, or an array (or list or
            dictionary of arrays) x, a tuple (x, y), or a dataset, of which the first batch is taken; None: no drift.
            Not the dataset that is trained on, if it shuffles: one batch more from it, and its next order is another.
        budget: in place of `every`, the share of the training time that watching may cost at most, such as 0.05. The first
            probed step with its trace is always made.
        alerts: True for all rules with their thresholds; False for none; or a dictionary by rule: False, or settings
            such as `{"dead_units": {"threshold": 0.7, "patience": 5}}`. See `nrm_keras.diagnostics.alerts.RULES`.
        action: what an alert does: "log" prints it; "stop" writes a checkpoint and what is known, and ends the
            training, with the last finite weights where it had become NaN; or a function of the `Alert`.
        drift_every: steps between measurements of drift, a forward pass; also at each epoch's end.
        deep_every: steps between curvature, covariate shift by Santurkar's definition, gradient predictiveness, noise
            scale and train/inference gap on the probe batch; None: never. Each costs several steps.
        channels: whether the records have each channel's mean and variance.
        tensorboard: directory for scalars and histograms, where TensorBoard is installed, or None.
        say: prints a line.

    Attributes:
        alerts: the list of `Alert` so far.
        schedule: what watching cost, as text or by its attributes.

    Raises:
        ValueError: an argument is out of its range, or names a layer or a rule that is not there.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.callbacks import InternalStatistics
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> watch = InternalStatistics(every=10, say=lambda line: None)
    >>> _ = model.fit(np.zeros((64, 4)), np.ones((64, 1)), epochs=3, verbose=0, callbacks=[watch])
    >>> watch.schedule.probes
    1

    Notes:
        Under XLA and in mixed precision watching changes no bit of the training. In a plain float32 graph TensorFlow
        adds up in another order where a sum in between is looked at, as that of a normalizer in front of a residual
        connection: a probed step may differ in the last place. It does not, with or without the callback, after
        `tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})`.
    """

    def __init__(
        self,
        every: int = 50,
        layers: Sequence | None = None,
        path: str | Path | None = None,
        probe="first",
        budget: float | None = None,
        alerts: bool | dict = True,
        *,
        action: str | Callable[[Alert], None] = "log",
        drift_every: int = 500,
        deep_every: int | None = None,
        channels: bool = True,
        tensorboard: str | Path | None = None,
        say: Callable[[str], None] = print,
    ):
        super().__init__()
        for name, value in (("every", every), ("drift_every", drift_every), ("deep_every", deep_every)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (value is None and name == "deep_every") and not (whole and value >= 1):
                raise ValueError(
                    f"`{name}` must be a positive number of steps. Received: {name}={value!r}. Pass an integer such as 50."
                )
        if budget is not None and not 0 < budget < 1:
            raise ValueError(
                "`budget` must be a share of the training time between 0 and 1. "
                f"Received: budget={budget!r}. Pass 0.05 for 5%, or None to probe every so many steps."
            )
        if isinstance(probe, str) and probe != "first":
            raise ValueError(
                '`probe` must be "first", arrays, a dataset or None. '
                f"Received: probe={probe!r}. Pass x or (x, y) of one batch."
            )
        if probe is None and deep_every is not None:
            raise ValueError(
                "`deep_every` measures on the probe batch. "
                f'Received: deep_every={deep_every} and probe=None. Pass probe="first", or (x, y) of one batch.'
            )
        if not callable(action) and action not in ("log", "stop"):
            raise ValueError(
                f'`action` must be "log", "stop" or a function of the alert. Received: action={action!r}. Pass one of them.'
            )
        self.every, self.layers, self.budget = every, layers, budget
        self.path = None if path is None else Path(path)
        self.drift_every, self.deep_every, self.channels = drift_every, deep_every, channels
        self.action, self.tensorboard, self._say = action, tensorboard, say
        self.alerts: list[Alert] = []
        self._rules = Alerts(alerts)
        self.probe = probe
        self.schedule = Schedule(every, budget)
        self._probed_step = self._traced_for = self._fixed = None

    # Called by fit -----------------------------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                f"InternalStatistics needs the TensorFlow backend. Received: {keras.backend.backend()!r}. "
                "Set KERAS_BACKEND=tensorflow, or leave the callback out."
            )
        self.model.train_function = _plain(self.model.train_function)
        self.schedule = Schedule(self.every, self.budget)
        self._step, self._epoch, self._watchful_until = None, 0, 0
        self._ran = self._late = self._lost = False
        self._history = self.model.history
        self._plain_function = self._before = None
        self._records = records.Records(self.path)
        self._alert_records = records.Records(self.path and self.path.with_name(ALERTS))
        self._tensorboard = TensorBoardLog(self.tensorboard)
        self._evidence = Evidence(self.model, self.path, keep=self.action == "stop")
        self._watchable = type(self.model).make_train_function is keras.Model.make_train_function
        if not self._watchable:
            self._say(
                "InternalStatistics: a model with a make_train_function of its own can't be watched inside. "
                f"Received: {type(self.model).__name__}. Override train_step in its place."
            )

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._losses = epoch, Losses(self.model)
        if self._step is None:
            # only here: a callback that resumes a training has set the iterations by now
            self._step = _iterations(self.model)
            if self._fixed is not None:
                self._fixed.restart(self._step)
            self._raise_alerts(self._rules.begin(self.model, self._step))

    def on_train_batch_begin(self, batch, logs=None):
        self._first_batch = batch
        self._put_plain_function_back()
        due = self._watchable and self._is_due()
        self._probing = due and self._prepare()
        self._late = due and not self._probing
        if self._probing:
            began = time.perf_counter()
            self._evidence.copy_weights()
            self._before = self._fixed.weights_if_due(self._step, self.deep_every, self.schedule)
            self._plain_function, self.model.train_function = self.model.train_function, self._probed_function
            self.schedule.add(time.perf_counter() - began)
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        seconds, began = time.perf_counter() - self._began, time.perf_counter()
        self._ran = True
        self._step += batch - self._first_batch + 1
        # reading it waits for the device, so only if somebody wants to know
        loss = self._losses.add(batch + 1, logs) if self._rules or self._probing else None
        if not self._probing:
            self.schedule.add_plain(seconds)
            self._look_at_loss(loss)
            return
        observation = self._observe(loss)
        self.schedule.add_probe(seconds, time.perf_counter() - began)
        began = time.perf_counter()
        if self._fixed.is_drift_due(self._step, self.drift_every, self.schedule):
            self._write(self._fixed.measure_drift(self._step))
        if self._before is not None and observation.finite:
            self._write(self._fixed.measure_deeply(self._step, self._before, observation.learning_rate))
        self.schedule.add(time.perf_counter() - began)

    def on_epoch_end(self, epoch, logs=None):
        self._put_plain_function_back()
        if self._fixed is not None:
            began = time.perf_counter()
            self._write(self._fixed.end_epoch(self._step, self.schedule))
            self.schedule.add(time.perf_counter() - began)
        self._raise_alerts(self._rules.end_epoch(self._step, epoch, logs or {}))

    def on_train_end(self, logs=None):
        self._put_plain_function_back()
        if self._step is not None:
            self._write([self.schedule.record()])
        self._records.close()
        self._alert_records.close()
        self._tensorboard.close()
        self._say(f"InternalStatistics: {self.schedule}.")

    # Probing -----------------------------------------------------------------------------------------------------

    def _is_due(self):
        steps = self.model.steps_per_execution
        optimizer = taps.inner_optimizer(self.model.optimizer)
        accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        if accumulated > 1 and (self._step + steps) % accumulated >= steps:
            return False  # a step that only adds up gradients shows no update
        if self._step < self._watchful_until or self._late:
            return True
        deep = self._fixed is not None and self._fixed.is_deep_due(self._step, self.deep_every, self.schedule)
        window = max(steps, accumulated)  # the steps since the last update count
        return deep or self.schedule.due(self._step + steps - window, window)

    def _prepare(self):
        """Makes the probed step, once the model has all its layers; whether it is there."""
        if _plain(self.model.train_function) is not self.model.train_function:
            return False  # another one of these is at it
        if self._probed_step is not None and self._traced_for is self.model.train_function:
            return True  # from an earlier fit, whose drift goes on
        self._probed_step = self._fixed = None
        if self._ran or all(layer.built for layer in self.model.layers):
            self._places = Places(self.model, self.layers)
            self._probed_step, self._traced_for = ProbedStep(self.model, self._places), self.model.train_function
            self._fixed = FixedBatch(self.model, self._places, self.probe, self._say)
            self._fixed.restart(self._step)
        return self._probed_step is not None

    def _probed_function(self, iterator):
        # The plain function is back whatever happens: `fit` ends without a word to its callbacks on an exception.
        try:
            is_this_fit = self.model.history is self._history
            return (self._probed_step if is_this_fit else self._plain_function)(iterator)
        finally:
            self._put_plain_function_back()

    def _put_plain_function_back(self):
        """Also where a step that was to be probed never came, as another callback ended the epoch."""
        if self._plain_function is not None and self.model.train_function == self._probed_function:
            self.model.train_function = self._plain_function
        self._plain_function = None

    def _observe(self, loss):
        reading = self._probed_step.read()
        self._write(self._fixed.begin(reading.batch, self._step))
        observation = Observation(self.model, self._step, self._epoch, reading, loss)
        if observation.finite:
            self._evidence.keep_copies()
        summary = {
            "kind": "step",
            "loss": observation.loss,
            "learning_rate": observation.learning_rate,
            "gradient_norm": observation.gradient_norm,
        }
        self._write([summary, *records.of_reading(reading, self._places, self.channels)])
        self._tensorboard.write_histograms(self._step, reading)
        if not self._lost:
            self._raise_alerts(self._rules.observe(observation))
        self._lost = self._lost or not observation.finite
        return observation

    def _look_at_loss(self, loss):
        """What no probe was there to see: a loss that is not finite, or one that leaps and may soon be so."""
        if loss is None:
            return
        if not math.isfinite(loss):
            if self._lost:
                return
            self._lost = True
            self._raise_alerts(self._rules.not_finite(self.model, self._step))
        elif self._losses.leaps():
            self._watchful_until = self._step + WATCHFUL

    # What is found -----------------------------------------------------------------------------------------------

    def _write(self, found):
        place = {"step": self._step, "epoch": self._epoch}
        found = list(found)
        self._records.write([place | record for record in found])
        self._tensorboard.write(self._step, found)
        self._evidence.remember_records(found)

    def _raise_alerts(self, alerts):
        for alert in alerts:
            self.alerts.append(alert)
            self._alert_records.write([alert.record()])
            action = self._rules.action(alert) or self.action
            if callable(action):
                action(alert)
                continue
            self._say(str(alert))
            if action == "stop":
                self._say(self._evidence.write(alert))
                self.model.stop_training = True


def _iterations(model):
    """How many batches the optimizer has seen; its own `iterations` counts updates, where gradients are accumulated."""
    optimizer = taps.inner_optimizer(model.optimizer)
    return int(keras.ops.convert_to_numpy(optimizer._iterations)) if optimizer else 0


def _plain(train_function):
    """What an exception may have left in its place, between the beginning of a step and the step."""
    while isinstance(getattr(train_function, "__self__", None), InternalStatistics):
        train_function = train_function.__self__._plain_function
    return train_function
