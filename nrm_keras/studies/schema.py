"""What a study's file may say. Rules that need more than one section are in `rules`; nothing here imports TensorFlow."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, Tag, model_validator

from nrm_keras.recipe.sections.base import Name, NonNegativeInt, PositiveFloat, PositiveInt, Section
from nrm_keras.studies.probes import PROBES

TRANSFORMS = ("none", "complement", "log2", "log10", "negative", "absolute")
KINDS = ("metric", "statistic", "probe")

# factors and levels become names of folders
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+$", max_length=60)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Levels = Annotated[dict[Word, dict[str, Any]], Field(min_length=1)]
Selection = dict[Word, Word]
Target = dict[Word, Word | tuple[Word, ...]]


def _probe():
    """The options of any probe, by its `type`."""
    options = [Annotated[probe.options, Tag(name)] for name, probe in PROBES.items()]
    # a callable, so that errors say `type` whatever the classes are called
    return Annotated[Union[tuple(options)], Discriminator(_type)]  # noqa: UP007


def _type(value: Any) -> str | None:
    name = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return name if isinstance(name, str) and name in PROBES else None


class Measurement(Section):
    """One number of each cell: a metric of the run, a statistic of its diagnostics, or what a probe measured."""

    metric: Name | None = Field(None, description="a value of the test (test.accuracy) or a column of metrics.csv")
    statistic: Name | None = Field(None, description="KIND.FIELD of statistics.jsonl, such as drift.mean_shift")
    probe: Name | None = Field(None, description="PROBE.FIELD of one of the study's probes")
    epoch: PositiveInt | None = Field(None, description="of a column of metrics.csv; null: the last")
    layers: tuple[Name, ...] | None = Field(None, description="names or patterns of layers; null: all")
    over_layers: Literal["mean", "median", "max", "min", "first", "last"] = Field(
        "mean", description="how several layers become one number"
    )
    over_steps: Literal["mean", "max", "min", "first", "last"] = Field(
        "last", description="how several steps become one number"
    )
    where: dict[str, str | int | float | bool] = Field({}, description="only records whose fields are as here")
    transform: Literal[TRANSFORMS] = Field("none", description="what is done with the number; complement: 1 - x")
    unit: str = Field("", description="of the number, behind the transform")
    title: str = Field("", description='what tables call it; "": its name')

    @property
    def kind(self) -> str:
        """metric, statistic or probe."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @model_validator(mode="after")
    def _one_kind(self) -> Measurement:
        said = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(said) != 1:
            raise ValueError(
                f"has exactly one of metric, statistic, probe. Received: {' and '.join(said) or 'none'}."
                f" {'Keep one' if said else 'Add one'}."
            )
        return self


class Claim(Section):
    """What is expected of a measurement, said before it is measured."""

    statement: Name = Field(description="the claim in one sentence")
    measurement: Name = Field(description="a name of `measurements`")
    compare: Selection = Field(description="a level of each factor; factors left out are averaged, seed by seed")
    to: Finite | Target = Field(
        description="a number; {measurement: NAME} of the same cells; or cells like compare, where one factor may list"
        " several levels: the best of them"
    )
    choose: Literal["lowest", "highest"] | None = Field(None, description="which mean is the best of the listed levels")
    choose_on: tuple[NonNegativeInt, ...] = Field((), description="the seeds that choose it; the other seeds judge")
    expect: Literal["greater", "less", "equal", "not_greater", "not_less"] = Field(
        description="what compare is beside to; not_greater: less, or greater by no more than smallest_effect"
    )
    smallest_effect: PositiveFloat = Field(
        description="the smallest difference that matters, in the measurement's unit; the margin of equal and not_..."
    )

    @property
    def other_measurement(self) -> str | None:
        """The measurement of the same cells that the claim compares with, if it does."""
        return self.to.get("measurement") if isinstance(self.to, dict) else None

    @property
    def choice(self) -> str | None:
        """The factor of which the best level is chosen."""
        several = [factor for factor, level in self.to.items() if isinstance(level, tuple)] if self.selects else []
        return several[0] if several else None

    @property
    def selects(self) -> bool:
        """Whether `to` selects cells."""
        return isinstance(self.to, dict) and "measurement" not in self.to

    def others(self) -> list[Selection]:
        """The selections that `to` names: one, several to choose from, or none."""
        if not self.selects:
            return []
        factor = self.choice
        return [self.to] if factor is None else [{**self.to, factor: level} for level in self.to[factor]]


class Study(Section):
    """An experiment that can fail."""

    title: Name = Field(description="one or two words for tables")
    claim: Name = Field(description="what people say, in a sentence or two")
    source: Name = Field(description="who says it")
    recipe: Name = Field(description="a shipped recipe, NAME@variant, or a .yaml file relative to this one")
    overrides: dict[str, Any] = Field({}, description="sections, merged over the recipe of every cell")
    grid: dict[Word, Levels] = Field({}, description="factors; each level has sections, or {recipe: NAME} beside them")
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = Field(description="of every cell; they pair")
    probes: dict[Word, _probe()] = Field({}, description="measured on the trained model of each cell")
    measurements: Annotated[dict[Word, Measurement], Field(min_length=1)] = Field(description="numbers of each cell")
    claims: Annotated[dict[Word, Claim], Field(min_length=1)] = Field(description="the first one is the study's")
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(0.95, description="of intervals, over all claims")
    seconds_per_cell: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="measured on one thread; --dry-run estimates the cost with it until cells are finished"
    )
