"""Rules about how the model is built and compiled, before the first step."""

import random

import keras
import numpy as np

from nrm_keras.diagnostics.constant import loss_name
from nrm_keras.diagnostics.observation import Finding
from nrm_keras.diagnostics.places import places_of
from nrm_keras.diagnostics.rules.base import Rule, worst_first
from nrm_keras.diagnostics.taps import inner_optimizer
from nrm_keras.diagnostics.units import activation_kind
from nrm_keras.surgery.structure import is_normalizer


class LossMismatch(Rule):
    name = "loss_mismatch"
    threshold = 0.0
    reason = "The loss reads the outputs as something that they are not."
    advice = "Logits (no activation) go with from_logits=True, softmax and sigmoid with from_logits=False; regression ends without activation."

    def observe(self, observation):
        outputs, loss = observation.output, observation.model.loss
        if observation.first is not observation or outputs is None or not _is_keras_own(loss):
            return
        kind = activation_kind(observation.layer(outputs.layer))
        y = keras.utils.unpack_x_y_sample_weight(observation.reading.batch)[1]
        text = _mismatch(loss_name(observation.model), _from_logits(loss), kind, outputs, y)
        if text:
            yield Finding(outputs.layer, 1, text)


class Misplaced(Rule):
    name = "misplaced_normalization"
    threshold = 0.0
    reason = "It takes away from the outputs what the loss asks for."
    advice = "Take the last normalizer out, or put it in front of the last layer with weights."

    def observe(self, observation):
        behind = observation.output
        if observation.first is not observation or behind is None:
            return
        for last in observation.reading.activations[-2:]:
            ends = last is behind or behind.type in ("Activation", "Softmax")
            if ends and is_normalizer(observation.layer(last.layer)):
                yield Finding(last.layer, 1, "Normalizer behind the layer that gives the outputs.")


class FrozenAtRandom(Rule):
    name = "frozen_at_random"
    threshold = 0.0
    reason = "The layer keeps random weights for ever."
    advice = "Set trainable=True, or load the weights that it was to keep."

    def begin(self, model):
        return (
            Finding(place.name, 1, f"{variable.path} is not trainable, and distributed as its initializer draws it.")
            for place in places_of(model)
            if place.layer.built and not place.layer.trainable
            for variable in place.kernels
            if is_fresh(place.layer, variable)
        )


class Settings(Rule):
    name = "extreme_setting"
    threshold = 0.0
    reason = "Hardly any training works with it."
    advice = "Go back to a usual value: momentum 0.9 to 0.99, epsilon 1e-3 or less, dropout below 0.6, l2 below 0.01, clipnorm about 1."

    def begin(self, model):
        for place in places_of(model):
            for text in _extremes(place.layer):
                yield Finding(place.name, 1, text)
        optimizer = inner_optimizer(model.optimizer)
        for name in ("clipnorm", "global_clipnorm", "clipvalue"):
            value = getattr(optimizer, name, None)
            if value is not None and value < 1e-4:
                yield Finding(None, value, f"The optimizer has {name}={value:g}.")


class Initialization(Rule):
    name = "initialization"
    of_new_trainings = True
    threshold = 20.0
    reason = "Activations grow or shrink by that from layer to layer."
    advice = "Use the default initializers, He for ReLU."

    def begin(self, model):
        found = []
        kernels = [(p, v) for p in places_of(model) if p.layer.built and p.layer.trainable for v in p.kernels]
        for place, variable in kernels:
            gain = _gain(place.layer, variable)
            # outputs may well begin near 0
            least = 0 if variable is kernels[-1][1] else 1 / self.threshold
            if gain > 0 and not least < gain < self.threshold:
                text = f"{variable.path} multiplies variances by {gain:.3g}."
                found.append(Finding(place.name, max(gain, 1 / gain), text))
        return worst_first(found)


class Regularization(Rule):
    name = "regularization"
    of_new_trainings = True
    threshold = 0.9
    reason = "The weights are pulled to 0 before they learn anything."
    advice = "Use a factor such as 1e-4 for L2, or the optimizer's weight_decay."

    def begin(self, model):
        optimizer = inner_optimizer(model.optimizer)
        rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate)) if optimizer else 0
        decay = getattr(optimizer, "weight_decay", None) or 0
        if rate * decay > 0.01:
            yield Finding(
                None, rate * decay, f"Weight decay takes {100 * rate * decay:.2g}% of each weight in every step."
            )

    def observe(self, observation):
        if observation.first is not observation or not observation.loss:
            return
        parts = []
        for place in observation.places.values():
            for variable in place.weights:
                if variable.regularizer is not None and variable.trainable:
                    parts.append((float(keras.ops.convert_to_numpy(variable.regularizer(variable))), place.name))
        total = sum(p for p, _ in parts)
        if parts and total > self.threshold * abs(observation.loss):
            yield Finding(
                max(parts)[1],
                total / observation.loss,
                f"Regularization is {100 * total / observation.loss:.0f}% of the loss.",
            )


