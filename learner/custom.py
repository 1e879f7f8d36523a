"""Policy losses and advantage estimators that users bring, by their names in the settings (docs/extend.md)."""

from __future__ import annotations

from typing import Any

import torch

from rltf.errors import UserError
from rltf.plugins import imported_function, raised


def call(name: str, setting: str, *arguments: Any) -> Any:
    """What the function `package.module:name` returns. Raises UserError, which names it, if it raises an exception."""
    function = imported_function(name, setting)
    try:
        return function(*arguments)
    except Exception as error:  # whatever the user's function raises
        raise UserError(f"{setting} {name}: it raised {raised(error)}") from error


def check_column(found: Any, like: torch.Tensor, what: str) -> torch.Tensor:
    """`found`, a tensor with the shape of `like`. Raises UserError for anything else; `what` names it."""
    if not isinstance(found, torch.Tensor):
        raise UserError(f"{what}: expected a tensor, got {type(found).__name__}")
    if found.shape != like.shape:
        raise UserError(f"{what}: expected one number per token, {list(like.shape)}, got {list(found.shape)}")
    return found
