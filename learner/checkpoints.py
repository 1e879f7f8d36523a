"""The `trainer_state` of a checkpoint: whether a run may continue it, and the parts besides the model's weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from rltf.errors import UserError
from rltf.files import read_json
from rltf.learner.optim import blank_state
from rltf.settings import OptimizerName
from rltf.transport.sharded import assign

CHECKPOINT_FORMAT = 5


def read_state(
    path: Path, *, seed: int, references: str, critic: str | None, optimizer: OptimizerName, allow_changes: bool
) -> dict[str, Any]:
    """The state in the checkpoint `path`, for a run with this seed and these fingerprints.

    `allow_changes` is about the references. Raises UserError if `path` is not a checkpoint of this program, or belongs
    to another run.
    """
    file = path / "trainer_state" / "state.json"
    if not file.is_file():
        raise UserError(f"{path}: not a checkpoint (it has no trainer_state/state.json)")
    state = read_json(file)
    if (found := state.get("format")) != CHECKPOINT_FORMAT:
        raise UserError(f"{path}: its format is {found}; this program reads format {CHECKPOINT_FORMAT}")
    if state["seed"] != seed:
        raise UserError(f"{path}: written with run.seed {state['seed']}, not {seed}")
    if state["references"] != references and not allow_changes:
        raise UserError(
            f"{path}: written with other reference programs; use the problems.train, problems.supervised and "
            "model.max_model_len of the run that wrote it, or set problems.allow_changes"
        )
    theirs = state.get("critic")
    if theirs != critic:
        written = "with another critic" if theirs and critic else "with a critic" if theirs else "without a critic"
        raise UserError(f"{path}: written {written}; use the learner.advantage.critic of the run that wrote it")
    if (name := state.get("optimizer", OptimizerName.ADAMW)) != optimizer:  # once there was only this one
        raise UserError(f"{path}: written with learner.optim.name {name}, not {optimizer}")
    return state


def load_value_head(head: torch.nn.Linear | None, file: Path) -> None:
    """Load what was saved of the value head. Raises UserError if only one of checkpoint and run has a value head."""
    if file.is_file() != (head is not None):
        written = "without" if head is not None else "with"
        raise UserError(
            f"{file.parents[1]}: written {written} a value head; use the algorithm of the run that wrote it"
        )
    if head is not None:
        saved = torch.load(file, map_location=head.weight.device, weights_only=True)
        for name, parameter in head.named_parameters():
            assign(parameter, saved[name])


def save_optimizer(optimizer: torch.optim.Optimizer, trained: Mapping[str, torch.nn.Parameter], folder: Path) -> None:
    """Write the state of each parameter. Each rank writes its part of a sharded one."""
    state = {f"{name}/{key}": value for name, p in trained.items() for key, value in optimizer.state[p].items()}
    with _maybe_alone() as is_alone:
        save(state, checkpoint_id=folder, no_dist=is_alone)


def load_optimizer(optimizer: torch.optim.Optimizer, trained: Mapping[str, torch.nn.Parameter], folder: Path) -> None:
    """Load what `save_optimizer` wrote, with as many ranks as now share the parameters."""
    saved = FileSystemReader(folder).read_metadata().state_dict_metadata
    optimizer.state.clear()
    found: dict[str, torch.Tensor] = {}
    for name, parameter in trained.items():
        blank = blank_state(optimizer, parameter)
        present = {key: value for key, value in blank.items() if f"{name}/{key}" in saved}
        if present:
            optimizer.state[parameter] = present
            found |= {f"{name}/{key}": value for key, value in present.items()}
    with _maybe_alone() as is_alone:
        load(found, checkpoint_id=folder, no_dist=is_alone)


@contextmanager
def _maybe_alone() -> Iterator[bool]:
    """Whether this process has no group, without torch's warning about that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield not dist.is_initialized()
