"""`rltf augment`: more tests for problems that have too few."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from augmentation.agreement import Augmented, Reference, Rules, augment
from augmentation.proposals import propose
from errors import UserError
from evaluation.sources import add_sampling_options, model_source, positive
from problems import Problem, describe_rejected, load
from problems.index import ProblemIndex
from problems.spec import row_of
from sandbox.grading import Graders, read_programs
from sandbox.judge import reason_to_refuse
from sandbox.verdict import Isolation
from settings import SandboxSettings

logger = logging.getLogger("augmentation")
EXIT_UNUSABLE = 2
# Half of what a test may take, so that programs half as fast as the references still finish in time.
LIMITS = SandboxSettings(cpu_s=2.0, wall_s=5.0)
_LOG_EVERY = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. The exit status is 2 if the data, the model or the machine cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        counts = augment_file(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    print("\n".join(counts))
    print(f"written: {options.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="rltf augment", description="Add tests: new inputs, with answers that reference programs agree on."
    )
    command.add_argument("--problems", required=True, metavar="SPEC", help="KIND:PATH, for example apps:FOLDER[0:10]")
    command.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="rows of the same KIND")
    command.add_argument("--num-tests", type=positive, default=20, help="most new tests per problem (default: 20)")
    command.add_argument(
        "--min-references",
        type=positive,
        default=2,
        help="reference programs that must agree (default: 2); MBPP and HumanEval have only 1, which is easily wrong",
    )
    command.add_argument("--max-references", type=positive, default=5, help="most programs that take part (default: 5)")
    command.add_argument(
        "--programs",
        type=Path,
        metavar="FILE.jsonl",
        help="programs that also serve as references if they pass the problem's own tests",
    )
    command.add_argument("--workers", type=positive, default=len(os.sched_getaffinity(0)), help="sandboxes")
    command.add_argument(
        "--require", choices=list(Isolation), type=Isolation, default=Isolation.NAMESPACES, help="weakest isolation"
    )
    command.add_argument("--model", help="also ask this model for inputs: a folder, a Hub id, or http(s)://HOST/v1")
    add_sampling_options(command.add_argument_group("with --model"), num_samples=4, temperature=0.8)
    return command


def augment_file(options: argparse.Namespace) -> list[str]:
    """Write every problem as a row with its new tests after its own, and return a summary, line by line.

    The output file appears when it is complete.

    Raises:
        UserError: problems that cannot be written as rows, a bad row of programs, a model that cannot be asked, or a
            machine with less isolation than required.
    """
    loaded = load(options.problems, reason_to_refuse(SandboxSettings()))
    if loaded.rejected:
        print(f"{len(loaded.rejected)} rows cannot be used:\n{describe_rejected(loaded.rejected)}", file=sys.stderr)
    if options.max_references < options.min_references:
        raise UserError(f"--max-references {options.max_references} is below --min-references {options.min_references}")
    row_of(loaded.problems[0])  # raises if problems of this kind have no rows
    others: defaultdict[str, list[Reference]] = defaultdict(list)
    if options.programs:
        for row, problem in read_programs(options.programs, ProblemIndex(loaded.problems)):
            others[problem.task_id].append(Reference(str(row.completion_id), row.code))
    proposed = propose(loaded.problems, model_source(options), options.model) if options.model else {}
    rules = Rules(options.num_tests, options.min_references, options.max_references, options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    partial = options.output.with_name(options.output.name + ".partial")
    results = []
    with partial.open("w", encoding="utf-8") as file, Graders(options.workers, LIMITS, options.require) as graders:

        def one(problem: Problem) -> Augmented:
            return augment(problem, proposed.get(problem.task_id, ()), graders, rules, others.get(problem.task_id, ()))

        for _, result in graders.map(one, loaded.problems):
            file.write(json.dumps(result.row(rules.seed)) + "\n")
            results.append(result)
            if len(results) % _LOG_EVERY == 0:
                logger.info("%d problems, %d new tests", len(results), sum(len(done.new) for done in results))
    partial.replace(options.output)
    return _described(results)


def _described(results: Sequence[Augmented]) -> list[str]:
    num_new = sum(len(result.new) for result in results)
    num_own = sum(len(result.problem.tests) for result in results) - num_new
    num_augmented = sum(bool(result.new) for result in results)
    unchanged = Counter(result.unchanged for result in results if result.unchanged)
    dropped = sum((result.dropped for result in results), Counter[str]())
    return [
        f"added {num_new} tests to the existing {num_own}, in {num_augmented} of {len(results)} problems",
        *(f"  unchanged: {count} problems: {reason}" for reason, count in unchanged.most_common()),
        *(f"  dropped: {count} inputs: {reason}" for reason, count in dropped.most_common()),
    ]


if __name__ == "__main__":
    sys.exit(main())
