"""What all sections of the settings share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

GIB = 1024**3
MIB = 1024**2

Cores = Annotated[float, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """What all sections share: unknown fields are errors, and values are validated and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def as_word(value: object) -> object:
    """YAML reads `on` and `off` as booleans."""
    words = {True: "on", False: "off", "true": "on", "false": "off"}
    return words.get(value, value) if isinstance(value, bool | str) else value
