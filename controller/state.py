"""What a checkpoint keeps of the driver: where every problem and every rollout is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from controller.batches import BatchSource
from controller.ledger import Ledger
from controller.rollouts import Sampling
from errors import UserError
from rewards import ProgramReward

FORMAT = 1


@dataclass(frozen=True, slots=True)
class RunState:
    """Stored beside the learner's own state, and written with it or not at all; the rollouts lie in `rollouts`."""

    ledger: dict[str, Any]
    order: dict[str, Any]
    greedy: dict[str, dict[str, float]]
    batches: list[list[str]]

    @classmethod
    def of(cls, sampling: Sampling, supply: BatchSource) -> RunState:
        """The state of this moment."""
        return cls(
            ledger=sampling.ledger.to_json(),
            order=sampling.order.to_json(),
            greedy={task_id: asdict(reward) for task_id, reward in sampling.greedy.items()},
            batches=[[item.meta.rollout_id for item in batch] for batch in supply.taken],
        )

    def dumps(self) -> str:
        """As a text that `load` reads."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, checkpoint: Path) -> RunState:
        """Of a checkpoint. Raises UserError where it has none."""
        file = checkpoint / "trainer_state" / "run_state.json"
        if not file.is_file():
            raise UserError(f"{checkpoint}: no state of a run in it (no trainer_state/run_state.json)")
        stored = json.loads(file.read_text())
        if stored.pop("format") != FORMAT:
            raise UserError(f"{file}: another format than {FORMAT}, which this program reads")
        return cls(**stored)

    def restored_ledger(self) -> Ledger:
        """See `Ledger.from_json`."""
        return Ledger.from_json(self.ledger)

    def restored_greedy(self) -> dict[str, ProgramReward]:
        """What the greedy baselines know of each problem."""
        return {task_id: ProgramReward(**rewards) for task_id, rewards in self.greedy.items()}


def rollouts_of(checkpoint: Path) -> Path:
    """The file with the rollouts that waited for their update."""
    return checkpoint / "trainer_state" / "rollouts.npz"
