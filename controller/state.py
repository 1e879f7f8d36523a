"""The controller's part of a checkpoint: where every problem and every rollout is, and what the run depends on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from rltf.controller.batches import BatchSource
from rltf.controller.ledger import DropReason, Ledger, LedgerError, Live
from rltf.controller.rollouts import RolloutLoop
from rltf.errors import UserError
from rltf.files import read_json
from rltf.plugins import source_digest
from rltf.problems.fingerprints import ShortFingerprints
from rltf.rewards import ProgramReward
from rltf.settings import Settings

FORMAT = 5


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _StoredLedger(_Stored):
    num_issued: NonNegativeInt
    num_trained: NonNegativeInt
    dropped: dict[DropReason, NonNegativeInt]
    can_be_undone: list[tuple[NonNegativeInt, NonNegativeInt]]
    live: list[Live]


class _StoredOrder(_Stored):
    problems: str
    position: NonNegativeInt
    recent: dict[str, list[tuple[NonNegativeInt, NonNegativeInt]]]


class _StoredState(_Stored):
    format: int
    ledger: _StoredLedger
    order: _StoredOrder
    greedy: dict[str, ProgramReward]
    batches: list[list[str]]
    problems: dict[str, ShortFingerprints]
    settings: dict[str, Any]
    sources: dict[str, str]


@dataclass(frozen=True, slots=True)
class RunState:
    """What `dump_state` wrote.

    `batches` has the rollout ids of each batch that was taken. `problems` has the fingerprints of each set of problems,
    `settings` what `Settings.model_dump` gave, and `sources` what `source_digests` gave, all at the time of the
    checkpoint.
    """

    ledger: Ledger
    order: dict[str, Any]
    greedy: dict[str, ProgramReward]
    batches: list[list[str]]
    problems: dict[str, ShortFingerprints]
    settings: dict[str, Any]
    sources: dict[str, str]


def source_digests(settings: Settings) -> dict[str, str]:
    """The digest of the source file of each function of the user, by the setting that names it."""
    return {setting: source_digest(name) for setting, name in settings.functions.items()}


def dump_state(rollouts: RolloutLoop, batches: BatchSource, problems: dict[str, ShortFingerprints]) -> str:
    """The current state as JSON. It is written together with the learner's own state, or not at all."""
    state = {
        "format": FORMAT,
        "ledger": rollouts.ledger.to_json(),
        "order": rollouts.sampler.to_json(),
        "greedy": {task_id: asdict(reward) for task_id, reward in rollouts.greedy.items()},
        "batches": [[item.meta.rollout_id for item in batch] for batch in batches.taken],
        "problems": problems,
        "settings": rollouts.settings.model_dump(mode="json"),
        "sources": source_digests(rollouts.settings),
    }
    return json.dumps(state)


def read_state(checkpoint: Path) -> RunState:
    """Read what `dump_state` wrote. Raises UserError if the checkpoint has no state, or none of this program."""
    file = checkpoint / "trainer_state" / "run_state.json"
    if not file.is_file():
        raise UserError(f"{checkpoint} is not a checkpoint of a run: it has no trainer_state/run_state.json")
    stored = read_json(file)
    if (found := stored.get("format")) != FORMAT:
        raise UserError(f"{file}: expected format {FORMAT}, found {found!r}; another version of this program wrote it")
    try:
        state = _StoredState.model_validate(stored)
        ledger = Ledger.from_json(stored["ledger"])
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{file}: {place}: {error.errors()[0]['msg']}; choose another checkpoint") from None
    except LedgerError as error:
        raise UserError(f"{file}: {error}; choose another checkpoint") from None
    return RunState(ledger, stored["order"], state.greedy, state.batches, state.problems, state.settings, state.sources)
