"""What a new normalizer takes over from the one it replaces."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from nrm_keras.layers.running import CONVERGED

# Arguments that mean the same in every normalizer.
SHARED = (
    *("name", "dtype", "trainable", "activity_regularizer"),
    *("axis", "epsilon", "center", "scale", "momentum", "synchronized"),
    *("beta_initializer", "gamma_initializer", "moving_mean_initializer", "moving_variance_initializer"),
    *("beta_regularizer", "gamma_regularizer", "beta_constraint", "gamma_constraint"),
)
# RMSNormalization's own name.
_ROLES = {"scale": "gamma"}


def parameters(builder: Callable) -> set[str]:
    """The keyword arguments that a class, up to `keras.layers.Layer`, or a function names."""
    function = builder.func if isinstance(builder, functools.partial) else builder
    if not inspect.isclass(function):
        return _named(function)[0]
    names = set()
    for cls in function.__mro__:
        if "__init__" in vars(cls):
            own, more = _named(cls.__init__)
            names |= own
            if not more or cls is keras.layers.Layer:
                break
    return names - {"self"}


def _named(function):
    kinds = inspect.signature(function).parameters.values()
    names = {p.name for p in kinds if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names, any(p.kind is p.VAR_KEYWORD for p in kinds)


def options(layer: keras.layers.Layer, builder: Callable) -> dict:
    """The arguments of the layer that the builder takes too and that mean the same there."""
    function = builder.func if isinstance(builder, functools.partial) else builder
    config = layer.get_config()
    keys = set(config) & parameters(builder)
    # A layer of the same name has the same arguments, whether it is Keras' or ours.
    if getattr(function, "__name__", None) != type(layer).__name__:
        keys &= set(SHARED)
    keys = {key for key in keys if not key.startswith("renorm")}
    values = {key: getattr(layer, key, config[key]) for key in keys}
    if "dtype" in keys:
        values["dtype"] = layer.dtype_policy
    if "axis" in keys:
        values["axis"] = _single_axis(values["axis"])
    return values


def _single_axis(axis):
    return axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis


class Carried(NamedTuple):
    """Names of the weights that were carried over, of those the new layer has no place for, and of running statistics
    that nothing is known of."""

    carried: tuple[str, ...]
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]


def carry(old: keras.layers.Layer, new: keras.layers.Layer) -> Carried:
    """Copies the weights that mean the same in both."""
    before, after = _by_role(old), _by_role(new)
    carried = [role for role in before if role in after and tuple(before[role].shape) == tuple(after[role].shape)]
    for role in carried:
        after[role].assign(before[role])
    if "update_count" in after and "moving_mean" in carried and "update_count" not in carried and _was_updated(old):
        # Otherwise the next batch would take the place of all that was carried over.
        after["update_count"].assign(CONVERGED)
    dropped = [role for role in before if role not in carried and role != "update_count"]
    unknown = [role for role in after if role not in carried and role.startswith("moving_")]
    return Carried(tuple(carried), tuple(dropped), tuple(unknown))


def _by_role(layer):
    return {_ROLES.get(variable.name, variable.name): variable for variable in layer.weights}


def _was_updated(layer):
    """Whether running statistics are others than a new layer has."""
    return not all(
        np.array_equal(keras.ops.convert_to_numpy(variable), keras.ops.convert_to_numpy(initializer(variable.shape)))
        for variable, initializer in (
            (layer.moving_mean, layer.moving_mean_initializer),
            (layer.moving_variance, layer.moving_variance_initializer),
        )
    )
