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


def build(
    recipe,
    shape: tuple[int, ...],
    classes: int,
    standardization: tuple[np.ndarray, np.ndarray] | None = None,
    replicas: int = 1,
) -> keras.Model:
    """The model of a recipe: raw inputs to logits, with the standardization of the inputs inside.

    Args:
        recipe: a `Recipe`.
        shape: of one input, without the batch.
        classes: how many logits.
        standardization: mean and variance of each channel of the training examples, or None.
        replicas: see `norm_factory`.

    Returns:
        A functional model from `inputs` `(batch, *shape)` to `logits` `(batch, classes)` in float32.
    """
    inputs = keras.Input(shape, name="inputs")
    x = inputs
    if standardization is not None:
        mean, variance = standardization
        # float32 whatever the precision: bfloat16 would lose the low bits of a pixel
        x = keras.layers.Normalization(axis=-1, mean=mean, variance=variance, dtype="float32", name="standardize")(x)
    options = recipe.model.model_dump(exclude={"type"})
    function = (
        _BUILTIN[recipe.model.type] if recipe.model.type in _BUILTIN else registry.get("model", recipe.model.type)
    )
    x = function(x, norm_factory(recipe.norm, replicas), **options)
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name=recipe.model.type)


def smallest(section):
    """The smallest member of a model's family, for smoke runs."""
    if section.type == "mlp":
        return section.model_copy(update={"units": section.units[:1]})
    if section.type == "resnet":
        return section.model_copy(update={"depth": 8 if section.block == "basic" else 11})
    return section.model_copy(update={"depth": 1}) if section.type in _BUILTIN else section
