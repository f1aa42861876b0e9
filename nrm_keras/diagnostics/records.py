"""Observations as flat records, one JSON object a line, for pandas and for the report."""

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from nrm_keras.diagnostics import units
from nrm_keras.diagnostics.places import Places
from nrm_keras.diagnostics.readings import Activation, Inputs, Reading, Weight
from nrm_keras.layers import AdaptiveNormalization


class Records:
    """A file of records that can be read while it is written: each observation is flushed as a whole.

    Args:
        path: the file; it is appended to. None keeps nothing.
    """

    def __init__(self, path: str | Path | None):
        self._path = None if path is None else Path(path)
        self._file = None

    def write(self, records: list[dict]) -> None:
        if self._path is None or not records:
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _end_torn_line(self._path)
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write("".join(to_line(record) for record in records))
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def forget_after(path: Path, step: int) -> None:
    """Drops the records of later steps, which a resumed training will make again; torn lines go too."""
    if not path.exists():
        return
    kept = [line for line in path.read_text("utf-8", errors="replace").splitlines(True) if _step_of(line) <= step]
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(kept), "utf-8")
    partial.replace(path)


def to_line(record: dict) -> str:
    """The record as one line of JSON; what is not finite becomes null, since JSON has no word for it."""
    return "{" + ", ".join([f'"{key}": {_json(value)}' for key, value in record.items()]) + "}\n"


def of_reading(reading: Reading, places: Places, channels: bool) -> Iterator[dict]:
    """The records of one probed step."""
    for activation in reading.activations:
        yield of_activation(activation, channels)
    for weight in reading.weights:
        yield of_weight(weight)
    for inputs in reading.inputs:
        yield of_running_statistics(inputs)
    for layer in places.candidates:
        if isinstance(layer, AdaptiveNormalization) and layer.built:
            yield of_gate(places.name(layer), layer)


def of_activation(activation: Activation, channels: bool) -> dict:
    low, middle, high = units.percentiles(activation.sample)
    record = {
        "kind": "activation",
        "layer": activation.layer,
        "type": activation.type,
        "mean": activation.total_mean,
        "variance": activation.total_variance,
        "p15": low,
        "p50": middle,
        "p85": high,
        "dead": dead_share(activation),
        "saturated": saturated_share(activation),
        "gradient_norm": activation.gradient_norm,
        "gradient_rms": activation.gradient_rms,
        "finite": activation.finite,
    }
    return record | ({"channel_mean": activation.mean, "channel_variance": activation.variance} if channels else {})


def of_weight(weight: Weight) -> dict:
    record = {
        "kind": "weight",
        "layer": weight.variable.path,
        "norm": weight.norm,
        "gradient_norm": weight.gradient_norm,
        "update_norm": weight.update_norm,
        "update_ratio": weight.update_norm / weight.norm if weight.norm else None,
        "cosine": _ratio(weight.inner, weight.norm * weight.gradient_norm),
        "finite": math.isfinite(weight.norm + weight.update_norm),
    }
    if weight.values is not None and weight.values.size:
        values = weight.values
        record |= {"value_mean": values.mean(), "value_minimum": values.min(), "value_maximum": values.max()}
    return record


def of_running_statistics(inputs: Inputs) -> dict:
    """Root mean squares over the channels of the distance of the running statistics from the batch's."""
    mean, variance = running_gap(inputs)
    return {
        "kind": "running",
        "layer": inputs.name,
        "type": type(inputs.layer).__name__,
        "mean_gap": _rms(mean),
        "variance_gap": _rms(variance),
    }


def of_gate(name: str, layer: AdaptiveNormalization) -> dict:
    """Gates as they are at inference, beside what the number of examples alone would give."""
    share = keras.ops.convert_to_numpy(layer.batch_weight())
    others = max(math.exp(float(layer.moving_log_count)) - 1, 0)
    return {
        "kind": "gate",
        "layer": name,
        "type": type(layer).__name__,
        "batch_weight": share.mean(),
        "prior": others / (others + layer.balance - 1),
        "value_minimum": share.min(),
        "value_maximum": share.max(),
    }


def running_gap(inputs: Inputs, mean=None, variance=None) -> tuple[np.ndarray, np.ndarray]:
    """Per channel |mu_run - mu_B| / sqrt(var_run + epsilon) and log((var_B + epsilon) / (var_run + epsilon)).

    The batch's statistics are those of the inputs, unless others are given.
    """
    mean, variance = inputs.mean if mean is None else mean, inputs.variance if variance is None else variance
    epsilon = getattr(inputs.layer, "epsilon", 1e-3)
    with np.errstate(all="ignore"):  # statistics that are not finite give gaps that are not
        return (
            np.abs(inputs.moving_mean - mean) / np.sqrt(inputs.moving_variance + epsilon),
            np.log((variance + epsilon) / (inputs.moving_variance + epsilon)),
        )


def dead_share(activation: Activation) -> float | None:
    """Share of the channels that are dead on this batch; None where none can die."""
    can_die = activation.kind in units.CAN_DIE and activation.values
    return float(units.dead(activation.mean, activation.kind).mean()) if can_die else None


def saturated_share(activation: Activation) -> float | None:
    """Share of the values that are saturated; None where none can be."""
    if activation.kind not in units.BOUNDS or not activation.sample.size:
        return None
    return float(units.saturated(activation.sample[:, None], activation.kind)[0])


def _step_of(line):
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def _ratio(one, other):
    return one / other if other else None


def _json(value) -> str:
    """Numbers to six digits, those of arrays to four."""
    if isinstance(value, float):  # np.float64 is one
        return f"{value:.6g}" if math.isfinite(value) else "null"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, np.ndarray):
        text = ", ".join(["%.4g"] * value.size) % tuple(value.tolist())
        with np.errstate(over="ignore"):  # a sum beyond float64 only costs a look at each number
            total = value.sum()
        return f"[{text if math.isfinite(total) else _without_nan(text)}]"
    return _json(value.item()) if isinstance(value, np.generic) else json.dumps(value)


@functools.lru_cache(4096)
def _quoted(text):
    """The names of layers come again and again."""
    return json.dumps(text)


def _without_nan(text):
    return ", ".join("null" if part in ("nan", "inf", "-inf") else part for part in text.split(", "))


def _end_torn_line(path):
    """A process that was killed may have left half a line: the next record begins on its own."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
