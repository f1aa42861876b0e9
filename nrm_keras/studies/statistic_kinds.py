"""What `statistics.jsonl` has of each kind of record: its numbers, what else tells its records apart, and when it is there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of record.

    Args:
        numbers: its fields with numbers.
        by: its other fields, for `where`.
        layered: whether there is a record for each layer.
        deep: whether only `diagnostics.deep_every` asks for it.
        norms: the types of `norm` that have it; none for any.
    """

    numbers: tuple[str, ...]
    by: tuple[str, ...] = ()
    layered: bool = True
    deep: bool = False
    norms: tuple[str, ...] = ()


_PERCENTILES = ("p15", "p50", "p85")
_VALUES = ("value_mean", "value_minimum", "value_maximum")
_NOISE = ("simple", "squared_norm", "trace")

KINDS: dict[str, Kind] = {
    "step": Kind(("loss", "learning_rate", "gradient_norm"), layered=False),
    "activation": Kind(
        ("mean", "variance", *_PERCENTILES, "dead", "saturated", "gradient_norm", "gradient_rms"), ("type", "finite")
    ),
    "weight": Kind(("norm", "gradient_norm", "update_norm", "update_ratio", "cosine", *_VALUES), ("finite",)),
    "running": Kind(("mean_gap", "variance_gap"), ("type",), norms=("batch", "switchable", "adaptive")),
    "gate": Kind(("batch_weight", "prior", "value_minimum", "value_maximum"), ("type",), norms=("adaptive",)),
    "drift": Kind(
        ("mean_shift", "log_variance_ratio", "kl_divergence", "wasserstein", *_PERCENTILES), ("type", "reference")
    ),
    "curvature": Kind(
        (
            *("largest", "largest_error", "smallest", "trace", "trace_error", "first_to_fifth"),
            *("edge_of_stability", "products"),
        ),
        ("mode",),
        layered=False,
        deep=True,
    ),
    "covariate shift": Kind(("gradient_norm", "distance", "cosine"), deep=True),
    "landscape": Kind(
        (
            *("loss", "gradient_norm", "loss_minimum", "loss_maximum"),
            *("predictiveness_minimum", "predictiveness_maximum", "effective_beta"),
        ),
        layered=False,
        deep=True,
    ),
    "noise": Kind(
        (
            *(*_NOISE, *(f"{name}_error" for name in _NOISE), "averaged"),
            *("small_squared_norm", "big_squared_norm", "statistics_batch", "examples"),
        ),
        layered=False,
        deep=True,
    ),
    "effective rate": Kind(("norm", "effective_learning_rate", "equilibrium_norm"), deep=True),
    "cost": Kind(("probes", "first_seconds", "later_seconds", "elapsed_seconds", "share"), layered=False),
}
