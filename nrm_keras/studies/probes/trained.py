"""What a probe measures: the run of a cell, with its data and its models."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.data.examples import Examples, Split
from nrm_keras.data.pipelines import Batches
from nrm_keras.errors import UserError
from nrm_keras.training.assembly import SMOKE_STEPS, build_model, in_order, prepared, shrink, training_batches
from nrm_keras.training.initialize import initialize_from
from nrm_keras.training.saved import load


class Trained:
    """A finished run, to be measured.

    Args:
        recipe: the cell's `Recipe`.
        run_dir: its finished run.
        smoke: whether it was a smoke run, see `shrink`.

    Attributes:
        recipe: as it was trained.
    """

    def __init__(self, recipe, run_dir: Path, smoke: bool = False):
        self.recipe = shrink(recipe) if smoke else recipe
        self.run_dir = Path(run_dir)
        self._smoke = smoke

    @cached_property
    def examples(self) -> Examples:
        return prepared(self.recipe, SMOKE_STEPS * self.recipe.data.batch_size if self._smoke else None, self._smoke)

    @cached_property
    def batches(self) -> Batches:
        """Those that the run was trained on."""
        return training_batches(self.recipe, self.examples)

    @property
    def held_out(self) -> Split:
        """The test split, or validation where there is none."""
        split = next((s for s in (self.examples.test, self.examples.validation) if len(s)), None)
        if split is None:
            raise UserError(
                f"{self.run_dir}: probes measure on held-out examples. Received: neither a test nor a validation split."
                " Set data.test or data.validation."
            )
        return split

    def fresh_model(self) -> keras.Model:
        """A model with the initial weights of the run, compiled."""
        examples, batches = self.examples, self.batches
        keras.utils.set_random_seed(self.recipe.train.seed)
        model = build_model(self.recipe, examples, batches)
        if self.recipe.train.init_from:
            initialize_from(model, self.recipe.train.init_from, lambda line: None)
        return model

    def model(self) -> keras.Model:
        """A model of its own for each call, with the weights that the run keeps, compiled."""
        model = self.fresh_model()
        model.set_weights(self._weights)
        return model

    def model_at(self, at: str) -> keras.Model:
        """The model at the `start` or the `end` of the training."""
        return self.fresh_model() if at == "start" else self.model()

    @property
    def finite(self) -> bool:
        """Whether the weights that the run keeps are."""
        return all(np.isfinite(weight).all() for weight in self._weights)

    @cached_property
    def _weights(self) -> list[np.ndarray]:
        saved = load(self.run_dir)
        if self.examples.encode is not None:  # it takes texts; inside of it is the one that takes numbers of words
            saved = saved.get_layer(self.recipe.model.type)
        return saved.get_weights()

    def some(self, split: Split, count: int) -> Split:
        """At most so many examples, in a random order that depends on the recipe's seed."""
        order = np.random.default_rng((self.recipe.train.seed, len(split))).permutation(len(split))
        return split.take(order[:count])

    def dataset(self, split: Split, batch_size: int | None = None) -> tf.data.Dataset:
        """Batches (x, y) of these examples in their order, of the recipe's size unless another is given."""
        return in_order(self.recipe, self.examples, split, batch_size or self.recipe.data.batch_size)(0)

    def batch(self, count: int) -> tuple:
        """(x, y) of so many held-out examples, as one batch."""
        split = self.some(self.held_out, count)
        return next(iter(self.dataset(split, len(split))))
