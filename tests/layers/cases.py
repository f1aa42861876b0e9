"""The layers under test, each with its reference: what the shared contract is parametrized over."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from nrm_keras.layers import (
    AdaptiveNormalization,
    BatchNormalization,
    DomainBatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    SwitchableNormalization,
)
from tests import references

EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class Case:
    """`reference(x, weights, axis, mask, training)` is y; `weights` maps variables' names to arrays."""

    name: str
    make: Callable
    reference: Callable
    running: bool = False
    virtual: int | None = None

    def batch_statistics(self, x, mask=None):
        """What a batch moves the running statistics toward, channels last: the average over the virtual batches."""
        size = self.virtual or len(x)
        mask = np.ones(x.shape[:-1], bool) if mask is None else mask
        chunks = [(x[i : i + size], mask[i : i + size]) for i in range(0, len(x), size)]
        chunks = [(rows, valid) for rows, valid in chunks if np.any(valid)]
        pairs = np.array([references.batch_statistics(rows, mask=valid) for rows, valid in chunks])
        return np.average(pairs, axis=0, weights=[len(rows) for rows, _ in chunks])


def _batch(x, w, axis, mask, training):
    if training:
        return references.batch_normalization(x, w["gamma"], w["beta"], EPSILON, axis, mask)
    moving = w["moving_mean"], w["moving_variance"]
    return references.inference(x, w["gamma"], w["beta"], *moving, EPSILON, axis)


def _group(groups, positions="pooled"):
    def reference(x, w, axis, mask, training):
        return references.group_normalization(x, w["gamma"], w["beta"], EPSILON, groups, axis, mask, positions)

    return reference


def _adaptive(groups, positions=None, balance=4.0):
    def reference(x, w, axis, mask, training):
        examples = np.exp(w["moving_log_count"])
        if training:
            examples = len(x) if mask is None else sum(np.any(example) for example in mask)
        lam = references.batch_weight(examples, balance, 10.0, w["gate_delta"], w["gate_phi"])
        where = positions or ("separate" if x.ndim == 3 else "pooled")
        ones = {**w, "gamma": np.ones_like(w["gamma"]), "beta": np.zeros_like(w["beta"])}
        mixed = references.mixture(
            lam, _batch(x, ones, axis, mask, training), _group(groups, where)(x, ones, axis, mask, training), axis
        )
        return references.inference(mixed, w["gamma"], w["beta"], 0.0, 1.0, 0.0, axis)

    return reference


def _in_chunks(size, reference):
    """Every `size` examples on their own in training."""

    def chunked(x, w, axis, mask, training):
        if not training:
            return reference(x, w, axis, mask, training)
        starts = range(0, len(x), size)
        masks = [None if mask is None else mask[start : start + size] for start in starts]
        chunks = [reference(x[s : s + size], w, axis, m, True) for s, m in zip(starts, masks, strict=True)]
        return np.concatenate(chunks) if chunks else np.array(x)

    return chunked


def _switchable(x, w, axis, mask, training):
    batch = references.batch_statistics(x, axis, mask) if training else (w["moving_mean"], w["moving_variance"])
    weights = w["gamma"], w["beta"], w["mean_logits"], w["variance_logits"]
    return references.switchable_normalization(x, *weights, batch, EPSILON, axis, mask)


@keras.saving.register_keras_serializable(package="nrm_keras_tests")
class SecondDomain(DomainBatchNormalization):
    """All examples from domain 1 of 3, so that it is called like every layer and is batch normalization."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, keras.ops.ones(keras.ops.shape(inputs)[:1], "int32"), training, mask)

    def compute_output_spec(self, inputs, **kwargs):
        return keras.KerasTensor(inputs.shape, self.compute_dtype)


def _domain(x, w, axis, mask, training):
    if training:
        return _batch(x, w, axis, mask, training)
    return references.inference(x, w["gamma"], w["beta"], w["domain_mean"][1], w["domain_variance"][1], EPSILON, axis)


def _layer(cls, **fixed):
    return lambda **kwargs: cls(**{"epsilon": EPSILON, **fixed, **kwargs})


CASES = [
    Case("batch", _layer(BatchNormalization), _batch, True),
    Case("group", _layer(GroupNormalization, groups=2), _group(2)),
    Case("groups-of-one", _layer(GroupNormalization, groups=-1), _group(-1)),
    Case("instance", _layer(InstanceNormalization), _group(-1)),
    Case("layer", _layer(LayerNormalization), _group(1, "separate")),
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
    Case("virtual", _layer(BatchNormalization, virtual_batch_size=2), _in_chunks(2, _batch), True, 2),
    Case(
        "adaptive-virtual",
        _layer(AdaptiveNormalization, balance=1.5, virtual_batch_size=3, gate="channel"),
        _in_chunks(3, _adaptive(1, balance=1.5)),
        True,
        3,
    ),
    Case("switchable", _layer(SwitchableNormalization), _switchable, True),
    Case("domain", _layer(SecondDomain, domains=3), _domain, True),
]

RANDOM = {
    "gamma": lambda rng, shape: rng.uniform(0.5, 1.5, shape),
    "beta": lambda rng, shape: rng.normal(size=shape),
    "moving_mean": lambda rng, shape: rng.normal(size=shape),
    "moving_variance": lambda rng, shape: rng.uniform(0.5, 2.0, shape),
    "gate_delta": lambda rng, shape: rng.normal(scale=0.05, size=shape),
    "gate_phi": lambda rng, shape: rng.normal(size=shape),
    "mean_logits": lambda rng, shape: rng.normal(size=shape),
    "variance_logits": lambda rng, shape: rng.normal(size=shape),
    "domain_mean": lambda rng, shape: rng.normal(size=shape),
    "domain_variance": lambda rng, shape: rng.uniform(0.5, 2.0, shape),
    "domain_updates": lambda rng, shape: np.ones(shape),
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
