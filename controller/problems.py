"""The problems of a run: what RL trains on and in which order, what has reference programs, what is held out."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rltf.controller.problem_sampler import Passes
from rltf.errors import UserError
from rltf.evaluation.passes import ALL, Tally
from rltf.evaluation.store import read_samples
from rltf.problems import Problem, describe_rejected
from rltf.problems.contamination import Overlap, find_overlaps
from rltf.problems.examples import reason_for_none
from rltf.problems.fingerprints import ShortFingerprints, short_fingerprints
from rltf.problems.spec import Refusal, load_each
from rltf.sandbox.admission import reason_to_refuse
from rltf.sandbox.grading import Graders, validate_references
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import DecontaminationMode, ProblemsSettings, RewardSettings, SandboxSettings, Settings

CONTAMINATION = "contamination.jsonl"
"""The file of the overlaps in a run folder."""
_NUM_NAMED = 3


@dataclass(frozen=True, slots=True)
class ProblemSets:
    """RL samples `train`, the supervised term learns from `supervised`, and `held_out` is only for evaluation.

    `evaluation_sets` has the task ids of each named set of `held_out`; two sets may share a problem. `fingerprints`, by
    set, are those of all problems that the decontamination kept, also of problems that were left out later. `measured`
    has the results of `problems.pass_rates`. `overlaps` are those of training problems with benchmarks.
    """

    train: tuple[Problem, ...]
    supervised: tuple[Problem, ...]
    held_out: tuple[Problem, ...]
    warnings: tuple[str, ...]
    fingerprints: dict[str, ShortFingerprints]
    evaluation_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    measured: Mapping[str, Passes] = field(default_factory=dict)
    overlaps: tuple[Overlap, ...] = ()

    @property
    def by_id(self) -> dict[str, Problem]:
        """Every problem by its task id."""
        return {problem.task_id: problem for problem in (*self.train, *self.supervised, *self.held_out)}

    @property
    def all_training(self) -> tuple[Problem, ...]:
        """What the policy trains on, each problem once."""
        return tuple({problem.task_id: problem for problem in (*self.supervised, *self.train)}.values())

    def without(self, task_ids: Collection[str]) -> ProblemSets:
        """The sets without these problems. Reference programs stay: the learner measures those itself.

        Raises UserError if that leaves nothing to train on, or nothing of a named set.
        """
        train = tuple(problem for problem in self.train if problem.task_id not in task_ids)
        if not train:
            raise UserError(
                f"the prompts of all {len(self.train)} training problems fill the model's context: raise "
                "model.max_model_len, or use a model with a longer one"
            )
        held_out = tuple(problem for problem in self.held_out if problem.task_id not in task_ids)
        kept = replace(self, train=train, held_out=held_out)
        if (name := kept.empty_set()) is not None:
            raise UserError(
                f"the prompts of all problems of problems.evaluation.{name} fill the model's context: raise "
                "model.max_model_len, or remove the set"
            )
        return kept

    def empty_set(self) -> str | None:
        """A named set without a problem in `held_out`, if there is one."""
        left = {problem.task_id for problem in self.held_out}
        return next((name for name, task_ids in self.evaluation_sets.items() if not left.intersection(task_ids)), None)


def load_problem_sets(settings: ProblemsSettings, limits: SandboxSettings | None = None) -> ProblemSets:
    """Load what the SPECs name. Unusable rows, and overlaps of training problems with benchmarks, become warnings.

    A row that cannot be graded within `limits` (by default, the usual ones) is unusable. Some benchmarks, like APPS,
    number each split anew, so a held-out problem with the id of a training problem becomes `held-out/ID`.

    Raises UserError if a SPEC has nothing usable, a task id stands for two problems, the name of a set is taken, or all
    training problems overlap with benchmarks and are to be dropped.
    """
    warnings: list[str] = []
    refuse = reason_to_refuse(limits or SandboxSettings())
    train = _load(settings.train, warnings, refuse)
    supervised = _load(settings.supervised, warnings, refuse) if settings.supervised else train
    trained = {problem.task_id for problem in (*train, *supervised)}

    def load_held_out(specs: Sequence[str]) -> tuple[Problem, ...]:
        return tuple(
            replace(problem, task_id=f"held-out/{problem.task_id}") if problem.task_id in trained else problem
            for problem in _load(specs, warnings, refuse)
        )

    if isinstance(settings.evaluation, dict):
        named = {name: load_held_out(specs) for name, specs in settings.evaluation.items()}
        held_out = _union(named)
        evaluated = {f"evaluation.{name}": problems for name, problems in named.items()}
    else:
        named, held_out = {}, load_held_out(settings.evaluation)
        evaluated = {"evaluation": held_out}
    overlaps = _overlaps(settings, (*train, *supervised), evaluated, warnings)
    if overlaps and settings.decontamination.mode is DecontaminationMode.DROP:
        overlapping = {overlap.train.task_id for overlap in overlaps}
        train, supervised = (
            tuple(problem for problem in problems if problem.task_id not in overlapping)
            for problems in (train, supervised)
        )
        if not train:
            raise UserError(
                "problems.decontamination.mode drop leaves no training problem, because all of them overlap with a "
                f"benchmark; the first: {overlaps[0]}. Train on other problems"
            )
    sets = {"train": train, "supervised": supervised, **evaluated}
    return ProblemSets(
        train=train,
        supervised=tuple(problem for problem in supervised if problem.references),
        held_out=held_out,
        warnings=tuple(warnings),
        fingerprints={name: short_fingerprints(problems) for name, problems in sets.items()},
        evaluation_sets={name: tuple(problem.task_id for problem in problems) for name, problems in named.items()},
        measured=_measured(settings.pass_rates, train),
        overlaps=overlaps,
    )


def _overlaps(
    settings: ProblemsSettings,
    training: Sequence[Problem],
    evaluated: Mapping[str, Sequence[Problem]],
    warnings: list[str],
) -> tuple[Overlap, ...]:
    """The overlaps of training problems with the benchmarks. If there are any, `warnings` gets another."""
    mode = settings.decontamination.mode
    if mode is DecontaminationMode.OFF:
        return ()
    train = {problem.task_id: problem for problem in training}
    against = {spec: _load([spec], warnings, None) for spec in settings.decontamination.against}
    overlaps = find_overlaps(tuple(train.values()), {**evaluated, **against}, settings.decontamination.min_overlap)
    if overlaps:
        num_overlapping = len({overlap.train.task_id for overlap in overlaps})
        are_dropped = " and are dropped" if mode is DecontaminationMode.DROP else ""
        named = "; ".join(map(str, overlaps[:_NUM_NAMED])) + ("; ..." if len(overlaps) > _NUM_NAMED else "")
        warnings.append(
            f"{num_overlapping} of {len(train)} training problems overlap with a benchmark{are_dropped} (all in "
            f"{CONTAMINATION} of the run folder): {named}"
        )
    return overlaps


def _measured(folders: Sequence[str], train: Sequence[Problem]) -> dict[str, Passes]:
    """How many programs of each training problem passed in the evaluations in `folders`.

    Raises UserError if a folder has no evaluation, or none of any training problem.
    """
    tally = Tally(train)
    for folder in folders:
        rows = [row for row in read_samples(Path(folder)) if row["task_id"] in tally.difficulties]
        if not rows:
            raise UserError(
                f"problems.pass_rates: {folder} has no programs for problems of problems.train: evaluate a model on "
                "those problems"
            )
        for row in rows:
            tally.add(row["task_id"], Outcome(row["outcome"]))
    return {task_id: Passes(tally.num_passed[task_id], count) for task_id, count in tally.num_samples.items() if count}


def check_structure(sets: ProblemSets, rewards: RewardSettings) -> ProblemSets:
    """`sets`, with a warning if the structure reward finds no reference program for some training problems.

    Raises UserError if it finds none at all.
    """
    missing = [problem.task_id for problem in sets.train if not problem.references]
    if not rewards.structure_weight or not missing:
        return sets
    if len(missing) == len(sets.train):
        raise UserError(
            f"rewards.structure_weight {rewards.structure_weight} compares programs with reference programs, and no "
            "problem of problems.train has one: add some, or set it to 0"
        )
    said = f"{len(missing)} training problems have no reference program, so their structure reward is 0: {missing[0]}"
    return replace(sets, warnings=(*sets.warnings, said + (" ..." if len(missing) > 1 else "")))


def check_examples(sets: ProblemSets, max_turns: int) -> ProblemSets:
    """`sets`, with a warning if dialogues about some training problems end after one turn, for want of examples.

    Raises UserError if no training problem has an example that a model may see.
    """
    without = [problem for problem in sets.train if not problem.examples]
    if max_turns == 1 or not without:
        return sets
    reason = reason_for_none(without[0])
    if len(without) == len(sets.train):
        raise UserError(
            f"generator.max_turns {max_turns}: no problem of problems.train has examples that a model may see (problem "
            f"{without[0].task_id}: {reason}): train on other problems, or set it to 1"
        )
    said = f"{len(without)} of {len(sets.train)} training problems have no examples and get one turn"
    return replace(sets, warnings=(*sets.warnings, f"{said} ({without[0].task_id}: {reason})"))


def _union(sets: Mapping[str, tuple[Problem, ...]]) -> tuple[Problem, ...]:
    """The problems of named sets, each once.

    Raises UserError for the name of another group of the results, and for a task id that stands for two problems.
    """
    found: dict[str, tuple[str, Problem]] = {}
    for name, problems in sets.items():
        for problem in problems:
            first, known = found.setdefault(problem.task_id, (name, problem))
            if known != problem:
                raise UserError(
                    f"problems.evaluation: task_id {problem.task_id} stands for one problem in {first} and for another "
                    f"in {name}: give one of them another id"
                )
    taken = {ALL} | {problem.difficulty for _, problem in found.values() if problem.difficulty is not None}
    for name in sets:
        if name in taken:
            what = "all problems" if name == ALL else "the problems of this difficulty"
            raise UserError(f"problems.evaluation.{name}: pass@k of {what} has this name; choose another for the set")
    return tuple(problem for _, problem in found.values())


def without_failing_references(sets: ProblemSets, settings: SandboxSettings, cache: Path) -> ProblemSets:
    """The sets without reference programs that fail their own problem's tests, which become warnings.

    A problem without any passing reference is left out, since its tests or its answers are wrong. `cache` remembers
    verdicts.

    Raises UserError if this machine's isolation is weaker than the settings require, or if no problem to train on, or
    none of a named set, is left.
    """
    warnings = list(sets.warnings)
    kept: list[tuple[Problem, ...]] = []
    num_workers = len(os.sched_getaffinity(0))
    with Graders(num_workers, settings, Isolation(settings.min_isolation)) as graders:
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
    warned = tuple(dict.fromkeys(warnings))
    checked = replace(sets, train=train, supervised=supervised, held_out=held_out, warnings=warned)
    if (name := checked.empty_set()) is not None:
        raise UserError(
            f"problems.validate_references: problems.evaluation.{name} has no problem left: all of its reference "
            "programs fail their own tests"
        )
    return checked


def _load(specs: Sequence[str], warnings: list[str], refuse: Refusal | None) -> tuple[Problem, ...]:
    loaded = load_each(specs, refuse)
    for spec, found in loaded:
        if found.rejected:
            warnings.append(f"{spec}: {len(found.rejected)} rows left out\n{describe_rejected(found.rejected, 3)}")
    return tuple(problem for _, found in loaded for problem in found.problems)


def capacity(settings: Settings, *, num_trained: int, step: int) -> int:
    """The number of samples, trained or in flight, that can be useful after weights were published at update `step`.

    The current snapshot and the next `max_off_policy_versions` ones can use what is sampled now; anything more would be
    too stale when its turn comes. With `max_off_policy_versions` 0, sampling and training take turns. The rule is
    AReaL's (arXiv 2505.24298, equation 3), counted in snapshots from what has been trained on, since snapshots of whole
    rollouts may be larger than requested. Before the first update, `buffer.start_samples` may be more.
    """
    buffer, batch_size = settings.buffer, settings.learner.batch_size
    remaining = settings.run.num_steps - step
    wanted = min((1 + buffer.max_off_policy_versions) * buffer.refresh_every, remaining) * batch_size
    if num_trained == 0:
        wanted = max(wanted, buffer.start_samples)
    return num_trained + wanted
