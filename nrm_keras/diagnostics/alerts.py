"""Watches observations with named rules, and says what is wrong, where, why, and what to try."""

import dataclasses
import difflib
import warnings
from collections.abc import Callable

import keras

from nrm_keras.diagnostics.constant import Constant
from nrm_keras.diagnostics.observation import Finding, Observation
from nrm_keras.diagnostics.rules import RULES, Rule
from nrm_keras.diagnostics.rules.base import Findings

# What each setting of a rule must be, in words and as a test.
CHECKS = {
    "threshold": ("a number", lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)),
    "patience": ("a positive integer", lambda value: type(value) is int and value >= 1),
    "action": ('"log", "stop" or a function', lambda value: value in ("log", "stop") or callable(value)),
}


@dataclasses.dataclass(frozen=True)
class Alert:
    """What one rule found.

    Attributes:
        rule: its name.
        step: after how many steps.
        layer: the layer at fault, or that where it shows first or most; None for the training as a whole.
        value, threshold: what was measured, and what it is held against.
        evidence: what was seen, in words.
        reason: why that matters.
        advice: what to try.
        others: further layers of which the same is true.
    """

    rule: str
    step: int
    layer: str | None
    value: float
    threshold: float
    evidence: str
    reason: str
    advice: str
    others: tuple[str, ...] = ()

    def record(self) -> dict:
        """As it is written to `alerts.jsonl`."""
        return dataclasses.asdict(self) | {"others": list(self.others)}

    def __str__(self):
        where = f" {self.layer}" if self.layer else ""
        others = f" Also {', '.join(self.others[:5])}{', ...' if len(self.others) > 5 else ''}." if self.others else ""
        return f"Alert at step {self.step}: {self.rule}{where}. {self.evidence}{others} {self.reason} {self.advice}"


class Alerts:
    """The rules at work in one training.

    A rule speaks up when it has something against a layer in as many observations in a row as its patience, once for
    each layer.

    Args:
        settings: True: all rules as they are. False: none. A dictionary by rule: False to leave it out, or a dictionary
            of "threshold", "patience" and "action"; the other rules are as they are.

    Raises:
        ValueError: an unknown rule or setting, or a value that it can't have.
        TypeError: settings of another type.
    """

    def __init__(self, settings: bool | dict = True):
        self._settings = _checked(settings)
        chosen = [] if settings is False else [rule for rule in RULES if self._settings.get(rule.name) is not False]
        self._rules = [_with_settings(rule, self._settings.get(rule.name)) for rule in chosen]
        self._streaks: dict = {}
        self._said: set = set()
        self._first: Observation | None = None
        self._goes_on = False

    def __bool__(self) -> bool:
        """Whether there is a rule at all."""
        return bool(self._rules)

    def action(self, alert: Alert):
        """What the settings want done at this alert; None: what is usual."""
        return (self._settings.get(alert.rule) or {}).get("action")

    def begin(self, model: keras.Model, step: int) -> list[Alert]:
        """What is wrong before the first step of this training; of one that goes on, less is asked."""
        self._streaks, self._said, self._first, self._goes_on = {}, set(), None, step > 0
        for rule in self._rules:
            rule.reset()
        return self._ask(step, lambda rule: rule.begin(model), "beginning")

    def observe(self, observation: Observation) -> list[Alert]:
        """What a probed step shows; where numbers are not finite any more, only where that began."""
        if not self:
            return []
        self._first = observation.first = self._first or observation
        if self._first is observation:
            observation.constant = Constant(observation.model)
        self._first.constant.add(observation.reading.batch)
        if not observation.finite:
            return self._ask(
                observation.step, lambda rule: rule.observe(observation) if rule.name == "non_finite" else None, "step"
            )
        return self._ask(observation.step, lambda rule: rule.observe(observation), "step")

    def end_epoch(self, step: int, epoch: int, logs: dict) -> list[Alert]:
        """What the epoch's results show."""
        return self._ask(step, lambda rule: rule.end_epoch(epoch, logs), "epoch")

    def not_finite(self, model: keras.Model, step: int) -> list[Alert]:
        """A loss that is not finite, in a step that was not probed."""
        return self._ask(step, lambda rule: rule.not_finite(model), "broken step")

    def _ask(self, step: int, question: Callable[[Rule], Findings], when: str) -> list[Alert]:
        alerts = []
        for rule in [rule for rule in self._rules if not (rule.of_new_trainings and self._goes_on)]:
            try:
                answer = question(rule)
                findings = None if answer is None else list(answer)
            except Exception as error:  # noqa: BLE001 - no rule is worth a training
                self._rules.remove(rule)
                warnings.warn(f"The rule {rule.name} failed and is left out: {error!r}", stacklevel=2)
                continue
            if findings is None:  # the rule has nothing to say at this point
                continue
            ripe = [f for f in self._counted(rule, findings, when) if (rule.name, f.layer) not in self._said]
            if ripe:
                self._said |= {(rule.name, finding.layer) for finding in ripe}
                alerts.append(_alert(rule, step, ripe))
        return alerts

    def _counted(self, rule, findings, when):
        """Those of the findings that were there often enough in a row."""
        before = self._streaks.get((rule.name, when), {})
        now = {finding.layer: before.get(finding.layer, 0) + 1 for finding in findings}
        self._streaks[rule.name, when] = now
        patience = {"step": rule.patience, "epoch": rule.epoch_patience}.get(when, 1)
        return [finding for finding in findings if now[finding.layer] >= patience]


def _alert(rule: Rule, step: int, findings: list[Finding]) -> Alert:
    layer, value, evidence = findings[0]
    others = tuple(dict.fromkeys(f.layer for f in findings[1:] if f.layer and f.layer != layer))
    return Alert(
        rule.name, step, layer, float(value), float(rule.threshold), evidence, rule.reason, rule.advice, others
    )


def _checked(settings):
    if isinstance(settings, bool):
        return {}
    if not isinstance(settings, dict):
        raise TypeError(
            "`alerts` must be True, False or a dictionary by rule. "
            f'Received: {settings!r}. Pass for example {{"dead_units": {{"patience": 5}}}}.'
        )
    names = [rule.name for rule in RULES]
    for name, setting in settings.items():
        if name not in names:
            raise ValueError(f"`alerts` must name rules that exist. Received: {name!r}. {_hint(name, names)}")
        if not isinstance(setting, bool):
            _check_setting(name, setting)
    return {name: {} if setting is True else setting for name, setting in settings.items()}


def _check_setting(rule, setting):
    if not isinstance(setting, dict):
        raise TypeError(
            f"A rule's setting must be True, False or a dictionary. Received: {setting!r} for {rule!r}. "
            f'Pass {{"threshold": {setting!r}}} if that is meant.'
        )
    for name, value in setting.items():
        if name not in CHECKS:
            raise ValueError(
                "A rule has a threshold, a patience and an action. "
                f"Received: {name!r} for {rule!r}. {_hint(name, list(CHECKS))}"
            )
        wanted, is_right = CHECKS[name]
        if not is_right(value):
            raise ValueError(
                f"A rule's {name} must be {wanted}. Received: {name}={value!r} for {rule!r}. Pass such a one."
            )


def _hint(name, names):
    near = difflib.get_close_matches(str(name), names, 1)
    return f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(names)}."


def _with_settings(cls: type[Rule], setting: dict | None) -> Rule:
    rule = cls()
    for name in ("threshold", "patience"):
        if setting and name in setting:
            setattr(rule, name, setting[name])
    return rule
