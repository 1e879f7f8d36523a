"""What all sections of the settings share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

GIB = 1024**3
MIB = 1024**2

Cores = Annotated[float, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """What all sections share: unknown fields are errors, and values are validated and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def one_gpu_at_most(fix: str) -> AfterValidator:
    """A check of the GPUs that are reserved for each actor of a kind. `fix` says how to use more of them."""

    def check(num_gpus: float) -> float:
        if num_gpus > 1:
            raise ValueError(f"{num_gpus:g} GPUs, but one actor uses only one, so the others would sit idle; {fix}")
        return num_gpus

    return AfterValidator(check)


def as_word(value: object) -> object:
    """YAML reads `on` and `off` as booleans."""
    words = {True: "on", False: "off", "true": "on", "false": "off"}
    return words.get(value, value) if isinstance(value, bool | str) else value
