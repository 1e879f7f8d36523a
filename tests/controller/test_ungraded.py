"""Programs that no grader survives are grader errors, are kept for people, and end the run only if there are many."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ObjectLostError

from rltf.actors.messages import RolloutHandle, RolloutRequest
from rltf.controller.controller import Controller
from rltf.controller.events import Evaluated, Event, Said, Ungraded
from rltf.controller.rollouts import MAX_LOST_IN_A_ROW, MAX_SILENT_IN_A_ROW, GraderFailedError
from rltf.errors import UserError
from rltf.files import read_rows
from rltf.problems.types import Problem, StdinTest
from rltf.reporting.run_folder import RunFolder
from rltf.sandbox.pool import CallLostError
from rltf.sandbox.verdict import Outcome
from rltf.settings import Settings
from rltf.supervise import GaveUpError
from rltf.transport.rollouts import Completion, FinishReason, Rollout
from tests.controller.virtual_cluster import run_virtually
from tests.reporting.exporting_run import graded_rollout

KILLER = "p0"
PROBLEMS = [Problem(f"p{number}", "own", "", (StdinTest("", ""),)) for number in range(5)]


class Generators:
    """Sample programs at once."""

    async def sample(self, request: RolloutRequest) -> RolloutHandle:
        ids, logprobs, spans = np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros((1, 2), np.int32)
        samples = tuple(
            Completion(
                request.task_id, f"{request.rollout_id}/{index}", ids, ids, logprobs, spans, (), FinishReason.STOP,
                f"print({index})", 0, 8,
            )
            for index in range(request.num_samples)
        )  # fmt: skip
        ref: Any = asyncio.get_running_loop().create_future()
        ref.set_result(Rollout(request.rollout_id, request.task_id, samples, None))
        return RolloutHandle([ref], request.rollout_id)


class Graders:
    """Die of the programs for KILLER, or of all programs, or lose the programs. All others pass."""

    def __init__(self, *, die_of_all: bool = False, lose_all: bool = False) -> None:
        self.die_of_all, self.lose_all = die_of_all, lose_all

    async def submit(self, method: str, *arguments: Any, num_items: int = 1) -> Any:
        rollout = await arguments[0][0]
        if self.lose_all:
            raise ObjectLostError("00", None, "")
        if self.die_of_all or rollout.task_id == KILLER:
            raise CallLostError("3 sandbox workers died while they ran it")
        return [[Outcome.PASSED]] * num_items


def start(folder: Path, graders: Graders, events: list[Event]) -> Controller:
    """A controller whose generators have the learner's weights already."""
    settings = Settings(
        run={"dir": folder},
        generator={"num_generations": 8},
        evaluation={"num_samples": 2, "ks": (1,)},
    )
    unused: Any = None
    generators: Any = Generators()
    controller = Controller(settings, PROBLEMS, PROBLEMS, generators, graders, unused, unused, events.append)
    controller._published_at = 0
    return controller


def run_rollouts(controller: Controller) -> pytest.ExceptionInfo[ExceptionGroup[Exception]]:
    """Sample and grade until the run gives up; returns with what."""
    controller.rollouts.allow(8)

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(controller.rollouts.run())

    with pytest.raises(ExceptionGroup) as raised:
        run_virtually(scenario())
    return raised


def test_an_evaluation_counts_them_as_errors_and_their_programs_are_kept(tmp_path: Path) -> None:
    events: list[Event] = []
    run_virtually(start(tmp_path, Graders(), events).evaluate())
    (evaluated,) = [event for event in events if isinstance(event, Evaluated)]
    assert evaluated.result.outcomes == {Outcome.PASSED: 8, Outcome.INFRASTRUCTURE_ERROR: 2}
    assert evaluated.result.pass_at[1]["all"] == 1.0
    (ungraded,) = [event for event in events if isinstance(event, Ungraded)]
    with RunFolder(tmp_path, Settings(), {}) as folder:
        folder.emit(ungraded)
    kept = [{"task_id": KILLER, "completion_id": f"e0/p0/{index}", "code": f"print({index})"} for index in range(2)]
    assert read_rows(tmp_path / "ungraded.jsonl") == kept


def test_a_set_without_graded_programs_is_left_out_of_the_evaluation(tmp_path: Path) -> None:
    events: list[Event] = []
    controller = start(tmp_path, Graders(), events)
    controller.evaluation_sets = {"killer": [KILLER], "rest": ["p1", "p2", "p3", "p4"]}
    run_virtually(controller.evaluate())
    (evaluated,) = [event for event in events if isinstance(event, Evaluated)]
    assert evaluated.result.shown == ("rest",)
    said = [event.text for event in events if isinstance(event, Said)]
    assert "step 0: no pass@k on killer, because the sandbox failed on its programs" in said


def test_an_evaluation_in_which_no_program_can_be_graded_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(GraderFailedError, match="failed on 10 programs, so pass@1 needs 1 graded programs"):
        run_virtually(start(tmp_path, Graders(die_of_all=True), []).evaluate())


def test_training_drops_them_and_ends_if_there_are_many(tmp_path: Path) -> None:
    events: list[Event] = []
    controller = start(tmp_path, Graders(die_of_all=True), events)
    raised = run_rollouts(controller)
    assert raised.group_contains(GraderFailedError, match="the sandbox failed on 200 of the last 200 programs")
    counts = controller.ledger.counts()
    assert counts.dropped["ungraded"] == 8 * sum(isinstance(event, Ungraded) for event in events) == 200
    assert counts.balance == 0


def test_rollouts_that_are_lost_again_and_again_end_the_run(tmp_path: Path) -> None:
    controller = start(tmp_path, Graders(lose_all=True), [])
    with pytest.raises(GaveUpError, match=f"{MAX_LOST_IN_A_ROW} rollouts of p. in a row died"):
        run_virtually(controller.evaluate())
    raised = run_rollouts(controller)
    assert raised.group_contains(GaveUpError, match="rollouts of p. in a row died")


class FilteringGraders(Graders):
    """Grade rollouts of which nothing is left: `num_overlong` samples were cut off, and the others teach nothing."""

    def __init__(self, num_overlong: int) -> None:
        super().__init__()
        self.num_overlong, self.num_graded = num_overlong, 0

    async def submit(self, method: str, *arguments: Any, num_items: int = 1) -> Any:
        rollout = await arguments[0][0]
        self.num_graded += 1
        about = {"rollout_id": rollout.rollout_id, "task_id": rollout.task_id, "num_samples": 8, "num_faults": 0}
        return replace(graded_rollout(), **about, num_overlong=self.num_overlong, has_signal=False, added=None)


@pytest.mark.parametrize(
    ("num_overlong", "reason", "said"),
    [
        (
            0,
            "silent",
            r"rewards\.filter_groups dropped 500 rollouts in a row, because all programs of each earned the s",
        ),
        (3, "silent", r"rewards\.filter_groups dropped 500 rollouts in a row"),
        (
            8,
            "overlong",
            r"rewards\.overlong_filter dropped 500 rollouts in a row, because all their samples were cut of",
        ),
    ],
)
def test_a_run_that_drops_every_rollout_ends_and_says_why(
    tmp_path: Path, num_overlong: int, reason: str, said: str
) -> None:
    graders = FilteringGraders(num_overlong)
    controller = start(tmp_path, graders, [])
    raised = run_rollouts(controller)
    assert graders.num_graded == MAX_SILENT_IN_A_ROW
    assert raised.group_contains(UserError, match=said)
    assert controller.ledger.counts().dropped == {reason: 8 * MAX_SILENT_IN_A_ROW}
