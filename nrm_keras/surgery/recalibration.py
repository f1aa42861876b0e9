"""Re-estimate running statistics."""

import contextlib
import dataclasses

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.surgery.batches import Batches, examples
from nrm_keras.surgery.meter import Meter, calling, has_running_statistics


@dataclasses.dataclass(frozen=True)
class Shift:
    """How far a layer's running statistics moved: the mean in old standard deviations (root mean square over the
    channels), the variance as a multiple of the old one (geometric mean over the channels)."""

    path: str
    mean: float
    variance: float


@dataclasses.dataclass(frozen=True)
class Recalibration:
    """What `recalibrate` did. `print` shows it.

    `before` and `after` are loss and metrics on the data, or None. `left` names layers, each with the reason.
    """

    batches: int
    skipped: int
    examples: int
    shifts: tuple[Shift, ...]
    left: tuple[tuple[str, str], ...]
    before: dict[str, float] | None
    after: dict[str, float] | None

    def __str__(self):
        lines = [f"{len(self.shifts)} layers recalibrated on {self.examples} examples in {self.batches} batches"]
        if self.skipped:
            lines.append(f"  {self.skipped} batches skipped: without examples, or with values that are not finite")
        if self.before is not None:
            lines += [f"  {name}: {self.before[name]:.4g} -> {self.after[name]:.4g}" for name in self.before]
        lines.append("  largest shifts, in old standard deviations:")
        largest = sorted(self.shifts, key=lambda shift: -shift.mean)[:5]
        lines += [f"    {s.path}: mean {s.mean:.3g}, variance times {s.variance:.3g}" for s in largest]
        lines += [f"  left {path}: {reason}" for path, reason in self.left]
        return "\n".join(lines)


def recalibrate(
    model: keras.Model,
    dataset,
    steps: int | None = None,
    *,
    batch_size: int = 32,
    include_frozen: bool = False,
    evaluate: bool = True,
    verbose: int = 1,
) -> Recalibration:
    """Replaces running means and variances by those of a data set, exactly, with all other weights as they are.

    Use it on training data when the running averages lag behind the weights (after few steps, `swap_normalization`, or
    averaging of weights: PreciseBN), and on data of a new site, unlabelled if need be, before the model is used there
    (AdaBN). TensorFlow only.

    The statistics are those of all values of all batches together, not an average over batches: each valid position of
    each example counts once, `sample_weight` does not count. In the pass over the data the layers normalize with their
    batch, as in training, so take the training batch size; all else, dropout and augmentation above all, is as at
    inference, where the statistics will be used. A batch with a value that is not finite in front of any of the layers
    is left out. After an error or Ctrl-C the model is as before; seeds, metrics and optimizer are never touched.

    Keras' BatchNormalization and its subclasses, and this package's layers with running statistics, wherever they are.
    Layers that training leaves alone, by `trainable=False` or by a call with `training=False`, normalize with what they
    have, and keep it, unless `include_frozen`. What batch renormalization keeps besides stays as it is, and so do the
    statistics of DomainBatchNormalization's domains. Virtual batches are not formed: a batch is taken as a whole.

    Args:
        model: a model that is built.
        dataset: batches x, (x, y) or (x, y, sample_weight): a tf.data.Dataset, a keras.utils.PyDataset or a generator;
            or arrays, which are taken in a random order that is always the same.
        steps: how many batches; None for all.
        batch_size: that of arrays.
        include_frozen: whether frozen layers are recalibrated too, as one wants on another site's data.
        evaluate: whether to measure loss and metrics before and after, where there are labels and the model is
            compiled. It costs two more passes; a generator has only one.
        verbose: 0 is silent, 1 shows progress.

    Returns:
        A `Recalibration`.

    Raises:
        TypeError: `dataset` is none of the above.
        ValueError: the model is not built or has no layer to recalibrate, the data set has no usable batch, or never
            ends and `steps` is None.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import nrm_keras
    >>> x = keras.Input((2,))
    >>> model = keras.Model(x, keras.layers.BatchNormalization(name="norm")(x))
    >>> print(nrm_keras.recalibrate(model, np.array([[1.0, 10.0], [3.0, 30.0]]), verbose=0))
    1 layers recalibrated on 2 examples in 1 batches
      largest shifts, in old standard deviations:
        norm: mean 14.2, variance times 10
    >>> print(keras.ops.convert_to_numpy(model.get_layer("norm").moving_mean))
    [ 2. 20.]

    Source: Wu & Johnson 2021 (arXiv:2105.07576), section 3; Li et al. 2016 (arXiv:1603.04779). Dropout's effect on
    variances: Li et al. 2018 (arXiv:1801.05134).
    """
    candidates = running_layers(model)
    batches = Batches(dataset, steps, batch_size)
    state = State(model)
    try:
        before = batches.evaluate(model) if evaluate and model.compiled else None
        run = _Run(model, candidates, include_frozen)
        run.over(batches, verbose)
        state.restore()
        shifts = tuple(_write(meter) for meter in run.reached)
        after = None if before is None else batches.evaluate(model)
    except BaseException:
        state.restore()
        raise
    state.restore(but=[v for meter in run.reached for v in meter.layer.variables])
    return Recalibration(run.batches, run.skipped, run.examples, shifts, tuple(run.left), before, after)


