"""Do running statistics fit the batches? The gap between training and inference."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics.gap_null import Memory, compare, progress
from nrm_keras.diagnostics.gap_pass import Pass
from nrm_keras.diagnostics.gap_report import GapReport, LayerGap, LossGap
from nrm_keras.diagnostics.gap_verdict import NEVER, NONE, Circumstances, factor, judge, size
from nrm_keras.layers.running import CONVERGED
from nrm_keras.surgery import recalibrate
from nrm_keras.surgery.batches import Batches
from nrm_keras.surgery.recalibration import State, running_layers

STEPS = 20


def train_inference_gap(
    model: keras.Model, dataset, steps: int | None = None, *, batch_size: int = 32, remedy: bool = False, seed: int = 0
) -> GapReport:
    """Compares running statistics with those of batches, and the model's loss with either, and says why they differ.

    Equations, per channel: `|mu_run - mu_B| / sqrt(var_run + epsilon)` and `log(var_B / var_run)`, with mu_B and var_B
    the averages over batches of the batch's mean and population variance. Sampling alone gives the mean of B examples
    the variance Var_n(m) / B, and its variance Var_n(q) / B, where m is an example's mean over its positions and q
    that of (x - mu)^2: examples count, as positions are correlated. The average of k batches has 1 / k of it, and the
    running average the sum of its squared weights, (1 - momentum) / (1 + momentum) in the end.

    Each layer is measured on what it gets in the training-mode forward pass: every normalizer that training updates
    uses its batch; all else, dropout above all, is as at inference. So a layer behind a wrong one is not wrong for it.
    The batch size must be that of training, as the expected variance of a batch depends on it. Batches of another size
    than most count for the loss only.

    A layer's p-value is calibrated on batches drawn anew from the examples; for batches of two behind another
    normalizer, whose examples depend on each other, it comes out too small. The verdict is one of

        none              no more than sampling noise, or too little to matter
        too few updates   running statistics are still on their way from the initial values
        batch too small   batches differ so much that training and inference are different functions
        data shift        converged, batches large enough, and far: other data than in training
        never updated     running statistics are the initial values

    The number of updates is `update_count`, or the optimizer's iterations, which a model with weights from elsewhere
    does not have; then too few updates are told from how well the way from the initial values fits.

    The model is left as it was. It costs two forward passes, with remedy=True three more. The moments of all examples
    are kept: 16 bytes for each example, channel and call of a layer. TensorFlow only.

    Args:
        model: a model that is built, compiled or not.
        dataset: batches x, (x, y) or (x, y, sample_weight), or arrays, as `recalibrate` takes them.
        steps: how many batches; None for 20, or as many as there are.
        batch_size: that of arrays.
        remedy: whether to try `recalibrate` on the same batches, with loss and metrics before and after.
        seed: of the resampling.

    Returns:
        A `GapReport`: layers, loss, verdict, evidence, advice. `recalibrated` is the report of the remedy.

    Raises:
        TypeError: `dataset` is none of the above.
        ValueError: the model is not built or has no layer with running statistics, or the data set no usable batch.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.diagnostics.gap import train_inference_gap
    >>> inputs = keras.Input((2,))
    >>> model = keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(inputs))
    >>> data = np.random.default_rng(0).normal(5.0, 2.0, (640, 2)).astype("float32")
    >>> for step in range(30):
    ...     _ = model(data[:320], training=True)
    >>> report = train_inference_gap(model, data[320:])
    >>> report.verdict, round(report.layers[0].fraction, 1), round(1 - 0.99**30, 1)
    ('too few updates', 0.3, 0.3)

    Source: the gap, Ioffe 2017 (arXiv:1702.03275), section 3; Wu & Johnson 2021 (arXiv:2105.07576), section 3. The null
    model is this package's own.
    """
    layers = running_layers(model)
    batches = Batches(dataset, STEPS if steps is None else steps, batch_size)
    state = State(model)
    try:
        run = Pass(model, layers, keep=remedy)
        run.over(batches)
        state.restore()
        measured = _measured(run, model, seed)
        recalibrated = _remedy(model, run, measured) if remedy else None
    finally:
        state.restore()
    return GapReport(
        verdict=_overall(measured),
        layers=measured,
        loss=_loss(run.losses),
        batches=run.batches,
        skipped=run.skipped,
        examples=run.examples,
        left=tuple(run.left),
        recalibrated=recalibrated,
    )


def _measured(run, model, seed):
    """Worst first: what has a verdict, then by how far training is from inference."""
    random = any(getattr(layer, "seed_generator", None) is not None for layer in model._flatten_layers())
    compared = [(layer, *_compared(layer, run, _updates(layer, model), random, seed)) for layer in run.reached]
    fractions = [known.fraction for _, _, _, known in compared if known.fraction is not None and not known.frozen]
    of_all = {"tests": len(compared), "typical_fraction": float(np.median(fractions)) if fractions else 1.0}
    gaps = [
        _layer_gap(layer, examples, found, dataclasses.replace(known, **of_all))
        for layer, examples, found, known in compared
    ]
    return tuple(sorted(gaps, key=lambda gap: (gap.verdict == NONE, gap.frozen, -_distance(gap))))


def _compared(layer, run, updates, random, seed):
    """(the batches that are alike, the comparison with them, what else is known)."""
    epsilon, momentum = getattr(layer, "epsilon", 1e-3), float(getattr(layer, "momentum", 0.99))
    whole = run.examples_of(layer)
    examples = whole.alike(getattr(layer, "virtual_batch_size", None))
    # An update averages over the virtual batches of its batch.
    groups = max(whole.alike(None).sizes[0] // examples.sizes[0], 1)
    count = math.inf if updates is None else updates
    memory = Memory.after(count, momentum, bool(getattr(layer, "warmup", False)))
    running, initial = _values(layer.moving_mean, layer.moving_variance), _initial(layer)
    found = compare(examples, running, epsilon, memory.averaged(groups), seed)
    fraction = explained = None
    if initial is not None:
        fraction, explained = progress(running, initial, (found.batch_mean, found.batch_variance), epsilon)
    known = Circumstances(
        frozen=id(layer) in run.frozen,
        momentum=momentum,
        updates=updates,
        untouched=initial is not None and all(map(np.array_equal, running, initial)),
        initial_left=None if updates is None else memory.initial,
        fraction=fraction,
        explained=explained,
        random=random,
    )
    return examples, found, known


def _layer_gap(layer, examples, found, known):
    verdict, evidence = judge(found, known)
    per_channel = ("mean_gap", "log_variance_ratio", "mean_z", "variance_z")
    return LayerGap(
        path=layer.path,
        batch_size=examples.sizes[0],
        **{name: tuple(map(float, getattr(found, name))) for name in per_channel},
        **{name: getattr(found, name) for name in ("p_value", "mean_noise", "variance_noise")},
        **{
            name: getattr(known, name)
            for name in ("frozen", "momentum", "updates", "initial_left", "fraction", "explained")
        },
        typical_mean_gap=size(found.mean_gap),
        typical_variance_factor=factor(found),
        verdict=verdict,
        evidence=evidence,
    )


def _distance(gap):
    noise = gap.mean_noise, gap.variance_noise
    return math.hypot(gap.typical_mean_gap, math.log(gap.typical_variance_factor), *noise)


def _overall(gaps):
    """That of the worst layer, frozen ones aside unless there are no others with a verdict."""
    verdicts = [gap.verdict for gap in gaps if not gap.frozen] + [gap.verdict for gap in gaps if gap.verdict == NEVER]
    return next((verdict for verdict in verdicts if verdict != NONE), NONE)


def _updates(layer, model):
    """How many updates the running statistics had, None if unknown."""
    count = getattr(layer, "update_count", None)
    if count is not None:
        return None if float(count) >= CONVERGED else int(count)
    optimizer = getattr(model, "optimizer", None)
    # None yet: the weights come from elsewhere, or there are none.
    return int(optimizer.iterations) or None if optimizer is not None else None


def _initial(layer):
    """(mean, variance) before the first update; None if they were drawn at random, or are unknown."""
    fixed = keras.initializers.Constant | keras.initializers.Zeros | keras.initializers.Ones
    initializers = [getattr(layer, f"moving_{name}_initializer", None) for name in ("mean", "variance")]
    if not all(isinstance(one, fixed) for one in initializers):
        return None
    variables = layer.moving_mean, layer.moving_variance
    return _values(*(one(v.shape, v.dtype) for one, v in zip(initializers, variables, strict=True)))


def _values(*variables):
    return tuple(keras.ops.convert_to_numpy(v).astype("float64") for v in variables)


def _remedy(model, run, gaps):
    include = any(gap.frozen and gap.verdict == NEVER for gap in gaps)
    if not include and all(gap.frozen for gap in gaps):
        return None
    return recalibrate(model, run.kept, include_frozen=include, verbose=0)


def _loss(losses):
    if not losses:
        return None
    weights, inference, training = np.array(losses, "float64").T
    difference = inference - training
    number, mean = len(difference), float(np.average(difference, weights=weights))
    error = float(difference.std(ddof=1) / math.sqrt(number)) if number > 1 else None
    return LossGap(
        training=float(np.average(training, weights=weights)),
        inference=float(np.average(inference, weights=weights)),
        difference=mean,
        standard_error=error,
        p_value=_student(mean, error, number - 1) if number > 1 else None,
    )


def _student(difference, error, degrees):
    """Two-sided p-value of Student's t."""
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    squared = (difference / error) ** 2
    return float(
        tf.math.betainc(*(tf.constant(v, "float64") for v in (degrees / 2, 0.5, degrees / (degrees + squared))))
    )
