"""A model for inference only: what training needed and what is constant by now is not there any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.errors import UserError
from nrm_keras.serving.specialization.rewriting import Change, Rewriting
from nrm_keras.surgery.batches import Batches
from nrm_keras.surgery.structure import is_graph, is_sequence

BATCH_SIZE = 64
# A rounding of each number is what half precision does to any model; a deep one adds up some of them.
_ROUNDINGS = 8
_UNITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Step:
    """What was done to a layer, or why it was left, and the largest absolute output difference from the original then."""

    layer: str
    what: str
    difference: float


@dataclass(frozen=True)
class Specialized:
    """The specialized model, and the steps that led to it. `print` shows them."""

    model: keras.Model
    steps: tuple[Step, ...]

    def __str__(self):
        lines = [f"  {step.layer}: {step.what} (largest difference {step.difference:.1e})" for step in self.steps]
        return "\n".join([f"{self.model.name} for inference: {len(lines)} steps", *lines])


def specialize(
    model: keras.Model, inputs: Any, *, gate_tolerance: float = 1e-3, tolerance: float = 1e-4
) -> Specialized:
    """Copies a model for inference: nearly the same outputs, in less time.

    Batch normalization, ours and Keras', is folded into the linear layer in front of it: a dense layer or convolution
    without an activation whose output goes nowhere else. Elsewhere, its four constants per channel become two. The gate
    of `AdaptiveNormalization` is a constant; where it is all but 1 the layer becomes batch normalization, which may then
    be folded, and where it is all but 0 group normalization, unless that takes more than half of the tolerance. Likewise
    `SwitchableNormalization` becomes the normalizer that has all of its weights. `GroupNormalization` that pools positions
    has its constants worked out. Dropout and the like are left out. Models inside models, and inside of wrappers, are
    treated alike. What is inside of a layer or model with code of its own is left, and so is what would lose digits to
    large means; a step says so.

    Args:
        model: a built model. The original stays as it is.
        inputs: what the outputs are compared on: real inputs of the model, in its structure (an array, or a list or
            dictionary of arrays), or a `tf.data.Dataset` of batches of them.
        gate_tolerance: how near to 0 or 1 the weights of a mixture of normalizers are taken for these.
        tolerance: the largest difference of an output, as a part of the largest absolute value of that output over
            `inputs`. With half precision, eight roundings are granted in any case.

    Returns:
        A functional model, not compiled, with the layers' names, and the steps.

    Raises:
        UserError: a step changes the outputs by more than the tolerance.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.serving.specialize import specialize
    >>> dense, norm = keras.layers.Dense(4, use_bias=False, name="dense"), keras.layers.BatchNormalization(name="norm")
    >>> model = keras.Sequential([keras.Input((8,)), dense, norm], name="mlp")
    >>> specialized = specialize(model, np.ones((2, 8), "float32"))
    >>> [(step.layer, step.what) for step in specialized.steps]
    [('norm', "folded into 'dense'")]
    >>> [layer.name for layer in specialized.model.layers[1:]]
    ['dense']

    Source: folding, Jacob et al. 2018 (arXiv:1712.05877), section 3.2.
    """
    if not (is_graph(model) or is_sequence(model)) or not model.built:
        return Specialized(model, (Step(model.name, f"left as it is: {_unseen(model)}", 0.0),))
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name) if is_sequence(model) else model
    comparison = _Comparison(graph, inputs, tolerance)
    rewriting, steps = Rewriting(graph, gate_tolerance), []
    for change in rewriting.changes():
        difference, share = comparison.of(rewriting.run)
        if change.otherwise is not None and not share <= 0.5 * comparison.tolerance:
            change = change.otherwise()
            difference, share = comparison.of(rewriting.run)
        comparison.check(change, difference, share)
        steps.append(Step(change.layer, change.what, difference))
    try:
        new = rewriting.copy()
    except ValueError as error:
        return Specialized(model, (Step(model.name, f"left as it is: {error}", 0.0),))
    whole = Change(model.name, "built anew with all of these steps")
    comparison.check(whole, *comparison.of(lambda batch: new(batch, training=False)))
    return Specialized(new, tuple(steps))


def granted(model: keras.Model, tolerance: float) -> float:
    """The tolerance, or what the precision of the model's layers makes of any change."""
    unit = max(_UNITS.get(layer.compute_dtype, 0.0) for layer in model._flatten_layers())
    return max(tolerance, _ROUNDINGS * unit)


def _unseen(model):
    if not model.built:
        return "the model is not built, its weights have no shape yet"
    return f"{type(model).__name__} has code of its own, which layers it uses and how is not known"


class _Comparison:
    """How far outputs are from those of the original model, on the same inputs."""

    def __init__(self, model, inputs, tolerance):
        self.tolerance = granted(model, tolerance)
        batches = Batches(inputs if isinstance(inputs, tf.data.Dataset) else (inputs,), None, BATCH_SIZE)
        self._inputs = [x for x, _, _ in batches]
        self._expected = [_numbers(model(x, training=False)) for x in self._inputs]
        largest = [[np.abs(one).max(initial=0, where=np.isfinite(one)) for one in batch] for batch in self._expected]
        self._scales = np.max(largest, 0)

    def of(self, run) -> tuple[float, float]:
        """The largest absolute difference, and the largest as a part of its output's largest value."""
        actual = (_numbers(run(x)) for x in self._inputs)
        batches = zip(actual, self._expected, strict=True)
        differences = np.max([[_difference(*pair) for pair in zip(*batch, strict=True)] for batch in batches], 0)
        with np.errstate(divide="ignore"):
            shares = np.where(differences == 0, 0, differences / self._scales)
        return float(differences.max()), float(shares.max())

    def check(self, change, difference, share):
        if not share <= self.tolerance:
            raise UserError(
                f"Specialization must keep every output within {self.tolerance:.2g} of its largest value. Received: "
                f"'{change.layer}' ({change.what}), behind which an output differs by {difference:.2g}, {share:.2g} of "
                "that value. Raise `tolerance`, or export without specialization."
            )


def _numbers(outputs):
    """The outputs that are numbers, flat, in float64."""
    outputs = (keras.ops.convert_to_numpy(one) for one in keras.tree.flatten(outputs))
    return [one.astype("float64") for one in outputs if one.dtype.kind != "O"]


def _difference(actual, expected):
    alike = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        difference = np.where(alike, 0, np.abs(actual - expected))
    return np.nan_to_num(difference, nan=np.inf).max(initial=0)
