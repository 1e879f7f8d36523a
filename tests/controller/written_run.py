"""Run folders as the driver and the learner write them, without generators and sandboxes."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rltf.controller.batches import BatchSource
from rltf.controller.events import Ungraded
from rltf.controller.grading import UngradedRollout
from rltf.controller.ledger import DropReason, Ledger
from rltf.controller.problem_sampler import ProblemSampler
from rltf.controller.rollouts import RolloutLoop
from rltf.controller.samples import GradedSample, ShownTurn
from rltf.controller.state import dump_state
from rltf.files import set_aside
from rltf.job import OpenRun, opened
from rltf.learner.buffer import RolloutMeta
from rltf.learner.data import Experiences, save_rollouts
from rltf.learner.learner import Learner
from rltf.learner.ranks import Ranks
from rltf.learner.replay import Recorder
from rltf.sandbox.verdict import Outcome
from rltf.settings import Settings
from rltf.settings_sources import load_settings
from rltf.transport.folders import HomeFolders
from tests.learner.samples import make_experiences, make_references, make_rollout
from tests.reporting.runs import PROBLEMS, evaluated, failed_sample, passed_sample, step_event

FUNCTION = "tests.rewards.functions:half"
STEPS = (2, 4)
NUM_STEPS = 4
ROW = {"statement": "Double a number.", "tests": [{"stdin": "1", "expected": "2"}]}


class Here(HomeFolders):
    """The file system of this machine, without Ray."""

    @property
    def is_here(self) -> bool:
        return True


@dataclass(slots=True)
class _Books:
    """The driver's part of a run."""

    settings: Settings
    run: OpenRun
    loop: RolloutLoop
    batches: BatchSource
    buffered: dict[str, Experiences]

    @classmethod
    def of(cls, settings: Settings, run: OpenRun) -> _Books:
        sampler = ProblemSampler([problem.task_id for problem in run.problems.train], settings.run.seed)
        unused: Any = None
        loop = RolloutLoop(settings, Ledger(), sampler, unused, unused, lambda rollout: None, lambda rollout: None)
        return cls(settings, run, loop, BatchSource(settings, loop.ledger, unused, loop.allow_at_least), {})

    def issue(self) -> str:
        task_id = self.loop.sampler.next()
        position = self.loop.sampler.position
        self.loop.ledger.issue(f"r{position}", position, task_id, 4)
        return f"r{position}"

    def buffer(self) -> str:
        rollout_id = self.issue()
        self.buffered[rollout_id] = make_rollout(np.random.default_rng(0), rollout_id)
        self.loop.ledger.buffer(rollout_id, RolloutMeta.of(rollout_id, self.buffered[rollout_id]), "epoch")
        return rollout_id

    def update(self, step: int) -> None:
        """Note an update, with a rollout of each kind."""
        for rollout_id in [self.buffer() for _ in range(4)]:
            self.loop.ledger.take(rollout_id)
            self.loop.ledger.train(rollout_id, step)
            del self.buffered[rollout_id]
        self.loop.ledger.drop(self.issue(), DropReason.LOST)
        self.buffer()
        self.issue()
        self.run.folder.emit(step_event(step))

    def save(self, trainer_state: Path) -> None:
        """Write the driver's part of a checkpoint."""
        state = dump_state(self.loop, self.batches, self.run.problems.fingerprints)
        (trainer_state / "run_state.json").write_text(state)
        save_rollouts(trainer_state / "rollouts.npz", list(self.buffered.items()))

    def show(self, step: int) -> None:
        """Write what people look at after an update."""
        over_turns = self.settings.generator.max_turns > 1
        by_turn = ({"all": 0.4}, {"all": 0.5}) if over_turns else ()
        sets = dict.fromkeys(self.settings.problems.evaluation_sets, 0.5)
        self.run.folder.emit(replace(evaluated(step, 0.5, **sets), by_turn=by_turn))
        self.run.folder.samples(step, [dialogue()] if over_turns else [failed_sample()])
        self.run.folder.emit(Ungraded(UngradedRollout("double/1", "", {f"r{step}/0": "print(1)"})))


def dialogue() -> GradedSample:
    """A sample whose second turn passes."""
    first, second = failed_sample(), passed_sample()
    turns = (
        ShownTurn(first.completion, first.program, Outcome.FAILED, "It printed 3.", first.tokens),
        ShownTurn(second.completion, second.program, Outcome.PASSED, None, second.tokens),
    )
    return replace(second, turns=turns)


def write_run(ranks: Ranks, arguments: list[str], model: Path) -> None:
    """Write a run of four updates with checkpoints after 2 and 4. All ranks call this. `model` is what it starts from.

    The folder has everything that a run leaves, also what it has in rare cases only.
    """
    settings, options = load_settings(arguments, environ={})
    if not ranks.leads:
        learner = _learner(ranks, model, settings)
        for step in range(1, NUM_STEPS + 1):
            learner.update(None)
            if step in STEPS:
                learner.save_checkpoint(settings.run.folder / "checkpoints")
        return
    with opened(settings, options) as run, run.folder as folder:
        folder._problems = PROBLEMS
        books, learner = _Books.of(settings, run), _learner(ranks, model, settings)
        recorder = Recorder(folder.path / "replay", settings.run.log_batches, Here("", None))
        for step in range(1, NUM_STEPS + 1):
            prepared = learner.prepare(make_experiences(step))
            with recorder.recording(learner, prepared) if settings.run.log_batches else contextlib.nullcontext():
                learner.update(prepared)
            books.update(step)
            if step in STEPS:
                learner.save_checkpoint(folder.path / "checkpoints", books.save)
                books.show(step)
        (folder.path / "launch.log").write_text("2026-01-01 00:00:00,000 INFO launch: step 4\n")
        aside = folder.path / "checkpoints" / "step-3"
        shutil.copytree(folder.path / "checkpoints" / "step-2", aside)
        set_aside(aside)
    # What a killed driver leaves.
    (folder.path / ".lock").write_text(json.dumps({"host": "there", "pid": 1, "since": "2026-01-01 00:00:00 UTC"}))


def write_train(runs: Path, row: dict[str, Any]) -> str:
    """Six training problems in `runs/train.jsonl`; returns their spec."""
    (runs / "train.jsonl").write_text("".join(json.dumps(row | {"task_id": str(i)}) + "\n" for i in range(6)))
    return f"jsonl:{runs / 'train.jsonl'}"


def kind_of(name: str) -> str:
    """The name of a file of a run folder, without numbers and hosts."""
    return re.sub(r"tfevents.*", "tfevents", re.sub(r"\d+", "N", name))


def kinds(folder: Path) -> set[str]:
    """The kinds of files in a run folder."""
    return {kind_of(str(path.relative_to(folder))) for path in folder.rglob("*") if path.is_file()}


def _learner(ranks: Ranks, model: Path, settings: Settings) -> Learner:
    learner = Learner(model, settings, ranks=ranks)
    learner.set_references(make_references(0))
    return learner
