"""The `trainer_state` of a checkpoint: whether a run may continue it, and the parts besides the model's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rltf.errors import UserError
from rltf.files import read_json

CHECKPOINT_FORMAT = 4


def read_state(path: Path, *, seed: int, references: str, critic: str | None, allow_changes: bool) -> dict[str, Any]:
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
    return state


def load_value_head(head: torch.nn.Linear | None, file: Path) -> None:
    """Load what was saved of the value head. Raises UserError if only one of checkpoint and run has a value head."""
    if file.is_file() != (head is not None):
        written = "without" if head is not None else "with"
        raise UserError(
            f"{file.parents[1]}: written {written} a value head; use the algorithm of the run that wrote it"
        )
    if head is not None:
        head.load_state_dict(torch.load(file, map_location=head.weight.device, weights_only=True))