def _extremes(layer):
    momentum, epsilon = getattr(layer, "momentum", None), getattr(layer, "epsilon", None)
    if is_normalizer(layer) and isinstance(momentum, float) and momentum >= 0.9999:
        yield f"momentum={momentum:g}: the running statistics never move."
    if is_normalizer(layer) and isinstance(epsilon, float) and epsilon > 0.5:
        yield f"epsilon={epsilon:g}: variances are about 1."
    rate = getattr(layer, "rate", None)
    if isinstance(layer, keras.layers.Dropout) and rate is not None and rate > 0.85:
        yield f"Dropout of {100 * rate:.0f}% of all values."
    for name in ("kernel_regularizer", "recurrent_regularizer"):
        l2 = getattr(getattr(layer, name, None), "l2", None)
        if l2 is not None and float(l2) > 0.5:
            yield f"{name} L2 of {float(l2):g}."


def _gain(layer, variable):
    """What a kernel multiplies the variance of independent inputs by, or below 1 / 20 that of gradients, if larger."""
    values = np.asarray(keras.ops.convert_to_numpy(variable), "float64")
    square = float(np.mean(values**2))
    if isinstance(layer, keras.layers.Embedding):
        return max(1.0, 4 * square)  # it has no inputs, and small outputs are usual
    if "kernel" not in variable.name:
        return 1.0  # it may be added
    if "recurrent" in variable.name:
        return 4 * square * values.shape[0] if square * values.shape[0] > 1.5 else 1.0  # a loop repeats what it does
    inward, outward = np.prod(values.shape[:-1]), np.prod(values.shape[1:])
    if isinstance(layer, (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)):
        inward = outward = np.prod(values.shape[:-2])
    if isinstance(layer, keras.layers.EinsumDense):
        inward = values.shape[0]  # at least that axis is summed over
    return square * inward if square * inward > 1 else min(1.0, square * max(inward, outward))


def is_fresh(layer, variable):
    """Whether a kernel is distributed as its initializer draws, and its bias is still 0."""
    name = "embeddings" if isinstance(layer, keras.layers.Embedding) else variable.name
    initializer = getattr(layer, f"{name}_initializer", None)
    bias = getattr(layer, "bias", None)
    if not hasattr(initializer, "seed") or bias is not None and np.any(keras.ops.convert_to_numpy(bias)):
        return False
    state = random.getstate()  # Keras draws seeds from there, and so may the data set
    try:
        drawn = np.asarray(keras.ops.convert_to_numpy(initializer.clone()(variable.shape)), "float64")
    finally:
        random.setstate(state)
    values = np.asarray(keras.ops.convert_to_numpy(variable), "float64")
    spread = 4 * np.sqrt(2 / values.size)
    return bool(
        np.abs(values).max() <= 1.2 * np.abs(drawn).max()
        and abs(np.log((values.std() + 1e-12) / (drawn.std() + 1e-12))) < spread
    )


def _is_keras_own(loss):
    """Whether the loss means what its name says."""
    return isinstance(loss, str) or hasattr(loss, "from_logits") or type(loss).__module__.startswith("keras.")


def _from_logits(loss):
    if isinstance(loss, str):
        return False
    return getattr(loss, "from_logits", getattr(loss, "_fn_kwargs", {}).get("from_logits", False))


def _mismatch(loss, from_logits, kind, outputs, y):
    probabilities = kind in ("softmax", "sigmoid")
    if "crossentropy" in loss:
        if from_logits and probabilities:
            return f"The loss expects logits (from_logits=True), and the outputs went through {kind}."
        if not from_logits and not probabilities and _leave_unit_interval(outputs):
            return "The loss expects probabilities (from_logits=False), and the outputs are not: they leave [0, 1]."
        if kind == "softmax" and len(outputs.mean) == 1:
            return "Softmax over one unit is always 1."
        if "binary" not in loss and kind == "sigmoid" and len(outputs.mean) > 1:
            return "The loss expects probabilities that add up to 1, and sigmoid gives none such."
    elif "error" in loss and y is not None:
        low = min(float(np.min(np.asarray(v))) for v in keras.tree.flatten(y))
        high = max(float(np.max(np.asarray(v))) for v in keras.tree.flatten(y))
        floor = {"relu": 0, "sigmoid": 0, "softmax": 0, "tanh": -1}.get(kind)
        ceiling = {"sigmoid": 1, "softmax": 1, "tanh": 1}.get(kind, np.inf)
        if floor is not None and (low < floor or high > ceiling):
            return f"{kind} gives no values outside [{floor}, {ceiling}], and targets go from {low:.3g} to {high:.3g}."
    return None


def _leave_unit_interval(outputs):
    return bool((outputs.sample < -1e-6).any() or (outputs.sample > 1 + 1e-6).any())
