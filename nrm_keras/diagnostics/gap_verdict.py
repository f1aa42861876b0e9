"""Why running statistics differ from those of batches, and what to do."""

import dataclasses

import numpy as np

from nrm_keras.diagnostics.gap_null import Comparison

NONE, FEW, SMALL, SHIFT, NEVER = "none", "too few updates", "batch too small", "data shift", "never updated"

SIGNIFICANCE = 0.01  # of all layers together
MEAN_TOLERANCE = 0.25  # in running standard deviations
VARIANCE_TOLERANCE = 0.25  # in log variance
MEAN_NOISE = 0.4  # standard deviation of a batch's mean, in standard deviations: independent values, fewer than 7
VARIANCE_NOISE = 0.7  # relative standard deviation of a batch's variance: Gaussian values, fewer than 5
INITIAL_LEFT = 0.05  # share of the initial values that matters
EXPLAINED = 0.5  # R^2 of the way from the initial values, where the number of updates agrees
EXPLAINED_ALONE = 0.95  # the same where that number is unknown
AGREEMENT = 0.2  # of the fraction of that way with what other layers, or the number of updates, say

ADVICE = {
    NONE: "nothing to do",
    FEW: "nrm_keras.recalibrate on training data mends it now; train longer, with a smaller `momentum` (0.9), or with "
    "warmup=True of nrm_keras.layers.BatchNormalization",
    SMALL: "train with a larger batch, or with nrm_keras.layers.AdaptiveNormalization, which knows how large the batch "
    "is; where `virtual_batch_size` makes it small, raise that",
    SHIFT: "is the data preprocessed as in training? On a new site's data, nrm_keras.recalibrate. On the training data "
    "itself the average is behind the weights: nrm_keras.recalibrate, a smaller `momentum` or learning rate",
    NEVER: "set `momentum` below 1, trainable=True, and call the layer with the model's `training`; "
    "nrm_keras.recalibrate(include_frozen=True) gives it statistics now",
}


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What is known of a layer's running statistics besides their values. Unknown is None."""

    frozen: bool
    momentum: float
    updates: int | None
    untouched: bool  # the running statistics are the initial values
    initial_left: float | None
    fraction: float | None
    explained: float | None
    random: bool  # dropout or the like is in the model
    tests: int = 1  # how many layers are tested
    typical_fraction: float = 1.0  # median over the layers


def judge(found: Comparison, known: Circumstances) -> tuple[str, str]:
    """(verdict, evidence)."""
    if known.untouched:
        return NEVER, f"running statistics are the initial values: {_why_untouched(known)}"
    gap = f"mean off by {size(found.mean_gap):.2g} standard deviations, variance by a factor of {factor(found):.2g}"
    gap = f"{gap}, p = {found.p_value:.2g}"
    if known.frozen:
        return NONE, f"frozen: training uses the running statistics, too; the data's {gap}"
    far = _is_far(found)
    real = far and found.p_value <= max(SIGNIFICANCE / known.tests, 1e-3)
    if real and (reason := _too_few(known)):
        return FEW, f"{reason}; {gap}"
    if found.mean_noise > MEAN_NOISE or found.variance_noise > VARIANCE_NOISE:
        return SMALL, (
            f"a batch's mean varies by {found.mean_noise:.2g} standard deviations and its variance by "
            f"{found.variance_noise:.0%}; {gap}"
        )
    if real:
        return SHIFT, f"{_why_shift(known)}; {gap}{'; dropout changes variances as well' if known.random else ''}"
    return NONE, f"{'within sampling noise' if far or found.p_value > SIGNIFICANCE else 'small'}: {gap}"


def size(gaps: np.ndarray) -> float:
    """Root mean square over the channels."""
    return float(np.sqrt(np.mean(np.square(gaps))))


def factor(found: Comparison) -> float:
    """The typical ratio of variances, above 1."""
    return float(np.exp(min(size(found.relevant_log_ratio), 80)))


def _is_far(found):
    return size(found.mean_gap) > MEAN_TOLERANCE or size(found.relevant_log_ratio) > VARIANCE_TOLERANCE


def _too_few(known):
    """The reason to believe so, or None."""
    if known.fraction is None:
        return None
    seen = f"running statistics went {known.fraction:.0%} of the way from their initial values"
    counted = known.initial_left is not None and known.fraction < 1 - known.initial_left + AGREEMENT
    # Further than the count of updates allows: the weights come from elsewhere. As many updates for every layer, then:
    # data that differ change the first layers only.
    left = known.initial_left if counted else 1 - known.typical_fraction
    agree = abs(1 - left - known.fraction) < AGREEMENT
    explained = known.explained > (EXPLAINED if counted else EXPLAINED_ALONE)
    if not agree or not explained or min(left, 1 - known.fraction) < INITIAL_LEFT:
        return None
    if not counted:
        return seen
    return f"{known.updates} updates with momentum {known.momentum:g} leave {left:.0%} of the initial values; {seen}"


def _why_shift(known):
    if known.initial_left is not None and known.initial_left < INITIAL_LEFT:
        return f"converged by the count of updates ({known.updates})"
    return "not on the way from the initial values"


def _why_untouched(known):
    if known.momentum == 1:
        return "momentum is 1"
    if known.frozen:
        return "trainable=False, or called with training=False"
    return "it was never called in training" if not known.updates else f"in spite of {known.updates} updates"
