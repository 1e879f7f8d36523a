"""The controller's part of a checkpoint: where every problem and every rollout is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from controller.batches import BatchSource
from controller.ledger import Ledger
from controller.rollouts import RolloutLoop
from errors import UserError
from rewards import ProgramReward

FORMAT = 2


def dump_state(rollouts: RolloutLoop, batches: BatchSource) -> str:
    """The current state as JSON. It is written together with the learner's own state, or not at all."""
    state = {
        "format": FORMAT,
        "ledger": rollouts.ledger.to_json(),
        "order": rollouts.sampler.to_json(),
        "greedy": {task_id: asdict(reward) for task_id, reward in rollouts.greedy.items()},
        "batches": [[item.meta.rollout_id for item in batch] for batch in batches.taken],
    }
    return json.dumps(state)


def load_state(checkpoint: Path, rollouts: RolloutLoop, batches: BatchSource) -> list[list[str]]:
    """Restore what `dump_state` wrote; returns the ids of the rollouts in each batch that was taken.

    Raises UserError if the checkpoint has no state, or one of other problems.
    """
    file = checkpoint / "trainer_state" / "run_state.json"
    if not file.is_file():
        raise UserError(f"{checkpoint} is not a checkpoint of a run: it has no trainer_state/run_state.json")
    state = json.loads(file.read_text())
    if state["format"] != FORMAT:
        raise UserError(f"{file}: expected format {FORMAT}; another version of this program wrote it")
    rollouts.ledger = batches.ledger = Ledger.from_json(state["ledger"])
    rollouts.sampler.restore(state["order"])
    rollouts.greedy = {task_id: ProgramReward(**rewards) for task_id, rewards in state["greedy"].items()}
    taken: list[list[str]] = state["batches"]
    return taken
