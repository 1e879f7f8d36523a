"""Layers and the output layer of a model, compiled by torch for shapes that change from one micro-batch to the next."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from rltf.errors import UserError
from rltf.learner.sharding import layers


def layers_to_compile(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of a model that is not sharded yet. Raises UserError if transformers does not know them."""
    try:
        return layers(model)
    except ValueError as error:
        raise UserError(f"learner.torch_compile: {error}; set it to false") from error


def compile_layers(found: Iterable[torch.nn.Module]) -> None:
    """Compile the forward function of each layer. All layers of one kind share the result.

    Hooks stay outside, which gather a sharded layer, and so does the checkpointing of its activations.
    """
    for layer in found:
        # From the class: that of a copied layer would still be bound to the original.
        layer.forward = torch.compile(type(layer).forward.__get__(layer), dynamic=True)


@contextmanager
def not_compiled(compiled: bool) -> Iterator[None]:
    """Run compiled functions as Python in this context."""
    if not compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def check_compiler(setting: str, device_type: str) -> None:
    """Raise UserError unless this machine has the compiler that torch builds kernels with for `setting`."""
    variable, names = ("CC", ("cc", "gcc", "clang")) if device_type == "cuda" else ("CXX", ("g++", "clang++"))
    if not any(shutil.which(name) for name in (os.environ.get(variable, ""), *names) if name):
        raise UserError(
            f"{setting} needs a C++ compiler, and there is none: install one (apt-get install g++), or name it in the "
            f"environment variable {variable}"
        )
