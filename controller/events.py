"""What a run tells the rest of the program: one event after each thing that happened, handed to one `emit` function.

Whoever listens imports this module and nothing else of the controller:

    def emit(event: Event) -> None:
        match event:
            case Step(metrics, grading, ledger): ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controller.ledger import LedgerCounts
from controller.reports import GradedRollout, GradedSample, TokenMark
from controller.rollouts import GradingCounts
from evaluation import EvaluationResult
from learner.metrics import StepMetrics

__all__ = [
    "Emit",
    "Evaluated",
    "Event",
    "Graded",
    "GradedRollout",
    "GradedSample",
    "GradingCounts",
    "LedgerCounts",
    "Refreshed",
    "Rewound",
    "Step",
    "TokenMark",
]


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
class Refreshed:
    """The generators received the weights `version`, `seconds` after the learner began to publish them.

    `shown` holds a few of the programs graded since the last refresh.
    """

    version: int
    shown: tuple[GradedSample, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The held-out problems were evaluated after update `step`. `num_passed` counts passing programs by problem."""

    step: int
    result: EvaluationResult
    num_passed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rewound:
    """The updates after `step` are undone and will be made again; `why` says so to people."""

    step: int
    why: str


Event = Step | Graded | Refreshed | Evaluated | Rewound
Emit = Callable[[Event], None]
