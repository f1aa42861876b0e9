"""What a rule is."""

from collections.abc import Iterator

import keras

from nrm_keras.diagnostics.observation import Finding, Observation

Findings = Iterator[Finding] | None


class Rule:
    """A named question to ask of a training, with the answer's consequence.

    A rule overrides those of the methods that it has something to say in; each gives what it has against which layer,
    the worst first. A method that returns None was not asked.

    Attributes:
        name: what settings and records call it.
        threshold: what the finding's value is held against.
        patience: in how many observations in a row it must be so.
        epoch_patience: in how many epochs in a row, where the finding is about epochs.
        of_new_trainings: whether it says nothing of a training that goes on.
        reason: why it matters.
        advice: what to try.
    """

    name = ""
    threshold = 0.0
    patience = 1
    epoch_patience = 2
    of_new_trainings = False
    reason = ""
    advice = ""

    def reset(self) -> None:
        """A training begins: forget the one before."""

    def begin(self, model: keras.Model) -> Findings:
        """Before the first step; layers may not be built yet."""
        return None

    def observe(self, observation: Observation) -> Findings:
        """At each probed step."""
        return None

    def end_epoch(self, epoch: int, logs: dict) -> Findings:
        """With what `fit` reports at an epoch's end."""
        return None

    def not_finite(self, model: keras.Model) -> Findings:
        """At a loss that is not finite, in a step that was not probed."""
        return None


def worst_first(findings) -> Findings:
    """Largest value first."""
    return iter(sorted(findings, key=lambda finding: -finding.value))
