"""What a run tells the rest of the program: one event after each thing that happened, handed to one `emit` function.

A consumer imports this module and nothing else from the controller:

    def emit(event: Event) -> None:
        match event:
            case Step(metrics, grading, ledger): ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rltf.actors.messages import GeneratorStats
from rltf.controller.grading import GradedRollout
from rltf.controller.grading import UngradedRollout as UngradedRollout
from rltf.controller.ledger import LedgerCounts
from rltf.controller.rollouts import GradingCounts
from rltf.controller.samples import GradedSample as GradedSample
from rltf.controller.samples import TokenMark as TokenMark
from rltf.evaluation import EvaluationResult
from rltf.learner.buffer import BufferStats
from rltf.learner.metrics import StepMetrics
from rltf.learner.sft import SftProgress as SftProgress
from rltf.sandbox.pool import PoolStats


@dataclass(frozen=True, slots=True)
class Step:
    """The learner made an update. `grading` counts what was graded since the last one."""

    metrics: StepMetrics
    grading: GradingCounts
    ledger: LedgerCounts


@dataclass(frozen=True, slots=True)
class Graded:
    """A sandbox worker graded the programs of a rollout."""

    rollout: GradedRollout


@dataclass(frozen=True, slots=True)
class Ungraded:
    """No sandbox worker survived the programs of a rollout."""

    rollout: UngradedRollout


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The generators received the weights `version`, `seconds` after the learner began to publish them.

    `shown` holds a few of the programs graded since the last refresh.
    """

    version: int
    shown: tuple[GradedSample, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The held-out problems were evaluated after update `step`. `num_passed` counts passing programs by problem.

    With `generator.max_turns`, `by_turn` has the pass@1 of each group if every dialogue had ended after the first turn,
    after the second, and so on.
    """

    step: int
    result: EvaluationResult
    num_passed: Mapping[str, int]
    by_turn: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Rewound:
    """The updates after `step` are undone and will be made again; `why` says so to people."""

    step: int
    why: str


@dataclass(frozen=True, slots=True)
class Began:
    """The run entered a new stage, and the stage before it is over."""

    stage: str


@dataclass(frozen=True, slots=True)
class Said:
    """A message for the person who watches the run. `style` is a rich style, if the message needs one."""

    text: str
    style: str | None = None


@dataclass(frozen=True, slots=True)
class EvaluationProgress:
    """Another held-out problem was evaluated."""

    num_done: int
    num_problems: int


@dataclass(frozen=True, slots=True)
class Polled:
    """What the actors said about themselves when they were last asked. `buffer` is None if it did not answer."""

    generators: tuple[GeneratorStats, ...]
    num_outstanding: int
    num_replaced_generators: int
    pool: PoolStats
    buffer: BufferStats | None


Event = (
    Step
    | Graded
    | Ungraded
    | Refreshed
    | Evaluated
    | Rewound
    | Began
    | Said
    | SftProgress
    | EvaluationProgress
    | Polled
)
Emit = Callable[[Event], None]
