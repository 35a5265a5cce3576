"""The base of every spec: small, frozen, and deaf to keys it does not know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
PositiveInt = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Column = Annotated[str, Field(min_length=1)]
FilterValue = bool | int | float | str
Organism = Literal["homo_sapiens", "mus_musculus", "other"]


class Spec(BaseModel):
    """A validated piece of the configuration; attribute docstrings become its documentation (``config_docs``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
