"""One call that says what is wrong with a compiled model."""

import contextlib
import dataclasses
import itertools
import warnings

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics import gap
from nrm_keras.diagnostics.alerts import Alert
from nrm_keras.diagnostics.callback import InternalStatistics
from nrm_keras.diagnostics.deep import Deep
from nrm_keras.diagnostics.rules import RULES
from nrm_keras.surgery.batches import Batches
from nrm_keras.surgery.meter import has_running_statistics

STEPS = 20


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        findings: the worst first.
        steps: how many steps were made, on which the findings rest.
        gap: the `GapReport` of the running statistics; None where the model has none.
        records: of curvature and the like, on the first batch; empty without labels.
    """

    findings: tuple[Alert, ...]
    steps: int
    gap: gap.GapReport | None
    records: tuple[dict, ...]

    def __str__(self):
        head = f"{len(self.findings) or 'No'} finding{'s' * (len(self.findings) != 1)} in {self.steps} steps"
        lines = [f"{n}. {_paragraph(alert)}" for n, alert in enumerate(self.findings, 1)]
        curvature = next((record for record in self.records if record["kind"] == "curvature"), None)
        if curvature and curvature["edge_of_stability"] is not None:
            lines.append(
                f"Largest eigenvalue of the Hessian (training mode): {curvature['largest']:.3g}; gradient descent at this "
                f"learning rate stands up to {curvature['edge_of_stability']:.3g}."
            )
        return "\n".join([f"{head}.", *lines])


def diagnose(
    model: keras.Model, dataset, steps: int = STEPS, *, batch_size: int = 32, layers=None, deep: bool = True
) -> Diagnosis:
    """Trains a few real steps, looks at all there is to see, and puts everything back.

    All rules of `InternalStatistics` are asked at every step, then the running statistics are held against batches, and
    curvature, noise scale and the like are measured on the first batch. Variables, optimizer, seed generators, metrics
    and train function of the model are afterwards what they were; an optimizer that was not built yet is built.

    Args:
        model: a compiled and built model of any kind. TensorFlow only.
        dataset: what `fit` takes: batches (x, y) or (x, y, sample_weight), or arrays in a tuple.
        steps: how many; a smaller data set is gone through more than once.
        batch_size: that of arrays.
        layers: as for `InternalStatistics`.
        deep: whether to measure curvature and the like, which costs about a hundred passes.

    Returns:
        A `Diagnosis`; as text, a ranked list with evidence and advice.

    Raises:
        ValueError: the model is not compiled or not built, or there is no batch.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import nrm_keras
    >>> layer = keras.layers.Dense(8, "relu", bias_initializer=keras.initializers.Constant(-9.0), name="sick")
    >>> model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> diagnosis = nrm_keras.diagnose(model, (x, x[:, :1]), deep=False)
    >>> diagnosis.findings[0].rule, diagnosis.findings[0].layer
    ('dead_units', 'sick')
    """
    if not model.compiled or not model.built:
        raise ValueError(
            "diagnose needs a compiled and built model. "
            f"Received: {model.name!r}, compiled={model.compiled}, built={model.built}. "
            "Call model.compile(optimizer, loss), and the model once on a batch."
        )
    batches = list(Batches(dataset, steps, batch_size))
    if not batches:
        raise ValueError("`dataset` must have a batch at least. Received: none. Look whether it was read to its end.")
    with left_alone(model):
        watch = InternalStatistics(every=1, layers=layers, probe=None, say=lambda line: None)
        model.fit(_Repeated(batches, steps), verbose=0, callbacks=[watch], shuffle=False)
    findings = list(watch.alerts)
    report = None
    if any(has_running_statistics(layer) for layer in model._flatten_layers()):
        report = gap.train_inference_gap(model, (keras.utils.pack_x_y_sample_weight(*batch) for batch in batches))
        findings += _of_gap(report, int(keras.ops.convert_to_numpy(model.optimizer.iterations)))
    records = _deep_records(model, batches[0]) if deep and batches[0][1] is not None else []
    order = {rule.name: number for number, rule in enumerate(RULES)}
    findings.sort(key=lambda alert: order.get(alert.rule, len(order)))
    return Diagnosis(tuple(findings), steps, report, tuple(records))


@contextlib.contextmanager
def left_alone(model: keras.Model):
    """Afterwards the model is what it was: all its variables, the optimizer's and the metrics', and its functions."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    attributes = {name: vars(model).get(name) for name in ("train_function", "history", "stop_training")}
    variables = [*model.variables, *model.optimizer.variables]
    copies = [(v, tf.identity(v.value)) for v in {id(v): v for v in variables}.values()]
    metrics = [(v, tf.identity(v.value)) for v in model.metrics_variables]
    try:
        yield
    finally:
        model.reset_metrics()
        for variable, value in [*copies, *metrics]:
            variable.assign(value)
        for name, value in attributes.items():
            setattr(model, name, value)


class _Repeated(keras.utils.PyDataset):
    """The batches again and again, for a number of steps."""

    def __init__(self, batches, steps):
        super().__init__()
        self._batches, self._steps = batches, steps

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        batch = self._batches[index % len(self._batches)]
        return keras.utils.pack_x_y_sample_weight(*keras.tree.map_structure(_as_array, batch))


def _as_array(value):
    return None if value is None else np.asarray(value)


def _of_gap(report, step):
    """The verdicts of the layers whose running statistics don't fit, as one finding for each kind."""
    wrong = sorted((layer for layer in report.layers if layer.verdict != "none"), key=lambda layer: layer.verdict)
    for verdict, group in itertools.groupby(wrong, key=lambda layer: layer.verdict):
        first, *others = group
        yield Alert(
            "train_inference_gap",
            step,
            first.path,
            first.typical_mean_gap,
            0.0,
            f"{verdict.capitalize()}: {first.evidence}",
            "The model answers at inference with other statistics than it trains with.",
            first.advice,
            tuple(layer.path for layer in others),
        )


def _deep_records(model, batch):
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    try:
        return Deep(model, batch).measure(None, rate)
    except (TypeError, ValueError) as error:  # a train_step of its own may have a loss that nobody else knows
        warnings.warn(f"No curvature and the like: {error}", stacklevel=3)
        return []


def _paragraph(alert):
    layer = f" {alert.layer}" if alert.layer else ""
    others = f" Also {', '.join(alert.others[:5])}." if alert.others else ""
    return f"{alert.rule}{layer}: {alert.evidence}{others} {alert.reason}\n   {alert.advice}"
