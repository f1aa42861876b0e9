"""The layers under test, each with its reference: what the shared contract is parametrized over."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from nrm_keras.layers import AdaptiveNormalization, BatchNormalization, GroupNormalization
from tests import references

EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class Case:
    """`reference(x, weights, axis, mask, training)` is y; `weights` maps variables' names to arrays."""

    name: str
    make: Callable
    reference: Callable
    running: bool = False


def _batch(x, w, axis, mask, training):
    if training:
        return references.batch_normalization(x, w["gamma"], w["beta"], EPSILON, axis, mask)
    moving = w["moving_mean"], w["moving_variance"]
    return references.inference(x, w["gamma"], w["beta"], *moving, EPSILON, axis)


def _group(groups, positions="pooled"):
    def reference(x, w, axis, mask, training):
        return references.group_normalization(x, w["gamma"], w["beta"], EPSILON, groups, axis, mask, positions)

    return reference


def _adaptive(groups, positions=None):
    def reference(x, w, axis, mask, training):
        examples = np.exp(w["moving_log_count"])
        if training:
            examples = len(x) if mask is None else sum(np.any(example) for example in mask)
        lam = references.batch_weight(examples, 4.0, 10.0, w["gate_delta"], w["gate_phi"])
        where = positions or ("separate" if x.ndim == 3 else "pooled")
        ones = {**w, "gamma": np.ones_like(w["gamma"]), "beta": np.zeros_like(w["beta"])}
        mixed = references.mixture(
            lam, _batch(x, ones, axis, mask, training), _group(groups, where)(x, ones, axis, mask, training), axis
        )
        return references.inference(mixed, w["gamma"], w["beta"], 0.0, 1.0, 0.0, axis)

    return reference


def _layer(cls, **fixed):
    return lambda **kwargs: cls(**{"epsilon": EPSILON, **fixed, **kwargs})


CASES = [
    Case("batch", _layer(BatchNormalization), _batch, True),
    Case("group", _layer(GroupNormalization, groups=2), _group(2)),
    Case("instance", _layer(GroupNormalization, groups=-1), _group(-1)),
    Case("separate", _layer(GroupNormalization, groups=2, positions="separate"), _group(2, "separate")),
    Case("adaptive", _layer(AdaptiveNormalization, balance=4.0), _adaptive(1), True),
    Case(
        "adaptive-group",
        _layer(AdaptiveNormalization, balance=4.0, alternative="group", groups=2, gate="channel", learn_slope=True),
        _adaptive(2),
        True,
    ),
    Case(
        "adaptive-pooled",
        _layer(AdaptiveNormalization, balance=4.0, positions="pooled"),
        _adaptive(1, "pooled"),
        True,
    ),
]

RANDOM = {
    "gamma": lambda rng, shape: rng.uniform(0.5, 1.5, shape),
    "beta": lambda rng, shape: rng.normal(size=shape),
    "moving_mean": lambda rng, shape: rng.normal(size=shape),
    "moving_variance": lambda rng, shape: rng.uniform(0.5, 2.0, shape),
    "gate_delta": lambda rng, shape: rng.normal(scale=0.05, size=shape),
    "gate_phi": lambda rng, shape: rng.normal(size=shape),
    "moving_log_count": lambda rng, shape: rng.uniform(0.5, 2.0, shape),
    "update_count": lambda rng, shape: np.zeros(shape),
}


def randomize(layer, shape, seed=0):
    """Builds the layer and gives every variable a value that its initializer would not."""
    rng = np.random.default_rng(seed)
    if not layer.built:
        layer.build(shape)
    for variable in layer.variables:
        variable.assign(RANDOM[variable.name](rng, variable.shape))
    return layer


def weights(layer):
    """The layer's variables as float64 arrays by name."""
    return {variable.name: to_numpy(variable).astype("float64") for variable in layer.variables}


def to_numpy(tensor):
    """As an array; bfloat16, which NumPy lacks, as float32."""
    if keras.backend.standardize_dtype(tensor.dtype) == "bfloat16":
        tensor = keras.ops.cast(tensor, "float32")
    return np.array(keras.ops.convert_to_numpy(tensor))
