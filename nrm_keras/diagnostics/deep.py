"""What costs whole passes: curvature, covariate shift of an update, the landscape along the gradient, the noise scale."""

import dataclasses
import time

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics import curvature, noise, shift, taps, weights
from nrm_keras.diagnostics.objective import Objective

SHIFT_LAYERS = 3
# Steps along the gradient, as multiples of the learning rate.
LENGTHS = (0.5, 1.0, 2.0)
MICRO_BATCHES = 4


class Deep:
    """Measures a model on one labelled batch, in training mode; nothing of the model changes.

    Args:
        model: a compiled model.
        batch: (x, y, sample_weight).
    """

    def __init__(self, model: keras.Model, batch: tuple):
        self._model, self._batch = model, batch
        self._objective = Objective(model, *batch)
        self._invariant: dict[str, weights.Invariance] | None = None
        self._noise = noise.GradientNoise()
        self._start: tuple[float, tf.Tensor] | None = None

    def measure(self, before: tf.Tensor | None, learning_rate: float) -> list[dict]:
        """Records of all of it.

        Args:
            before: the weights before the last step, as `values` gave them, for the covariate shift; None: left out.
            learning_rate: of the optimizer.
        """
        # curvature comes first: it has loss and gradient as well, which others need
        parts = {
            "curvature": lambda: [self._curvature(learning_rate)],
            "covariate shift": lambda: self._covariate_shift(before),
            "landscape": lambda: [self._landscape(learning_rate)],
            "noise": self._noise_scale,
            "effective rate": lambda: self._effective_rates(learning_rate),
        }
        found = []
        for kind, measure in parts.items():
            began = time.perf_counter()
            records = [{"kind": kind, **record} for record in measure()]
            if records:
                records[0]["seconds"] = time.perf_counter() - began
            found += records
        return found

    def values(self) -> tf.Tensor:
        """The present weights, as one vector."""
        return self._objective.values()

    def _curvature(self, learning_rate):
        found = curvature.curvature_of(self._objective)
        self._start = found.loss, tf.convert_to_tensor(found.gradient)
        momentum = getattr(taps.inner_optimizer(self._model.optimizer), "momentum", 0.0)
        momentum = momentum if isinstance(momentum, float) and 0 <= momentum < 1 else 0.0
        return {
            "mode": found.mode,
            "products": found.products,
            "largest": found.largest,
            "largest_error": found.largest_error,
            "smallest": found.smallest,
            "trace": found.trace,
            "trace_error": found.trace_error,
            "first_to_fifth": found.first_to_fifth,
            "edge_of_stability": curvature.edge_of_stability(learning_rate, momentum) if learning_rate > 0 else None,
            "density_nodes": found.nodes,
            "density_weights": found.weights,
        }

    def _covariate_shift(self, before):
        if before is None:
            return []
        paths = list(dict.fromkeys(v.path.rpartition("/")[0] for v in self._objective.variables))
        # nothing below the first one moves
        last = len(paths) - 1
        chosen = [paths[i] for i in sorted({*np.linspace(min(1, last), last, SHIFT_LAYERS).astype(int).tolist()})]
        moved = shift.internal_covariate_shift(self._objective, before, self.values(), chosen)
        return [{"layer": s.layer, "gradient_norm": s.norm, "distance": s.distance, "cosine": s.cosine} for s in moved]

    def _landscape(self, learning_rate):
        found = shift.landscape(self._objective, [length * learning_rate for length in LENGTHS], start=self._start)
        return {
            "loss": found.loss,
            "gradient_norm": found.gradient_norm,
            "loss_minimum": found.loss_range[0],
            "loss_maximum": found.loss_range[1],
            "predictiveness_minimum": found.predictiveness[0],
            "predictiveness_maximum": found.predictiveness[1],
            "effective_beta": found.effective_beta,
        }

    def _noise_scale(self):
        examples = len(keras.tree.flatten(self._batch[0])[0])
        if examples < 2 * MICRO_BATCHES:
            return []
        x, y, sample_weight = self._batch
        found = noise.measure(self._objective, x, y, examples // MICRO_BATCHES, sample_weight=sample_weight)
        self._objective.set_batch(*self._batch)
        self._noise.add(found.small_squared_norm, found.big_squared_norm, found.statistics_batch, found.examples)
        return [{**dataclasses.asdict(found), "averaged": self._noise.simple}]

    def _effective_rates(self, learning_rate):
        """Of the weights whose scale does not matter, which is found out the first time."""
        if self._invariant is None:
            self._invariant = weights.scale_invariant(self._objective)
        optimizer = taps.inner_optimizer(self._model.optimizer)
        sgd = isinstance(optimizer, keras.optimizers.SGD)
        gradients = self._objective.unflatten(self._start[1])
        for variable, gradient in zip(self._objective.variables, gradients, strict=True):
            if variable.path not in self._invariant or learning_rate <= 0:
                continue
            norm, slope = (float(tf.norm(tf.cast(v, tf.float32))) for v in (variable.value, gradient))
            record = {
                "layer": variable.path,
                "norm": norm,
                "effective_learning_rate": weights.effective_learning_rate(
                    norm, learning_rate, "sgd" if sgd else "adam"
                ),
            }
            if sgd and optimizer.weight_decay:
                setting = (learning_rate, optimizer.weight_decay, optimizer.momentum)
                record["equilibrium_norm"] = weights.equilibrium_norm(*setting, slope * norm)
            yield record
