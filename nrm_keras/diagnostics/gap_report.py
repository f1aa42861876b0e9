"""What `train_inference_gap` found."""

import dataclasses

from nrm_keras.diagnostics.gap_verdict import ADVICE, NONE
from nrm_keras.surgery import Recalibration

SHOWN = 8


@dataclasses.dataclass(frozen=True)
class LayerGap:
    """One layer's gap. Tuples have a number for each channel.

    `mean_gap` is |running mean - batch mean| / sqrt(running variance + epsilon), `log_variance_ratio` is
    log(batch variance / running variance), each z the difference (running - batch), for variances that of
    log(variance + epsilon), in standard deviations of sampling. With one batch alone the p-value is too small: below
    0.05 in one case of ten without a gap.
    `mean_noise` and `variance_noise` are the relative standard deviations of one batch's statistics. `updates` and
    `initial_left`, the share of the initial values that so many leave, are None where the number is unknown.
    `fraction` is how much of the way from the initial values to the batch's was gone, with its R^2, `explained`.
    """

    path: str
    frozen: bool
    batch_size: int
    momentum: float
    updates: int | None
    initial_left: float | None
    mean_gap: tuple[float, ...]
    log_variance_ratio: tuple[float, ...]
    mean_z: tuple[float, ...]
    variance_z: tuple[float, ...]
    p_value: float
    mean_noise: float
    variance_noise: float
    fraction: float | None
    explained: float | None
    typical_mean_gap: float
    typical_variance_factor: float
    verdict: str
    evidence: str

    @property
    def advice(self) -> str:
        return ADVICE[self.verdict]


@dataclasses.dataclass(frozen=True)
class LossGap:
    """The model's loss with batch statistics and with running ones, on the same batches, all else as at inference.

    What the noise of small batches costs is part of it, where running statistics are right as well. `difference` is inference minus training, over batches; its standard error and the p-value of Student's t test of
    the pairs are None with one batch.
    """

    training: float
    inference: float
    difference: float
    standard_error: float | None
    p_value: float | None


@dataclasses.dataclass(frozen=True)
class GapReport:
    """What `train_inference_gap` found, the worst layers first. `print` shows it.

    `loss` is None without labels or loss; `recalibrated` is what `recalibrate` would do, with remedy=True.
    """

    verdict: str
    layers: tuple[LayerGap, ...]
    loss: LossGap | None
    batches: int
    skipped: int
    examples: int
    left: tuple[tuple[str, str], ...]
    recalibrated: Recalibration | None

    @property
    def advice(self) -> str:
        return ADVICE[self.verdict]

    def as_records(self) -> list[dict]:
        """One dictionary for the model and one for each layer, for JSON lines."""
        model = {
            "kind": "train_inference_gap",
            **{name: getattr(self, name) for name in ("verdict", "advice", "batches", "skipped", "examples")},
            "loss": None if self.loss is None else dataclasses.asdict(self.loss),
        }
        if self.recalibrated is not None:
            model |= {"before": self.recalibrated.before, "after": self.recalibrated.after}
        layers = [
            {"kind": "train_inference_gap_layer", **dataclasses.asdict(layer), "advice": layer.advice}
            for layer in self.layers
        ]
        return [model, *layers]

    def __str__(self):
        lines = [f"train/inference gap: {self.verdict}, on {self.examples} examples in {self.batches} batches"]
        if self.skipped:
            lines.append(f"  {self.skipped} batches skipped: without examples, or with values that are not finite")
        if self.loss is not None:
            lines.append(f"  loss {self.loss.training:.4g} with batch statistics, {_inference(self.loss)}")
        width = max((len(layer.path) for layer in self.layers[:SHOWN]), default=5)
        lines.append(f"  {'layer':{width}}  mean gap  variance       p  verdict")
        lines += [
            f"  {g.path:{width}}  {g.typical_mean_gap:8.2g}  {f'x{g.typical_variance_factor:.2g}':>8}  {g.p_value:6.2g}"
            f"  {g.verdict}{' (frozen)' if g.frozen else ''}"
            for g in self.layers[:SHOWN]
        ]
        if len(self.layers) > SHOWN:
            lines.append(f"  and {len(self.layers) - SHOWN} layers more")
        lines += [f"  not measured {path}: {reason}" for path, reason in self.left]
        if self.verdict != NONE:
            worst = next(layer for layer in self.layers if layer.verdict == self.verdict)
            lines += [f"  evidence: {worst.path}: {worst.evidence}", f"  advice: {self.advice}"]
        if self.recalibrated is not None and self.recalibrated.before is not None:
            before, after = self.recalibrated.before, self.recalibrated.after
            changes = ", ".join(f"{name} {before[name]:.4g} -> {after[name]:.4g}" for name in before)
            lines.append(f"  recalibrated: {changes}")
        return "\n".join(lines)


def _inference(loss):
    text = f"{loss.inference:.4g} with running ones"
    return text if loss.p_value is None else f"{text} (+- {loss.standard_error:.2g}, p = {loss.p_value:.2g})"
