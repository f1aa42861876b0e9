"""How far running statistics may be from a few batches' statistics by sampling alone. NumPy, float64."""

import dataclasses
import functools
import math

import numpy as np

POOL = 256  # batches drawn anew from the examples
DRAWS = 999  # comparisons under the null
LONGEST = 200  # batches that stand for a running average, however long its memory


@dataclasses.dataclass(frozen=True)
class Examples:
    """Moments of each channel of each example, of the batches in their order.

    A layer that is called several times in a pass (shared, or in a loop) has statistics of its own in each call, so
    arrays have shape (examples, calls, channels); `weight`, the number of valid positions, (examples, calls, 1).
    `sizes` are those of the batches.
    """

    weight: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    sizes: tuple[int, ...]

    @classmethod
    def of_batch(cls, weight, mean, variance, calls: int, examples: int) -> "Examples":
        """From the rows of all calls, one behind the other.

        A call may have several rows for each example, next to each other (time folded into the batch, say): they
        are one. Rows that fit in no such way are taken for the examples.
        """
        calls = calls if len(mean) % calls == 0 else 1
        rows = len(mean) // calls
        fold = rows // examples if rows % examples == 0 else 1
        weight, mean, variance = (a.reshape(calls, rows // fold, fold, -1) for a in (weight, mean, variance))
        total = weight.sum(2)
        share = weight / np.maximum(total, 1)[:, :, None]
        center = (share * mean).sum(2)
        spread = (share * (variance + np.square(mean - center[:, :, None]))).sum(2)
        return cls(*(a.swapaxes(0, 1) for a in (total, center, spread)), (rows // fold,))

    @classmethod
    def together(cls, batches: list["Examples"]) -> "Examples":
        """One after the other; where a batch has fewer calls, the others weigh nothing."""
        calls = max(batch.mean.shape[1] for batch in batches)
        arrays = (
            np.concatenate([_padded(getattr(b, name), calls) for b in batches])
            for name in ("weight", "mean", "variance")
        )
        return cls(*arrays, tuple(size for batch in batches for size in batch.sizes))

    def alike(self, virtual_batch_size: int | None) -> "Examples":
        """The batches of the most common size, as their expected variance depends on it; cut to virtual batches."""
        size = max(sorted(set(self.sizes)), key=self.sizes.count)
        part = size if virtual_batch_size is None else min(virtual_batch_size, size)
        starts = np.cumsum((0, *self.sizes[:-1]))
        firsts = [
            first + step
            for first, own in zip(starts, self.sizes, strict=True)
            if own == size
            for step in range(0, size - part + 1, part)
        ]
        index = np.concatenate([np.arange(first, first + part) for first in firsts])
        return Examples(self.weight[index], self.mean[index], self.variance[index], (part,) * len(firsts))

    @functools.cached_property
    def pooled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(an example's share in each call, mean, variance) of all examples together; (calls, channels) each."""
        share = self.weight / np.maximum(self.weight.sum(0), 1)
        mean = (share * self.mean).sum(0)
        return share, mean, (share * (self.variance + np.square(self.mean - mean))).sum(0)

    def batch_statistics(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(means, variances), shape (batches, channels), of batches with so many of each example: (batches, examples).

        Those of a layer's calls are averaged, as its running statistics do. Batches of padding alone are left out.
        """
        _, center, _ = self.pooled
        parts = []
        for call in range(self.mean.shape[1]):
            weight = self.weight[:, call]
            moved = self.mean[:, call] - center[call]
            total = counts @ weight
            valid, total = total > 0, np.maximum(total, 1)
            mean = counts @ (weight * moved) / total
            variance = counts @ (weight * (self.variance[:, call] + np.square(moved))) / total - np.square(mean)
            parts.append((valid, valid * (mean + center[call]), valid * np.maximum(variance, 0)))
        used = sum(valid for valid, _, _ in parts)
        some = used[:, 0] > 0
        return tuple(sum(part[i] for part in parts)[some] / used[some] for i in (1, 2))

    def own_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """(means, variances) of the batches that there are, shape (batches, channels)."""
        return self.batch_statistics(np.repeat(np.eye(len(self.sizes)), self.sizes, axis=1))

    @functools.cached_property
    def influence(self) -> tuple[np.ndarray, np.ndarray]:
        """What each example adds to the mean and to the variance of all, m - mu and q - var: (examples, channels)."""
        share, mean, variance = self.pooled
        calls = np.maximum(np.sum(self.weight.sum(0) > 0), 1)
        moved, scale = self.mean - mean, share * len(share) / calls
        return (scale * moved).sum(1), (scale * (self.variance + np.square(moved) - variance)).sum(1)

    def sampling_variance(self) -> tuple[np.ndarray, np.ndarray]:
        """Variance of a batch's mean and of its variance, from examples: Var_n(m) / B and Var_n(q) / B."""
        degrees = max(len(self.weight) - 1, 1) * self.sizes[0]
        return tuple(np.square(part).sum(0) / degrees for part in self.influence)


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a running average consists of: the share of its initial value, and the sum of squares of the batches'
    weights, which is the variance of the average over that of one batch."""

    initial: float
    noise: float

    @classmethod
    def after(cls, updates: float, momentum: float, warmup: bool = False) -> "Memory":
        """After so many updates, `math.inf` if they are unknown; see `RunningNormalizer` on the warm-up."""
        initial, noise, start = 1.0, 0.0, 0
        # From there on the warm-up's momentum is the layer's own.
        while warmup and start < min(updates, 9 * momentum / max(1 - momentum, 1e-4)):
            kept = min(momentum, start / (start + 9))
            initial, noise, start = kept * initial, kept**2 * noise + (1 - kept) ** 2, start + 1
        if momentum == 1:
            return cls(initial, noise)
        kept = momentum ** (updates - start)
        return cls(initial * kept, kept**2 * noise + (1 - momentum) / (1 + momentum) * (1 - kept**2))

    def averaged(self, groups: int) -> "Memory":
        """Where each update is the average of so many virtual batches."""
        return Memory(self.initial, self.noise / groups)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Running statistics beside those of batches. Arrays have shape (channels,).

    `relevant_log_ratio` is that of variance + epsilon, by which the layer divides.
    """

    batch_mean: np.ndarray
    batch_variance: np.ndarray
    mean_gap: np.ndarray
    log_variance_ratio: np.ndarray
    relevant_log_ratio: np.ndarray
    mean_z: np.ndarray
    variance_z: np.ndarray
    p_value: float
    mean_noise: float
    variance_noise: float


def compare(examples: Examples, running, epsilon: float, memory: Memory, seed: int = 0) -> Comparison:
    """Compares (mean, variance) of the running statistics with the average of batch means and of batch variances.

    The p-value is that of the mean of z^2 over the channels, means and variances alike, each relative to how much the
    batches themselves vary against what their examples let expect: behind another normalizer they vary less. Its null
    distribution is that of batches drawn anew from the examples, as many as there are against a running average.
    z of the variance is that of log(variance + epsilon), as samples of a variance are skewed.
    """
    epsilon = epsilon + float(np.finfo("float32").tiny)
    means, variances = examples.own_statistics()
    mean, variance = means.mean(0), variances.mean(0)
    running_mean, running_variance = running
    sampling, total = examples.sampling_variance(), examples.pooled[2].mean(0) + epsilon
    # Rounding of float32, and what epsilon drowns, are no gap.
    mean_scale = np.sqrt(sampling[0] + np.square(1e-6 * mean) + 1e-4 * epsilon)
    log_scale = np.sqrt(sampling[1] / np.square(variance + epsilon) + 1e-4)
    both = math.sqrt(1 / len(means) + memory.noise)
    log_ratio = np.log((variance + epsilon) / (running_variance + epsilon))
    mean_z, variance_z = (running_mean - mean) / mean_scale / both, -log_ratio / log_scale / both
    mean_spread, log_spread = _spread(examples, means, variances, epsilon)
    observed = _score(mean_z, mean_spread / np.square(mean_scale)) + _score(
        variance_z, log_spread / np.square(log_scale)
    )
    expected = _null_scores(examples, (mean_scale, log_scale), (variance, epsilon), len(means), memory, seed)
    tiny = np.finfo("float32").tiny
    return Comparison(
        batch_mean=mean,
        batch_variance=variance,
        mean_gap=np.abs(running_mean - mean) / np.sqrt(running_variance + epsilon),
        log_variance_ratio=np.log(np.maximum(variance, tiny) / np.maximum(running_variance, tiny)),
        relevant_log_ratio=log_ratio,
        mean_z=mean_z,
        variance_z=variance_z,
        p_value=float((1 + np.sum(expected >= observed)) / (1 + DRAWS)),
        mean_noise=float(np.sqrt(np.mean(sampling[0] / total))),
        variance_noise=float(np.sqrt(np.mean(sampling[1] / np.square(total)))),
    )


def _spread(examples, means, variances, epsilon):
    """Variance between batches of their mean, and of the logarithm of their variance; from examples if one is all."""
    several = len(means) > 1
    spread = (means.var(0, ddof=1), variances.var(0, ddof=1)) if several else examples.sampling_variance()
    return spread[0], spread[1] / np.square(variances.mean(0) + epsilon)


def _null_scores(examples, scales, level, number, memory, seed):
    """Scores of as many batches against a running average, both drawn from the examples."""
    rng = np.random.default_rng(seed)
    size = examples.sizes[0]
    counts = _choices(rng, len(examples.weight), size, POOL)
    counts = counts[counts @ examples.weight.sum((1, 2)) > 0]
    means, variances = (part - part.mean(0) for part in examples.batch_statistics(counts))
    batches = _choices(rng, len(means), number)
    terms = int(np.clip(round(1 / memory.noise), 1, LONGEST)) if memory.noise > 0 else 1
    # Few terms stand for many: what they weigh makes up for it.
    running = _choices(rng, len(means), terms) / terms * math.sqrt(memory.noise * terms)
    both = math.sqrt(1 / number + memory.noise)
    alone = [counts @ np.square(part) / size**2 for part in examples.influence] if number == 1 else (None, None)

    def drawn(part, alone):
        average = batches @ part / number
        if alone is not None:
            return running @ part, average, batches @ alone
        spread = (batches @ np.square(part) / number - np.square(average)) * number / (number - 1)
        return running @ part, average, spread

    run, average, spread = drawn(means, alone[0])
    scores = _score((run - average) / scales[0] / both, spread / np.square(scales[0]))
    run, average, spread = drawn(variances, alone[1])
    variance, epsilon = level
    run, average = (np.maximum(variance + moved, 0.01 * variance) + epsilon for moved in (run, average))
    return scores + _score(np.log(run / average) / scales[1] / both, spread / np.square(average * scales[1]))


def _choices(rng, available, number, draws=DRAWS):
    """How often each of the available is among so many, drawn with replacement: (draws, available)."""
    chosen = rng.integers(available, size=(draws, number)) + available * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * available).reshape(draws, available).astype("float64")


def _score(z, spread):
    """Mean over channels of z^2, relative to the batches' spread; next to none is rounding."""
    return np.square(z).mean(-1) / np.maximum(spread.mean(-1), 0.01)


def progress(running, initial, batch, epsilon: float) -> tuple[float, float]:
    """(fraction f of the way from the initial values to the batch's that running statistics have gone, R^2).

    Least squares through the origin of running - initial = f (batch - initial) over means, in standard deviations, and
    variances, relative. R^2 is the share of the gap running - batch that f explains; 0 where there is no gap.
    """
    _, variance = batch
    scales = np.sqrt(variance + epsilon + 1e-30), variance + epsilon + 1e-30
    way, gone, left = (
        np.concatenate([(one - other) / scale for one, other, scale in zip(*pair, scales, strict=True)])
        for pair in ((batch, initial), (running, initial), (running, batch))
    )
    if not np.any(way) or not np.any(left):
        return 1.0, 0.0
    fraction = np.dot(way, gone) / np.dot(way, way)
    return float(fraction), float(1 - np.sum(np.square(gone - fraction * way)) / np.sum(np.square(left)))


def _padded(array, calls):
    return np.pad(array, ((0, 0), (0, calls - array.shape[1]), (0, 0)))
