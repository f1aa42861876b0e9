"""Whether groups of neighbouring channels differ in their statistics."""

from __future__ import annotations

import numpy as np

from nrm_keras.errors import UserError
from nrm_keras.studies.probes.forward import Look
from nrm_keras.studies.probes.trained import Trained


def measure(trained: Trained, at: str, examples: int, groups: int, permutations: int) -> dict[str, float]:
    """How much of the differences between channels lies between groups, beside random groups of the same channels.

    In front of each normalizer (of a model without any: behind each hidden linear layer) there is a mean and a logarithm of
    the variance for each channel, over examples and positions. With `share = variance of the groups' averages / variance
    of the channels`, averaged over the layers: `excess` is the share minus the average of random groupings, `z` that in
    their standard deviations, `p` how often a random grouping has as much. Neighbouring channels have nothing in common
    where training gives them no reason to: then p is uniform.

    Raises:
        UserError: no layer has channels for that many groups of two or more.
    """
    look = Look(trained.model_at(at), trained.batch(examples)[0])
    tensors = [call.input for call in look.normalizers] or [call.output for call in look.linear]
    rows = [look.rows(values) for values in tensors if values.shape[-1] % groups == 0 and values.shape[-1] > groups]
    if not rows:
        raise UserError(
            f"channel_groups needs layers whose channels are a multiple of its groups. Received: {groups} groups, and"
            f" {', '.join(sorted({str(values.shape[-1]) for values in tensors}))} channels. Choose other groups."
        )
    variances = [values.var(0) for values in rows]
    statistics = {
        "mean": [values.mean(0) for values in rows],
        "variance": [np.log(variance + 1e-6 * variance.mean() + 1e-30) for variance in variances],
    }
    rng = np.random.default_rng(trained.recipe.train.seed)
    found = {}
    for name, layers in statistics.items():
        excess, z, p = between_groups(layers, groups, permutations, rng)
        found |= {f"{name}_excess": excess, f"{name}_z": z, f"{name}_p": p}
    return found


def between_groups(
    layers: list[np.ndarray], groups: int, permutations: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """(excess, z, p) of one statistic of the channels of each layer, see `measure`."""
    varying = [values for values in layers if values.std() > 1e-12 * np.abs(values).max()]
    if not varying:
        return np.nan, np.nan, np.nan
    seen = np.mean([_shares(values[None], groups)[0] for values in varying])
    drawn = np.mean(
        [_shares(rng.permuted(np.tile(values, (permutations, 1)), axis=1), groups) for values in varying], axis=0
    )
    excess = seen - drawn.mean()
    return excess, excess / drawn.std(), (1 + np.sum(drawn >= seen - 1e-12)) / (1 + permutations)


def _shares(rows, groups):
    """The share of the variance of each row that lies between groups of neighbours."""
    averages = rows.reshape(len(rows), groups, -1).mean(2)
    return averages.var(1) / rows.var(1)
