"""How far the activations on a fixed batch have moved since the start, and since the last epoch."""

import keras
import numpy as np

from nrm_keras.diagnostics import shift, units
from nrm_keras.diagnostics.places import Places
from nrm_keras.diagnostics.probes import Forward
from nrm_keras.diagnostics.readings import Activation


class Drift:
    """Measures the model on one batch again and again, so that no sampling noise is taken for drift.

    The pass is in training mode: normalizers use the batch's own statistics. Dropout is off, and nothing changes.

    Args:
        model: a built model.
        places: the layers to watch.
        probe: "first" for `first`; or x, (x, y), or a dataset, of which the first batch is taken.
        first: the batch (x, y, sample_weight) to take for "first".
    """

    def __init__(self, model: keras.Model, places: Places, probe, first: tuple):
        self._forward = Forward(model, places)
        self.batch = probe_batch(probe, first)
        self._start: dict[str, Activation] | None = None
        self._epoch: dict[str, Activation] | None = None
        self._now: dict[str, Activation] = {}

    def measure(self) -> list[dict]:
        """Records of the drift against both references; the first time there is nothing to compare with."""
        self._now = {activation.layer: activation for activation in self._forward(self.batch[0])}
        if self._start is None:
            self._start = self._epoch = self._now
        return [*_records("start", self._start, self._now), *_records("last epoch", self._epoch, self._now)]

    def end_epoch(self) -> None:
        """From here on the last measurement is that of the last epoch."""
        self._epoch = self._now


def probe_batch(probe, first: tuple) -> tuple:
    """(x, y, sample_weight) of the probe batch; y and sample_weight may be None."""
    if isinstance(probe, str):
        return keras.utils.unpack_x_y_sample_weight(first)
    if isinstance(probe, (np.ndarray, list, dict)) or keras.ops.is_tensor(probe):
        return probe, None, None
    if isinstance(probe, tuple):
        return keras.utils.unpack_x_y_sample_weight(probe)
    if isinstance(probe, keras.utils.PyDataset):
        return keras.utils.unpack_x_y_sample_weight(probe[0])
    return keras.utils.unpack_x_y_sample_weight(next(iter(probe)))


def _records(reference: str, before: dict[str, Activation], now: dict[str, Activation]):
    for name, activation in now.items():
        if name not in before:
            continue
        old = before[name]
        moved = shift.drift((old.mean, old.variance), (activation.mean, activation.variance))
        low, middle, high = units.percentiles(activation.sample)
        yield {
            "kind": "drift",
            "layer": name,
            "type": activation.type,
            "reference": reference,
            "mean_shift": _average(np.square(moved.mean_shift)) ** 0.5,
            "log_variance_ratio": _average(moved.log_variance_ratio),
            "kl_divergence": _average(moved.kl_divergence),
            "wasserstein": _average(moved.wasserstein),
            "p15": low,
            "p50": middle,
            "p85": high,
        }


def _average(values):
    """Over the channels, without those that are constant on the batch, now or before."""
    finite = values[np.isfinite(values)]
    return float(np.mean(finite)) if finite.size else np.nan
