"""When to watch, and what watching costs."""

import statistics
import time
from collections import deque

# Without a plain step to compare with, there is no telling what watching costs.
COMPARABLE = 3


class Schedule:
    """Steps to probe: every so many, or as often as a share of the training time allows.

    The cost of a probed step is its time beyond the median of the last plain ones, plus what is done with it on the host.
    The first probe, which includes the trace, is always made; with a budget, the next ones wait until the share is kept.

    Args:
        every: probe each step whose number is a multiple of it.
        budget: the share of the training time that watching may cost at most, or None.
    """

    def __init__(self, every: int, budget: float | None):
        self.every, self.budget = every, budget
        self.probes = 0
        self.first_seconds = 0.0
        self.later_seconds = 0.0
        self._plain: deque = deque(maxlen=50)
        self._recent: deque = deque(maxlen=5)
        self._began = time.perf_counter()

    def due(self, step: int, steps: int = 1) -> bool:
        """Whether one of the steps from `step` (counted from 0) on is to be probed.

        Without a budget the step alone decides, so that a resumed training is probed where an uninterrupted one is.
        """
        if self.budget is None:
            return (step + steps - 1) // self.every > (step - 1) // self.every
        if not self.probes:
            return True
        return self.affords(statistics.median(self._recent) if self._recent else 0.0)

    def affords(self, seconds: float) -> bool:
        """Whether the budget, if there is one, allows for so much more."""
        if self.budget is None:
            return True
        return self.spent + seconds <= self.budget * (self.elapsed + seconds)

    def add_plain(self, seconds: float) -> None:
        self._plain.append(seconds)

    def add_probe(self, step_seconds: float, host_seconds: float) -> None:
        """Counts a probed step: how long it took, and how long it took to read it."""
        usual = statistics.median(self._plain) if len(self._plain) >= COMPARABLE else 0.0
        cost = max(step_seconds - usual, 0.0) + host_seconds
        if not self.probes:
            self.first_seconds += cost
        else:
            self.later_seconds += cost
            self._recent.append(cost)
        self.probes += 1

    def add(self, seconds: float) -> None:
        """Counts time spent on something else than a probed step."""
        self.later_seconds += seconds

    @property
    def elapsed(self) -> float:
        return max(time.perf_counter() - self._began, 1e-9)

    @property
    def spent(self) -> float:
        return self.first_seconds + self.later_seconds

    @property
    def share(self) -> float:
        """What watching cost, as a share of the whole time, the trace included."""
        return self.spent / self.elapsed

    def record(self) -> dict:
        return {
            "kind": "cost",
            "probes": self.probes,
            "first_seconds": self.first_seconds,
            "later_seconds": self.later_seconds,
            "elapsed_seconds": self.elapsed,
            "share": self.share,
        }

    def __str__(self):
        if len(self._plain) < COMPARABLE:
            return f"{self.probes} probed steps, {self.first_seconds:.1f} s for the first; no plain ones to compare them with"
        return (
            f"watching cost {100 * self.share:.1f}% of {self.elapsed:.1f} s: {self.probes} probed steps, "
            f"{self.first_seconds:.1f} s for the first with its trace, {self.later_seconds:.1f} s for all others"
        )
