"""Numbers within bounds, as the fields of a training configuration have them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

__all__ = ["AtLeastTwo", "BelowOne", "Count", "NonNegativeFloat", "PositiveFloat", "PositiveInt", "Probability"]

Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
AtLeastTwo = Annotated[int, Field(ge=2)]
Probability = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
