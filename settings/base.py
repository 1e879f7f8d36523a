"""What all sections of the settings share."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rltf.errors import nearest

GIB = 1024**3
MIB = 1024**2

Cores = Annotated[float, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_FUNCTION = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
FunctionName = Annotated[str, Field(pattern=rf"^{_FUNCTION}$")]
"""A function that the user brings, `package.module:name`."""
FUNCTION_FORM = "PACKAGE.MODULE:FUNCTION"


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


def choice_or_function(choices: type[StrEnum]) -> Callable[[object], str]:
    """A validator of values that are one of `choices`, or the name of a function that the user brings."""
    names = [one.value for one in choices]

    def check(value: object) -> str:
        if value in names:
            return choices(value)
        if isinstance(value, str) and re.fullmatch(_FUNCTION, value):
            return value
        raise ValueError(f"{value!r}: expected {', '.join(names)} or {FUNCTION_FORM}{nearest(str(value), names)}")

    return check
