"""The problems of a run: what RL trains on, what carries reference programs, what is held out."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from errors import UserError
from problems import Problem, describe_rejected, load
from problems.leakage import find_leaks
from problems.spec import Refusal
from sandbox.grading import Graders, validate_references
from sandbox.judge import reason_to_refuse
from sandbox.verdict import Isolation
from settings import ProblemsSettings, SandboxSettings


@dataclass(frozen=True, slots=True)
class ProblemSets:
    """`train` is sampled from, `supervised` has the reference programs, `held_out` is only evaluated on."""

    train: tuple[Problem, ...]
    supervised: tuple[Problem, ...]
    held_out: tuple[Problem, ...]
    warnings: tuple[str, ...]

    @property
    def by_id(self) -> dict[str, Problem]:
        """Every problem by its task id."""
        return {problem.task_id: problem for problem in (*self.train, *self.supervised, *self.held_out)}

    @property
    def all_training(self) -> tuple[Problem, ...]:
        """What the policy may see, each problem once."""
        return tuple({problem.task_id: problem for problem in (*self.supervised, *self.train)}.values())

    def without(self, task_ids: Collection[str]) -> ProblemSets:
        """The sets without these problems; reference programs stay, the learner measures those itself.

        Raises:
            UserError: that leaves nothing to train on.
        """
        train = tuple(problem for problem in self.train if problem.task_id not in task_ids)
        if not train:
            raise UserError(
                f"the prompts of all {len(self.train)} training problems fill the model's context: raise "
                "model.max_length, or use a model with a longer one"
            )
        held_out = tuple(problem for problem in self.held_out if problem.task_id not in task_ids)
        return ProblemSets(train, self.supervised, held_out, self.warnings)


def load_problem_sets(settings: ProblemsSettings, limits: SandboxSettings | None = None) -> ProblemSets:
    """Load what the SPECs name. Rows that cannot be used and leaks into the held-out problems become warnings.

    Rows that could not be graded within `limits` (by default: the usual ones) cannot be used.

    Benchmarks number each split anew (APPS), so a held-out problem whose id a training problem has is `held-out/ID`.

    Raises:
        UserError: a SPEC with nothing usable, or a task id in two benchmarks.
    """
    warnings: list[str] = []
    refuse = reason_to_refuse(limits or SandboxSettings())
    train = _load(settings.train, warnings, refuse)
    supervised = _load(settings.supervised, warnings, refuse) if settings.supervised else train
    trained = {problem.task_id for problem in (*train, *supervised)}
    held_out = tuple(
        replace(problem, task_id=f"held-out/{problem.task_id}") if problem.task_id in trained else problem
        for problem in _load(settings.evaluation, warnings, refuse)
    )
    leaks = find_leaks({problem.task_id: problem for problem in (*train, *supervised)}.values(), held_out)
    if leaks:
        warnings.append(f"{len(leaks)} held-out problems are much like a training problem; the first: {leaks[0]}")
    return ProblemSets(
        train=train,
        supervised=tuple(problem for problem in supervised if problem.references),
        held_out=held_out,
        warnings=tuple(warnings),
    )


def without_failing_references(sets: ProblemSets, settings: SandboxSettings, cache: Path) -> ProblemSets:
    """The sets without the reference programs that fail their problem's own tests, which become warnings.

    A problem of which no reference passes is left out: its tests or its answers are wrong. `cache` remembers verdicts.

    Raises:
        UserError: this machine isolates programs less well than the settings require.
        UserError: no training problem is left.
    """
    warnings = list(sets.warnings)
    kept: list[tuple[Problem, ...]] = []
    num_workers = len(os.sched_getaffinity(0))
    with Graders(num_workers, settings, Isolation(settings.require)) as graders:
        for problems in (sets.train, sets.supervised, sets.held_out):
            found = validate_references(problems, graders, cache)
            kept.append(found.problems)
            if found.rejected:
                warnings.append(
                    f"{len(found.rejected)} reference programs fail their own tests, and {len(found.left_out)} "
                    f"problems without a passing one are left out (all in {cache}); the first: {found.rejected[0]}"
                )
    train, supervised, held_out = kept
    if not train:
        raise UserError("problems.validate_references: no training problem has a reference that passes its tests")
    return ProblemSets(train, supervised, held_out, tuple(dict.fromkeys(warnings)))


def _load(specs: Sequence[str], warnings: list[str], refuse: Refusal) -> tuple[Problem, ...]:
    problems: dict[str, Problem] = {}
    for spec in specs:
        loaded = load(spec, refuse)
        if loaded.rejected:
            warnings.append(f"{spec}: {len(loaded.rejected)} rows left out\n{describe_rejected(loaded.rejected, 3)}")
        for problem in loaded.problems:
            if problems.setdefault(problem.task_id, problem) is not problem:
                raise UserError(
                    f"{spec}: task_id {problem.task_id} is in another SPEC too; ids must be unique in a run"
                )
    return tuple(problems.values())
