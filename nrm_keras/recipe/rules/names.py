"""Names that a recipe may use: built-in ones, and those that users register."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nrm_keras import registry
from nrm_keras.recipe.problems import did_you_mean
from nrm_keras.recipe.rules.base import Problem, entries

KIND_OF_FIELD = {
    "data": "data",
    "model": "model",
    "norm": "norm",
    "optimizer": "optimizer",
    "callbacks": "callback",
}  # fields of a recipe whose types users can add to


def discriminator(field: str) -> str:
    """The key that says what a section is."""
    return "source" if field == "data" else "type"


def unknown_names(values: dict[str, Any]) -> Iterator[Problem]:
    """Types, sources and metrics in a recipe's plain values that are neither built in nor registered."""
    for field, kind in KIND_OF_FIELD.items():
        by = discriminator(field)
        for path, section in entries(field, values.get(field)):
            name = section.get(by) if isinstance(section, dict) else None
            if isinstance(name, str) and name not in registry.names(kind):
                yield _unknown(f"{path}.{by}", kind, name)
    train = values.get("train")
    metrics = train.get("metrics") if isinstance(train, dict) else None
    for metric in metrics if isinstance(metrics, tuple) else ():
        if isinstance(metric, str) and metric not in registry.names("metric"):
            yield _unknown("train.metrics", "metric", metric)


def _unknown(path: str, kind: str, name: str) -> Problem:
    known = registry.names(kind)
    what = "source" if kind == "data" else kind
    hint = did_you_mean(name, known)
    return (
        path,
        f"unknown {what}. Received: {name!r}.{hint} One of your own needs @nrm_keras.register and imports: [module].",
    )
