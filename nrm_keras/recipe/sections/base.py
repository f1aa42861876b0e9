"""What the sections of a recipe are made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

# Seeds, sizes and counts end up in 32-bit integers of TensorFlow and NumPy.
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values never change, numbers are not guessed from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Custom(Section):
    """A section whose type was added with `@nrm_keras.register`; its keys are the builder's business."""

    model_config = ConfigDict(extra="allow")
    type: Name = Field(description="the registered name")

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `type`; lists are tuples."""
        return dict(self.model_extra or {})
