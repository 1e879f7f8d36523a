"""`rltf augment`: more tests for problems that have too few."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rltf.augmentation.agreement import Augmented, Reference, Rules, augment
from rltf.augmentation.proposals import propose
from rltf.augmentation.ranking import Selection, ranked
from rltf.entry import exit_status, run_command
from rltf.errors import UserError
from rltf.evaluation.sources import add_sampling_options, model_source
from rltf.files import write_jsonl
from rltf.problems import Problem
from rltf.problems.index import ProblemIndex
from rltf.problems.spec import row_of
from rltf.sandbox.command import add_grading_options, limits_of, load_problems, parse_options, positive
from rltf.sandbox.grading import Graders, read_programs
from rltf.settings import SandboxSettings

logger = logging.getLogger("augmentation")
_LOG_EVERY = 100


def halved(limits: SandboxSettings) -> SandboxSettings:
    """`limits` with half the time per test, so that programs half as fast as the references still finish in time."""
    return limits.model_copy(update={"cpu_s": limits.cpu_s / 2, "wall_s": limits.wall_s / 2})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. The exit status is 2 if the data, the model or the machine cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    return exit_status(_augment_file, parse_options(_parser(), arguments))


def _parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="rltf augment", description="Add tests: new inputs, with answers that reference programs agree on."
    )
    add_grading_options(command)
    add = command.add_argument
    add("--output", required=True, type=Path, metavar="FILE.jsonl", help="rows of the same KIND")
    add("--num-tests", type=positive, default=20, help="most new tests per problem (default: 20)")
    agreeing = "reference programs that must agree (default: 2); MBPP and HumanEval have only 1, which is easily wrong"
    add("--min-references", type=positive, default=2, help=agreeing)
    add("--max-references", type=positive, default=5, help="most programs that take part (default: 5)")
    others = "programs that also serve as references if they pass the problem's own tests"
    add("--programs", type=Path, metavar="FILE.jsonl", help=others)
    wrong = (
        "rank the new tests by the programs here that fail the problem's own tests (default: by mutants of references)"
    )
    add("--wrong", type=Path, metavar="FILE.jsonl", help=wrong)
    add("--max-tests", type=positive, metavar="N", help="rank the new tests, and keep only the N best of each problem")
    pruned = "rank the new tests, and keep only those that catch a wrong program that better ones miss"
    add("--prune", action="store_true", help=pruned)
    add("--model", help="also ask this model for inputs: a folder, a Hub id, or http(s)://HOST/v1")
    add_sampling_options(command.add_argument_group("with --model"), num_samples=4, temperature=0.8)
    return command


def _augment_file(options: argparse.Namespace) -> None:
    """Write every problem as a row with its new tests after its own, and print a summary.

    The output file appears when it is complete. Raises UserError for problems that cannot be written as rows, a bad row
    of programs, a model that cannot be asked, or a machine with less isolation than required.
    """
    limits = limits_of(options)
    problems = load_problems(options.problems, limits).problems
    if options.max_references < options.min_references:
        raise UserError(f"--max-references {options.max_references} is below --min-references {options.min_references}")
    row_of(problems[0])  # raises if problems of this kind have no rows
    others = _programs(options.programs, problems) if options.programs else {}
    wrong = _programs(options.wrong, problems) if options.wrong else None
    selection = Selection(options.max_tests, options.prune, options.seed)
    is_ranked = wrong is not None or options.max_tests is not None or options.prune
    proposed = propose(problems, model_source(options), options.model) if options.model else {}
    rules = Rules(options.num_tests, options.min_references, options.max_references, options.seed)
    results: list[Augmented] = []

    def one(problem: Problem) -> Augmented:
        result = augment(problem, proposed.get(problem.task_id, ()), graders, rules, others.get(problem.task_id, ()))
        if not is_ranked:
            return result
        given = None if wrong is None else [program.program for program in wrong.get(problem.task_id, ())]
        return ranked(problem, result, graders, selection, given)

    def rows() -> Iterator[dict[str, Any]]:
        for _, result in graders.map(one, problems):
            results.append(result)
            if len(results) % _LOG_EVERY == 0:
                logger.info("%d problems, %d new tests", len(results), sum(len(done.new) for done in results))
            yield result.row(rules.seed)

    with Graders(options.workers, halved(limits), options.min_isolation) as graders:
        write_jsonl(options.output, rows())
    print("\n".join(_described(results)))
    print(f"written: {options.output}")


def _programs(path: Path, problems: Sequence[Problem]) -> dict[str, list[Reference]]:
    """The programs of a file by the task id of their problem. Raises UserError for a bad row."""
    found: defaultdict[str, list[Reference]] = defaultdict(list)
    for row, problem in read_programs(path, ProblemIndex(problems)):
        found[problem.task_id].append(Reference(str(row.completion_id), row.code))
    return found


def _described(results: Sequence[Augmented]) -> list[str]:
    num_new = sum(len(result.new) for result in results)
    num_own = sum(len(result.problem.tests) for result in results) - num_new
    num_augmented = sum(bool(result.new) for result in results)
    unchanged = Counter(result.unchanged for result in results if result.unchanged)
    dropped = sum((result.dropped for result in results), Counter[str]())
    wrong = sum((result.wrong for result in results), Counter[str]())
    ranking = (
        f"  ranked by {wrong['all']} wrong programs: the new tests catch {wrong['caught']}, and {wrong['new']} of the "
        f"{wrong['missed']} that pass all existing tests"
    )
    return [
        f"added {num_new} tests to the existing {num_own}, in {num_augmented} of {len(results)} problems",
        *([ranking] if any(result.wrong for result in results) else []),
        *(f"  unchanged: {count} problems: {reason}" for reason, count in unchanged.most_common()),
        *(f"  dropped: {count} inputs: {reason}" for reason, count in dropped.most_common()),
    ]


if __name__ == "__main__":
    sys.exit(run_command("python -m augmentation", main))
