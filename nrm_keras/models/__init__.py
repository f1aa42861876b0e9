"""Models as functions of a tensor and a norm factory, and the whole model a recipe describes."""

from __future__ import annotations

import keras
import numpy as np

from nrm_keras import registry
from nrm_keras.models.mlp import mlp
from nrm_keras.models.normalizers import norm_factory
from nrm_keras.models.recurrent import gru
from nrm_keras.models.residual_mlp import residual_mlp
from nrm_keras.models.resnet import resnet
from nrm_keras.models.transformer import transformer
from nrm_keras.models.unet import unet

__all__ = ["build", "gru", "mlp", "norm_factory", "residual_mlp", "resnet", "smallest", "transformer", "unet"]

_BUILTIN = {
    "gru": gru,
    "mlp": mlp,
    "residual_mlp": residual_mlp,
    "resnet": resnet,
    "transformer": transformer,
    "unet": unet,
}


Moments = tuple[np.ndarray, np.ndarray]


def build(
    recipe,
    shape: tuple[int, ...],
    outputs: int,
    standardization: Moments | None = None,
    replicas: int = 1,
    *,
    target_moments: Moments | None = None,
    domains: int = 0,
    vocabulary: int | None = None,
) -> keras.Model:
    """The model of a recipe: raw inputs to logits or, in regression, predictions, with all scaling inside.

    Args:
        recipe: a `Recipe`.
        shape: of one input, without the batch; of text `(length,)`, numbers of words.
        outputs: how many classes or targets.
        standardization: mean and variance of each channel of the training examples, or None.
        replicas: see `norm_factory`.
        target_moments: for regression mean and variance of each target; the last layer predicts in their units.
        domains: how many domains the normalizers tell apart.
        vocabulary: for text, how many numbers words have; 0 is padding.

    Returns:
        A functional model from `inputs` `(batch, *shape)`, with domains from `{"inputs": inputs, "domain": (batch,)}`, to
        `logits` `(batch, ..., classes)` or `prediction` `(batch, targets)` in float32.
    """
    inputs = keras.Input(shape, dtype="float32" if vocabulary is None else "int32", name="inputs")
    domain = keras.Input((), dtype="int32", name="domain") if domains else None
    x = inputs
    if standardization is not None:
        mean, variance = standardization
        # float32 whatever the precision: bfloat16 would lose the low bits of a pixel
        x = keras.layers.Normalization(axis=-1, mean=mean, variance=variance, dtype="float32", name="standardize")(x)
    options = recipe.model.model_dump(exclude={"type"})
    if vocabulary is not None:
        options |= {"vocabulary": vocabulary, "length": shape[0]}
    function = (
        _BUILTIN[recipe.model.type] if recipe.model.type in _BUILTIN else registry.get("model", recipe.model.type)
    )
    x = function(x, norm_factory(recipe.norm, replicas, domain, domains), **options)
    x = keras.layers.Dense(outputs, dtype="float32", name="logits" if target_moments is None else "standardized")(x)
    if target_moments is not None:
        mean, variance = target_moments
        x = keras.layers.Normalization(
            axis=-1, mean=mean, variance=variance, invert=True, dtype="float32", name="prediction"
        )(x)
    taken = inputs if domain is None else {"inputs": inputs, "domain": domain}
    return keras.Model(taken, x, name=recipe.model.type)


def smallest(section):
    """The smallest member of a model's family, for smoke runs."""
    if section.type == "mlp":
        return section.model_copy(update={"units": section.units[:1]})
    if section.type == "resnet":
        return section.model_copy(update={"depth": 8 if section.block == "basic" else 11})
    return section.model_copy(update={"depth": 1}) if section.type in _BUILTIN else section
