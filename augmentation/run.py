"""One augmentation from a SPEC to a file of rows."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from augmentation.agreement import Augmented, Reference, Rules, augment
from augmentation.inputs import Candidate
from augmentation.proposals import propose
from errors import UserError
from evaluation.run import ProgramSource
from problems import LoadedProblems, Problem
from problems.index import ProblemIndex
from problems.rows import row_of
from sandbox.grading import Graders, read_programs
from sandbox.verdict import Isolation
from settings import SandboxSettings

logger = logging.getLogger(__name__)
# Half of what a test may take: programs that are twice as slow as the references still finish in time.
LIMITS = SandboxSettings(cpu_s=2.0, wall_s=5.0)
_LOG_EVERY = 100


@dataclass(slots=True)
class Summary:
    """What came of an augmentation."""

    num_problems: int = 0
    num_augmented: int = 0
    num_tests: int = 0
    num_new_tests: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)

    def add(self, result: Augmented) -> None:
        """Count one problem."""
        self.num_problems += 1
        self.num_augmented += bool(result.new)
        self.num_tests += len(result.problem.tests) - len(result.new)
        self.num_new_tests += len(result.new)
        self.dropped.update(result.dropped or {})
        if result.unchanged:
            self.unchanged[result.unchanged] += 1
        elif not result.new:
            self.unchanged["no candidate became a test"] += 1


def augment_file(
    loaded: LoadedProblems,
    output: Path,
    rules: Rules,
    *,
    model: tuple[str, ProgramSource] | None = None,
    programs: Path | None = None,
    num_workers: int = 1,
    require: Isolation = Isolation.NAMESPACES,
) -> Summary:
    """Write every problem as a row with its new tests behind its own; `output` appears when all of it is written.

    `model`, a name and what it means, is asked for inputs; `programs` is a file of programs that take part as
    references where they pass a problem's own tests.

    Raises:
        UserError: a benchmark whose problems cannot be written as rows, or a row of `programs` that is none.
        UserError: a model that cannot be asked.
        UserError: the machine gives less isolation than asked for.
    """
    _check_writable(loaded.problems)
    others = _read_references(programs, loaded.problems) if programs else {}
    proposed: Mapping[str, list[Candidate]] = {}
    if model is not None:
        name, source = model
        proposed = propose(loaded.problems, source, name)
        logger.info("%s: %d inputs read", name, sum(map(len, proposed.values())))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    summary = Summary()
    with partial.open("w", encoding="utf-8") as file, Graders(num_workers, LIMITS, require) as graders:

        def one(problem: Problem) -> Augmented:
            task_id = problem.task_id
            return augment(problem, proposed.get(task_id, ()), graders, rules, others.get(task_id, ()))

        for _, result in graders.map(one, loaded.problems):
            file.write(json.dumps(result.row(rules.seed)) + "\n")
            summary.add(result)
            if summary.num_problems % _LOG_EVERY == 0:
                logger.info("%d problems, %d new tests", summary.num_problems, summary.num_new_tests)
    partial.replace(output)
    return summary


def _read_references(path: Path, problems: tuple[Problem, ...]) -> dict[str, list[Reference]]:
    found: defaultdict[str, list[Reference]] = defaultdict(list)
    for row, problem in read_programs(path, ProblemIndex(problems)):
        found[problem.task_id].append(Reference(str(row.completion_id), row.code))
    return found


def _check_writable(problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        try:
            row_of(problem)
        except UserError as error:
            raise UserError(f"problem {problem.task_id}: {error}") from error
