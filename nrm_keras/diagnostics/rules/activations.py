"""Rules about what the layers give: dead, saturated, constant, far too large or too small."""

import keras
import numpy as np

from nrm_keras.diagnostics import records, units
from nrm_keras.diagnostics.observation import Finding
from nrm_keras.diagnostics.places import is_activation
from nrm_keras.diagnostics.rules.base import Rule, worst_first
from nrm_keras.diagnostics.rules.structure import is_fresh
from nrm_keras.surgery.structure import is_normalizer


class DeadUnits(Rule):
    name = "dead_units"
    threshold = 0.5
    patience = 3
    reason = "Such a unit has no gradient and never comes back."
    advice = "Lower the learning rate, look for large negative biases, use He initialization, a normalizer in front, or LeakyReLU."

    def reset(self):
        self._means = {}

    def observe(self, observation):
        found = []
        for activation in observation.hidden():
            if activation.kind not in units.CAN_DIE or not activation.values:
                continue
            # dead is who is dead on all batches of late
            recent = [*self._means.get(activation.layer, []), activation.mean][-self.patience :]
            self._means[activation.layer] = recent
            dead = units.dead(np.max(recent, 0), activation.kind)
            if dead.mean() > self.threshold:
                found.append(
                    Finding(
                        activation.layer,
                        dead.mean(),
                        f"{dead.sum()} of {len(dead)} channels are 0 for every example and position.",
                    )
                )
        return worst_first(found)


class SaturatedUnits(Rule):
    name = "saturated_units"
    threshold = 0.5
    patience = 3
    reason = "Where it is flat it passes no gradient on."
    advice = "Normalize the layer's inputs or use smaller initial weights."

    def observe(self, observation):
        shares = ((a, records.saturated_share(a)) for a in observation.hidden())
        return worst_first(
            Finding(a.layer, share, f"{100 * share:.0f}% of its values are within 0.01 of the bounds of {a.kind}.")
            for a, share in shares
            if share is not None and share > self.threshold
        )


class SaturatedAttention(Rule):
    name = "saturated_attention"
    threshold = 0.9
    patience = 3
    reason = "Each position looks at one other only, and the choice has no gradient."
    advice = "Look at the scale of queries and keys: smaller initial weights, a normalizer in front, scores divided by sqrt(dimension)."

    def observe(self, observation):
        for activation in observation.hidden():
            if activation.type != "Softmax":
                continue
            sharpness = len(activation.mean) * float(np.mean(activation.variance + activation.mean**2))
            if sharpness > self.threshold:
                yield Finding(
                    activation.layer,
                    sharpness,
                    f"Its rows have a mean square sum of {sharpness:.2f}, where 1 is one-hot.",
                )


class NormalizerScale(Rule):
    name = "normalizer_scale"
    threshold = 0.25
    patience = 3
    reason = "A normalizer is there to give a variance of gamma^2; this one doesn't."
    advice = "Look at its epsilon against the variance of its inputs, at its axis (one feature has no variance), and whether its inputs are constant."

    def observe(self, observation):
        layers = observation.normalizers
        found = []
        for activation in observation.reading.activations:
            if activation.layer not in layers:
                continue
            gamma, beta = (_values(observation, layers[activation.layer], name) for name in ("gamma", "beta"))
            if any(np.shape(v) not in ((), activation.mean.shape) for v in (gamma, beta)):
                continue
            wanted = float(np.mean(np.square(gamma)))
            ratio = float(np.mean(activation.variance + np.square(activation.mean - beta))) / wanted if wanted else 1.0
            if ratio < self.threshold:
                text = f"Its outputs have {ratio:.2g} of the variance that they should have."
                found.append(Finding(activation.layer, ratio, text))
        return iter(sorted(found, key=lambda finding: finding.value))


class ActivationScale(Rule):
    name = "activation_scale"
    threshold = 30.0
    patience = 2
    reason = "Activations that large make gradients and steps as large, and those that small none."
    advice = "Standardize the inputs, use Glorot or He initialization, or put a normalizer in front of the layer."

    def observe(self, observation):
        # what a normalizer gets may have any scale
        behind = zip(observation.reading.activations, observation.reading.activations[1:], strict=False)
        normalized = {a.layer for a, b in behind if b.layer in observation.normalizers}
        found = []
        for activation in observation.hidden():
            deviation = activation.total_variance**0.5
            if deviation > self.threshold and activation.layer not in normalized:
                found.append(
                    Finding(activation.layer, deviation, f"Its outputs have a standard deviation of {deviation:.3g}.")
                )
        return iter(found)


class ConstantActivation(Rule):
    name = "constant_activation"
    threshold = 1e-3
    patience = 2
    reason = "What reaches the next layers says nothing about the example."
    advice = "Use larger initial weights (Glorot or He), or put a normalizer behind the layer."

    def observe(self, observation):
        multiply = set(observation.matrices.values())
        for activation in observation.hidden():
            layer = observation.layer(activation.layer)
            if activation.kind == "softmax" or layer and activation.layer not in multiply and not is_activation(layer):
                continue  # a scale of its own may well begin at 0
            size = (activation.variance.mean() + np.mean(activation.mean**2)) ** 0.5
            if activation.finite and size < self.threshold:
                yield Finding(activation.layer, size, f"Its outputs have a root mean square of {size:.2g}.")


class InputScale(Rule):
    name = "input_scale"
    of_new_trainings = True
    threshold = 10.0
    patience = 1
    reason = "Weights are initialized for inputs of unit variance."
    advice = "Standardize the inputs: keras.layers.Normalization or Rescaling as the first layer."

    def observe(self, observation):
        if observation.first is not observation or observation.reading.first_inputs is None:
            return
        layer, mean, variance = observation.reading.first_inputs
        place = next((place for place in observation.places.values() if place.layer is layer), None)
        if place is None or is_normalizer(layer) or not all(is_fresh(layer, v) for v in place.kernels):
            return  # trained weights know their inputs
        sizes = np.sqrt(variance + np.square(mean))
        size = float(np.sqrt(np.mean(np.square(sizes))))
        if size > self.threshold:
            where = int(np.argmax(sizes))
            text = f"Its inputs have a root mean square of {size:.3g}; feature {where} has {sizes[where]:.3g}."
            yield Finding(place.name, size, text)


def _values(observation, layer, name):
    variable = getattr(layer, name, None)
    if variable is None:
        return 1.0 if name == "gamma" else 0.0
    known = observation.values.get(id(variable))
    return keras.ops.convert_to_numpy(variable).astype("float64") if known is None else known
