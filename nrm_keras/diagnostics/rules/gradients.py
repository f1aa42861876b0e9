"""Rules about numbers that overflow, and about gradients and updates that are too small or too large."""

import math
from collections import deque

import keras
import numpy as np

from nrm_keras.diagnostics.observation import Finding
from nrm_keras.diagnostics.places import places_of
from nrm_keras.diagnostics.rules.base import Rule


class NonFinite(Rule):
    name = "non_finite"
    threshold = 0.0
    reason = "From here on every weight it reaches is lost."
    advice = (
        "Look for it in the data first; then lower the learning rate, clip the gradients' norm, or put a normalizer in front "
        'of the layer. action="stop" goes back to the last finite weights.'
    )

    def observe(self, observation):
        if observation.finite:
            return
        if not _batch_is_finite(observation.reading.batch):
            yield Finding(None, 1, "The batch itself holds a value that is NaN or infinite.")
            return
        bad = [a for a in observation.reading.activations if not a.finite]
        if bad:
            count = int((~np.isfinite(bad[0].mean + bad[0].variance)).sum())
            yield Finding(bad[0].layer, count, f"{count} of its {len(bad[0].mean)} channels are the first not finite.")
            return
        for weight in observation.reading.weights:
            if not math.isfinite(weight.norm + weight.update_norm):
                yield Finding(observation.owner(weight), 1, f"{weight.variable.path} is not finite after the update.")
                return
        yield Finding(None, 1, "The loss is not finite, though every activation is.")

    def not_finite(self, model):
        for place in places_of(model):
            for variable in place.weights:
                if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
                    yield Finding(place.name, 1, f"The loss is not finite; {variable.path} is the first such weight.")
                    return
        yield Finding(None, 1, "The loss is not finite; no weight is affected yet.")


class VanishingGradient(Rule):
    name = "vanishing_gradient"
    threshold = 300.0
    patience = 3
    reason = "The first layers hardly learn."
    advice = "Use ReLU or ELU in place of sigmoids, He initialization, normalizers between the layers, or residual connections."

    def observe(self, observation):
        slopes = _relative_gradients(observation)
        if len(slopes) < 3:
            return
        (first, first_slope), (last, last_slope) = slopes[0], slopes[-1]
        if last_slope > self.threshold * first_slope and last_slope > 0:
            ratio = last_slope / first_slope if first_slope else math.inf
            yield Finding(first, ratio, f"Per weight its gradient is {ratio:.3g} times smaller than that of {last}.")


class ExplodingGradient(Rule):
    name = "exploding_gradient"
    threshold = 100.0
    patience = 2
    reason = "Steps become random, and the loss diverges."
    advice = "Clip the gradients' norm (clipnorm=1.0), lower the learning rate, or initialize with smaller weights."

    def reset(self):
        self._norms = deque(maxlen=5)

    def observe(self, observation):
        norm = observation.gradient_norm
        if norm is None or not math.isfinite(norm):
            return  # with a loss scale too large for float16 the optimizer leaves the step out
        usual = np.median(self._norms) if len(self._norms) >= 3 else None
        if usual and norm > self.threshold * usual:
            worst = max(observation.reading.weights, key=lambda w: w.gradient_norm)
            yield Finding(
                observation.owner(worst), norm / usual, f"The gradient's norm grew from {usual:.3g} to {norm:.3g}."
            )
        else:
            self._norms.append(norm)


class UpdatesTooLarge(Rule):
    name = "updates_too_large"
    threshold = 0.3
    patience = 3
    reason = "Each step throws away what the weights were; about 0.001 is healthy."
    advice = "Lower the learning rate, or warm it up over the first steps."

    def observe(self, observation):
        ratios = [(layer, w.update_norm / w.norm) for layer, w in observation.kernels if w.norm]
        if ratios and np.median([r for _, r in ratios]) > self.threshold:
            yield Finding(None, np.median([r for _, r in ratios]), _ratio_text("half of the weights", ratios))


class UpdatesTooSmall(Rule):
    name = "updates_too_small"
    threshold = 1e-5
    patience = 3
    reason = "At this rate the weights stay where they were initialized; about 0.001 a step is healthy."
    advice = "Raise the learning rate; look whether gradients are clipped (clipnorm, clipvalue) far below their norm."

    def reset(self):
        self._moved = False

    def observe(self, observation):
        kernels = [(layer, w) for layer, w in observation.kernels if w.norm and w.gradient_norm and w.update_norm]
        ratios = [(layer, w.update_norm / w.norm) for layer, w in kernels]
        if not ratios:
            return
        largest = max(ratio for _, ratio in ratios)
        self._moved = self._moved or largest >= self.threshold
        if not self._moved:  # at the end of a schedule steps are small on purpose
            yield Finding(None, largest, _ratio_text("all weights", ratios))


class UnchangedWeights(Rule):
    name = "unchanged_weights"
    threshold = 0.0
    patience = 3
    reason = "The layer does not learn."
    advice = "Look for dead units behind it, a path to the loss that is cut, or weights initialized with zeros."

    def observe(self, observation):
        if not any(weight.update_norm for _, weight in observation.kernels):
            return
        for layer, weight in observation.kernels:
            if weight.update_norm <= 1e-9 * weight.norm and not weight.gradient_norm:
                yield Finding(layer, 0.0, f"{weight.variable.path} gets a gradient of 0 and is not updated.")


def _ratio_text(which, ratios):
    values = [r for _, r in ratios]
    return f"A step changes {which} by {np.median(values):.3g} of their norm ({min(values):.2g} to {max(values):.2g})."


def _relative_gradients(observation):
    """(layer, root mean square of the gradient) of each kernel, in order."""
    return [(layer, w.gradient_norm / max(w.size, 1) ** 0.5) for layer, w in observation.kernels]


def _batch_is_finite(batch):
    values = (np.asarray(v) for v in keras.tree.flatten(batch) if v is not None)
    return all(np.isfinite(v).all() for v in values if v.dtype.kind == "f")
