"""How rules are written: each yields (path, message), the message with the rule, the value received and the next step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nrm_keras.recipe.schema import Recipe

Problem = tuple[str, str]
Rule = Callable[["Recipe"], Iterator[Problem]]

METRICS_OF_TASK = {
    "classification": ("accuracy", "top_5_accuracy", "auroc"),
    "segmentation": ("dice", "iou", "accuracy"),
    "regression": ("rmse", "r2", "mae"),
}
DEFAULT_METRICS = {"classification": ("accuracy",), "segmentation": ("dice", "iou"), "regression": ("rmse", "r2")}
BUILT_IN_METRICS = {name for names in METRICS_OF_TASK.values() for name in names}

_rules: list[tuple[frozenset[str], Rule]] = []


def broken(recipe: Recipe, without: frozenset[str] = frozenset()) -> list[Problem]:
    """Every broken rule, skipping the rules that read one of the sections in `without`."""
    return [problem for needs, rule in _rules if not needs & without for problem in rule(recipe)]


def reads(*fields: str) -> Callable[[Rule], Rule]:
    """Makes the function a rule, which reads these sections of the recipe."""

    def add(rule: Rule) -> Rule:
        _rules.append((frozenset(fields), rule))
        return rule

    return add


def entries(field: str, value: Any) -> list[tuple[str, Any]]:
    """A section with its path, or each of a list of sections."""
    return (
        [(f"{field}.{index}", entry) for index, entry in enumerate(value)]
        if isinstance(value, tuple)
        else [(field, value)]
    )