class State:
    """The values of what a pass over data may change."""

    def __init__(self, model):
        variables = [*model.non_trainable_variables, *model.metrics_variables]
        self._values = [(v, tf.identity(v.value)) for v in {id(v): v for v in variables}.values()]

    def restore(self, but=()):
        kept = {id(variable) for variable in but}
        for variable, value in self._values:
            if id(variable) not in kept:
                variable.assign(value)


class _Run:
    """One pass over the data with the batch's statistics in the place of running ones."""

    def __init__(self, model, candidates, include_frozen):
        self.batches = self.skipped = self.examples = 0
        self.left = []
        self._model, self._candidates, self._include_frozen = model, candidates, include_frozen
        self._meters = None

    @property
    def reached(self):
        return [meter for meter in self._meters if meter.batches]

    def over(self, batches, verbose):
        progress = keras.utils.Progbar(batches.total, verbose=verbose, unit_name="batch")
        step = tf.function(self._step, autograph=False, reduce_retracing=True)
        with contextlib.ExitStack() as attached:
            for number, (x, _, _) in enumerate(batches, 1):
                if examples(x) > 0 and self._meters is None:
                    self._choose(x)
                    for meter in self._meters:
                        attached.enter_context(meter.attached())
                if examples(x) > 0 and self._count(step(x)):
                    self.batches += 1
                    self.examples += examples(x)
                else:
                    self.skipped += 1
                progress.update(number, finalize=number == batches.total)
        if self.batches == 0:
            raise ValueError(
                "The data must have a batch with examples and finite values only. "
                f"Received: {self.skipped} batches without. The model is as it was."
            )
        self.left += [(m.layer.path, "the data did not reach it") for m in self._meters if not m.batches]

    def _choose(self, x):
        """Whom to measure: the layers that use the batch's statistics in training."""
        frozen = set() if self._include_frozen else frozen_in_training(self._model, self._candidates, x)
        self._meters = [Meter(layer) for layer in self._candidates if id(layer) not in frozen]
        self.left = [(layer.path, "frozen in training") for layer in self._candidates if id(layer) in frozen]
        self.left += [
            (layer.path, "its running statistics are not one mean and variance for each channel")
            for layer in self._model._flatten_layers()
            if getattr(layer, "moving_mean", None) is not None and not has_running_statistics(layer)
        ]
        if not self._meters:
            raise ValueError(
                "There must be a layer that uses the batch's statistics in training. "
                f"Received: {len(self._candidates)} layers, all frozen. Pass include_frozen=True."
            )

    def _step(self, x):
        for meter in self._meters:
            meter.start()
        self._model(x, training=False)
        return [meter.read() for meter in self._meters]

    def _count(self, measured):
        """Adds the batch, if it is finite in front of every layer."""
        if not all(np.all(np.isfinite(value)) for value in keras.tree.flatten(measured)):
            return False
        for meter, values in zip(self._meters, measured, strict=True):
            meter.add(*values)
        return True


def running_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that keep a running mean and variance of each channel; an error if there are none."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            "`model` must be a Keras model that is built, its statistics have no shape yet. "
            f"Received: {getattr(model, 'name', model)!r}. Call it on a batch, or `model.build(input_shape)`."
        )
    layers = [layer for layer in model._flatten_layers() if has_running_statistics(layer)]
    if not layers:
        raise ValueError(
            "The model must have a layer with running statistics of each channel, such as BatchNormalization. "
            f"Received: '{model.name}', which has none. There is nothing to recalibrate."
        )
    return layers


def frozen_in_training(model: keras.Model, layers: list[keras.layers.Layer], x) -> set[int]:
    """Ids of the layers that are in inference mode while the model trains."""
    trained = set()

    def spy(layer):
        original = layer.call

        def call(*args, **kwargs):
            if kwargs.get("training") and layer.trainable:
                trained.add(id(layer))
            return original(*args, **kwargs)

        return calling(layer, call)

    with contextlib.ExitStack() as spies:
        for layer in layers:
            spies.enter_context(spy(layer))
        # Tracing runs nothing.
        tf.function(lambda x: model(x, training=True), autograph=False).get_concrete_function(x)
    return {id(layer) for layer in layers} - trained


def _write(meter):
    layer, epsilon = meter.layer, getattr(meter.layer, "epsilon", 1e-3)
    old_mean, old_variance = (
        keras.ops.convert_to_numpy(v).astype("float64") for v in (layer.moving_mean, layer.moving_variance)
    )
    meter.write()
    mean, variance = meter.total.mean.numpy(), meter.total.variance.numpy()
    with np.errstate(all="ignore"):
        distance = np.sqrt(np.mean(np.square(mean - old_mean) / (old_variance + epsilon)))
        ratio = np.exp(np.mean(np.log((variance + epsilon) / (old_variance + epsilon))))
    return Shift(layer.path, float(distance), float(ratio))
