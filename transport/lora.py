"""Low-rank adapters (LoRA, Hu et al. 2021) in a model: trained by the learner, merged into the weights that sample.

An adapted matrix W computes as W + (alpha / rank) * B A, and B starts at zero. The adapters are peft's layers inside
the Hugging Face model, which is otherwise unchanged. `merged` returns its weights as if it had no adapters. Generators
receive either these or only the adapters. Then they merge them into a copy of the base model, with the same arithmetic:
the same numbers for a fraction of the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rltf.settings import LoraSettings
from rltf.transport.model_folder import load_model
from rltf.transport.sharded import assign

_ADAPTER = "default"
_PART = f".{_ADAPTER}."  # in the names of adapter parameters: `...q_proj.lora_A.default.weight`
_BASE = ".base_layer."
_CONFIG_FILE, _WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def attach(model: Any, settings: LoraSettings) -> None:
    """Put adapters into `model` and freeze everything else. They are float32, and always the same for the same model.

    Raises ValueError if `target_modules` names no layer of the model, or one that cannot have an adapter.
    """
    # Imported only when needed: it takes a second or more.
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=list(settings.target_modules) or "all-linear",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inject_adapter_in_model(config, model, _ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_adapter(name))
        if _is_adapter(name):
            parameter.data = parameter.data.float()


@torch.no_grad()
def merged(model: Any, named: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """`named` parameters of `model`, named as if it had no adapters, with the adapters added in float32."""
    for name, tensor in named:
        layer, found, rest = name.partition(_BASE)
        if _is_adapter(name):
            continue
        if found and rest == "weight":
            tensor = tensor.float() + model.get_submodule(layer).get_delta_weight(_ADAPTER)
        yield f"{layer}.{rest}" if found else name, tensor


def adapters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The adapters' parameters, named as in peft's files, but without the prefix `base_model.model.`."""
    for name, parameter in model.named_parameters():
        if _is_adapter(name):
            yield name.replace(_PART, "."), parameter.detach()


def set_adapters(model: Any, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Give the adapters of `model` these values. Raises ValueError if layers or shapes differ."""
    own = dict(adapters(model))
    given = dict(named_tensors)
    if own.keys() != given.keys():
        raise ValueError(f"adapters belong to other layers: {', '.join(sorted(own.keys() ^ given.keys())[:3])} ...")
    for name, tensor in given.items():
        if own[name].shape != tensor.shape:
            raise ValueError(f"adapter {name} has shape {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
        assign(own[name], tensor)


def save_adapters(model: Any, named: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
    """Write `named` adapters of `model` in the format that `peft.PeftModel.from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    model.peft_config[_ADAPTER].save_pretrained(folder)
    tensors = {f"base_model.model.{name}": tensor.cpu().contiguous() for name, tensor in named}
    save_file(tensors, folder / _WEIGHTS_FILE)


def load_adapters(model: Any, folder: Path) -> None:
    """Load what `save_adapters` wrote. Raises ValueError if shapes or scale differ."""
    stored, own = json.loads((folder / _CONFIG_FILE).read_text()), model.peft_config[_ADAPTER]
    if (stored["r"], stored["lora_alpha"]) != (own.r, own.lora_alpha):
        raise ValueError(
            f"adapters of rank {stored['r']} and alpha {stored['lora_alpha']}, not {own.r} and {own.lora_alpha}"
        )
    tensors = load_file(folder / _WEIGHTS_FILE)
    set_adapters(model, ((name.removeprefix("base_model.model."), tensor) for name, tensor in tensors.items()))


class AdapterMerger:
    """A copy of the base model next to an engine, for adapters that arrive without it."""

    def __init__(self, model: Path, settings: LoraSettings) -> None:
        """Load `model`, a Hugging Face folder, into host memory, in the type its weights are stored in."""
        self._model = load_model(model, "auto")
        attach(self._model, settings)

    def merge(self, named_adapters: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """All parameters of the model with these adapters merged, one at a time."""
        set_adapters(self._model, named_adapters)
        return merged(self._model, self._model.named_parameters())


def _is_adapter(name: str) -> bool:
    return _PART in name and ".lora_" in name
