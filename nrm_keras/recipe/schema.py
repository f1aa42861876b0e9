"""What a recipe may say: the sections of `nrm_keras.recipe.sections`, discriminated by `type` (data: by `source`).

Defaults, limits and the JSON schema for editors all come from there; rules that tie sections together are in `rules`.
Nothing in this package imports TensorFlow.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, Tag, ValidationInfo, model_validator

from nrm_keras import registry
from nrm_keras.recipe import rules
from nrm_keras.recipe.sections import data, models, norms, texts, training
from nrm_keras.recipe.sections.base import Custom, Name, Section
from nrm_keras.recipe.sections.data import CustomData
from nrm_keras.recipe.sections.training import Constant, CustomOptimizer, Diagnostics, Train


def _by_name(*sections: type[Section], by: str = "type") -> dict[str, type[Section]]:
    return {name: section for section in sections for name in section.model_fields[by].annotation.__args__}


SECTIONS: dict[str, dict[str, type[Section]]] = {
    "data": _by_name(*data.SECTIONS, *texts.SECTIONS, by="source"),
    "model": _by_name(*models.SECTIONS),
    "norm": _by_name(*norms.SECTIONS),
    "optimizer": _by_name(*training.OPTIMIZERS),
    "schedule": _by_name(*training.SCHEDULES),
    "callbacks": _by_name(*training.CALLBACKS),
}
TASKS = ("classification", "segmentation", "regression")
METRICS = tuple(dict.fromkeys(name for task in TASKS for name in rules.METRICS_OF_TASK[task]))

for _kind, _names in {
    **{kind: tuple(SECTIONS[field]) for field, kind in rules.KIND_OF_FIELD.items()},
    "metric": METRICS,
}.items():
    registry.reserve(_kind, _names)


def _one_of(field: str, custom: type[Section] | None = None):
    """A section chosen by its `type` (or `source`): a built-in one, or `custom` for any other name."""
    by = rules.discriminator(field)
    built_in = SECTIONS[field]

    def tag(value: Any) -> str | None:
        name = value.get(by) if isinstance(value, dict) else getattr(value, by, None)
        if isinstance(name, str) and name in built_in:
            return name
        return "custom" if custom is not None and isinstance(name, str) else None

    options = [Annotated[section, Tag(name)] for name, section in built_in.items()]
    options += [Annotated[custom, Tag("custom")]] if custom is not None else []
    return Annotated[Union[tuple(options)], Discriminator(tag)]  # noqa: UP007


class Recipe(Section):
    """One training run."""

    title: str = Field("", description="one line for `ls` and the report")
    imports: tuple[Name, ...] = Field((), description="modules that register what this recipe uses")
    task: Literal["classification", "segmentation", "regression"] = Field(
        "classification", description="what is learned: a class, a class at each position, or numbers"
    )
    data: _one_of("data", CustomData) = Field(description="where examples come from and how they are batched")
    model: _one_of("model", Custom) = Field(description="the network")
    norm: _one_of("norm", Custom) = Field(description="the normalizer at every place the model has one")
    optimizer: _one_of("optimizer", CustomOptimizer) = Field(description="what updates the weights")
    schedule: _one_of("schedule") = Field(Constant(type="constant"), description="learning rate over the epochs")
    train: Train = Field(Train(), description="how long, how precisely, on what, and what is kept")
    diagnostics: Diagnostics | None = Field(None, description="watch the inside of the model; null: don't")
    baseline: Literal["tfidf", "linear"] | None = Field(
        None,
        description="a simple model on the same split, to stand beside the result; tfidf: word frequencies with logistic"
        " regression, linear: logistic or ridge regression (segmentation: on each position's channels)",
    )
    callbacks: tuple[_one_of("callbacks", Custom), ...] = Field((), description="Keras callbacks, or registered ones")

    @model_validator(mode="before")
    @classmethod
    def _measure_by_task(cls, values: Any) -> Any:
        """Metrics and monitor that are left open are those of the task."""
        if not isinstance(values, dict):
            return values
        train, task = values.get("train", {}), values.get("task", "classification")
        train = train.model_dump() if isinstance(train, Train) else train
        if not isinstance(train, dict) or task not in TASKS:
            return values  # a mistake, which validation describes
        metrics = rules.DEFAULT_METRICS[task] if train.get("metrics") is None else train["metrics"]
        known = [name for name in metrics if name in rules.METRICS_OF_TASK[task]] if isinstance(metrics, tuple) else []
        monitor = train.get("monitor") or f"val_{known[0] if known else 'loss'}"
        return {**values, "train": {**train, "metrics": metrics, "monitor": monitor}}

    @model_validator(mode="after")
    def _obey_rules(self, info: ValidationInfo) -> Recipe:
        """Recipes built in Python obey the rules too; the loader checks them itself, to name the file and line."""
        if not (info.context or {}).get("rules_later"):
            problems = rules.broken(self)
            if problems:
                raise ValueError("; ".join(f"{path}: {message}" for path, message in problems))
        return self
