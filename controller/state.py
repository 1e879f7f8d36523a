"""The controller's part of a checkpoint: where every problem and every rollout is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from controller.batches import BatchSource
from controller.ledger import Ledger
from controller.rollouts import RolloutLoop
from errors import UserError
from rewards import ProgramReward

FORMAT = 1


@dataclass(frozen=True, slots=True)
class RunState:
    """Written together with the learner's own state, or not at all. The rollouts themselves are in `rollouts_of`."""

    ledger: dict[str, Any]
    order: dict[str, Any]
    greedy: dict[str, dict[str, float]]
    batches: list[list[str]]

    @classmethod
    def of(cls, rollouts: RolloutLoop, batches: BatchSource) -> RunState:
        """The current state."""
        return cls(
            ledger=rollouts.ledger.to_json(),
            order=rollouts.sampler.to_json(),
            greedy={task_id: asdict(reward) for task_id, reward in rollouts.greedy.items()},
            batches=[[item.meta.rollout_id for item in batch] for batch in batches.taken],
        )

    def dumps(self) -> str:
        """The text that `load` reads."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, checkpoint: Path) -> RunState:
        """The state in a checkpoint. Raises UserError if it has none."""
        file = checkpoint / "trainer_state" / "run_state.json"
        if not file.is_file():
            raise UserError(f"{checkpoint} is not a checkpoint of a run: it has no trainer_state/run_state.json")
        stored = json.loads(file.read_text())
        if stored.pop("format") != FORMAT:
            raise UserError(f"{file}: expected format {FORMAT}; another version of this program wrote it")
        return cls(**stored)

    def restored_ledger(self) -> Ledger:
        """See `Ledger.from_json`."""
        return Ledger.from_json(self.ledger)

    def restored_greedy(self) -> dict[str, ProgramReward]:
        """What the greedy baselines know about each problem."""
        return {task_id: ProgramReward(**rewards) for task_id, rewards in self.greedy.items()}


def rollouts_of(checkpoint: Path) -> Path:
    """The file with the rollouts that waited for their update."""
    return checkpoint / "trainer_state" / "rollouts.npz"
