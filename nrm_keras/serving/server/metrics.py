"""What the server counts and times, for Prometheus."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
ALARM = 0.01  # the p-value below which a check counts as an alarm


class ServerMetrics:
    """The server's figures, in a registry of their own."""

    def __init__(self, max_batch: int, queued: Callable[[], int]):
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("nrm_keras_requests", "Requests by HTTP status.", ["status"], registry=registry)
        self.latency = Histogram(
            "nrm_keras_request_seconds",
            "From a predict request's head to its answer.",
            buckets=SECONDS,
            registry=registry,
        )
        self.call = Histogram("nrm_keras_call_seconds", "A call of the model.", buckets=SECONDS, registry=registry)
        sizes = [2**power for power in range(math.ceil(math.log2(max_batch)))] + [max_batch]
        self.batch = Histogram("nrm_keras_batch_rows", "Rows of a call of the model.", buckets=sizes, registry=registry)
        waiting = Gauge("nrm_keras_queued_rows", "Rows that wait for the model.", registry=registry)
        waiting.set_function(queued)

    def count(self, status: int) -> None:
        """One more request was answered, with this HTTP status."""
        self.requests.labels(int(status)).inc()

    def page(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self._registry)

    def watch_drift(self) -> None:
        """Adds the figures of the drift monitor."""
        registry = self._registry
        self.drift_checks = Counter("nrm_keras_drift_checks", "Samples that the monitor judged.", registry=registry)
        self.drift_alarms = Counter("nrm_keras_drift_alarms", f"Of these, with p < {ALARM}.", registry=registry)
        self.drift_rows = Gauge("nrm_keras_drift_rows", "Rows of the last sample.", registry=registry)
        self.drift_score = Gauge("nrm_keras_drift_score", "Drift score of the last sample.", registry=registry)
        self.drift_p_value = Gauge("nrm_keras_drift_p_value", "Its p-value.", registry=registry)
        self.drift_distance = Gauge("nrm_keras_drift_distance", "Its distance by layer.", ["layer"], registry=registry)

    def drift(self, answer: Mapping[str, np.ndarray], rows: int) -> None:
        """Takes the answer of the `monitor` signature for a sample."""
        self.drift_checks.inc()
        self.drift_rows.set(rows)
        self.drift_score.set(float(answer["score"]))
        self.drift_p_value.set(float(answer["p_value"]))
        if float(answer["p_value"]) < ALARM:
            self.drift_alarms.inc()
        if "layers" in answer and "distance" in answer:
            for layer, distance in zip(answer["layers"].tolist(), answer["distance"].tolist(), strict=True):
                self.drift_distance.labels(layer.decode()).set(distance)
