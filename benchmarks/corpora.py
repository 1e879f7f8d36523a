"""Programs with known verdicts: references, buggy versions of them, and programs that others have graded."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from rltf.problems import AssertTest, CallTest, Problem, load
from rltf.problems.apps import tests_from_cases
from rltf.problems.index import ProblemIndex


@dataclass(frozen=True, slots=True)
class Case:
    """A program and whether it should pass; None if that is unknown."""

    problem: Problem
    name: str
    program: str
    expected: bool | None


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a `.jsonl` or `.jsonl.gz` file."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _references(spec: str) -> Callable[[Path], Iterator[Case]]:
    def cases(data: Path) -> Iterator[Case]:
        for problem in load(spec.format(data)).problems:
            for number, program in enumerate(problem.references):
                yield Case(problem, f"{problem.task_id}:{number}", program, expected=True)

    return cases


# Special QuixBugs tests: two functions yield their items, and one is correct to within its second argument.
_QUIXBUGS_FORMS = {
    "flatten": "assert list({call}) == {expected}",
    "kheapsort": "assert list({call}) == {expected}",
    "sqrt": "assert abs({call} - {expected}) <= {last}",
}


def _quixbugs(column: str, *, expected: bool) -> Callable[[Path], Iterator[Case]]:
    def cases(data: Path) -> Iterator[Case]:
        for row in read_rows(data / "grader_cases" / "quixbugs_python.jsonl"):
            name = row["problem_id"]
            tests = tests_from_cases(row["input_output"])
            if name in _QUIXBUGS_FORMS:
                tests = tuple(_in_form(_QUIXBUGS_FORMS[name], test) for test in tests if isinstance(test, CallTest))
            yield Case(Problem(name, "quixbugs", name, tests), name, row[column], expected)

    return cases


def _in_form(form: str, test: CallTest) -> AssertTest:
    call = f"{test.function}({', '.join(map(repr, test.arguments))})"
    return AssertTest(form.format(call=call, expected=repr(test.expected), last=repr(test.arguments[-1])))


def _codet5(data: Path) -> Iterator[Case]:
    index = ProblemIndex(load(f"apps:{data}/apps/train").problems)
    for row in read_rows(data / "grader_cases" / "coderl_apps_generated_with_verdicts.jsonl"):
        problem = index.find(row["problem_id"])
        source = row["source"].rpartition(":")[2].removesuffix(".json")
        yield Case(problem, f"{problem.task_id}:{source}:{row['index']}", row["code"], expected=row["result"] is True)


def _gpt35(data: Path) -> Iterator[Case]:
    index = ProblemIndex(load(f"mbpp:{data}/mbpp/mbpp.jsonl").problems)
    for row in read_rows(data / "completions" / "mbpp_gpt-3.5-turbo-0613_seed.jsonl.gz"):
        problem = index.find(row["task_id"].partition("/")[2])
        yield Case(problem, problem.task_id, row["solution"], row["is_solved"])


def _codegen(data: Path) -> Iterator[Case]:
    problems = load(HUMANEVAL.format(data)).problems
    for row in read_rows(data / "completions" / "codet_humaneval_codegen16B_100samples.jsonl.gz"):
        # Its prompts are HumanEval's without the examples. Some problems use the same function name.
        prompt: str = row["prompt"]
        name = prompt.rpartition("def ")[2].partition("(")[0]
        namesakes = [problem for problem in problems if problem.entry_point == name]
        problem = max(namesakes, key=lambda one: SequenceMatcher(None, prompt, one.code_prefix).ratio())
        for number, program in enumerate(row["samples"]):
            yield Case(problem, f"{problem.task_id}:{number}", program, expected=None)


HUMANEVAL = "humaneval:{}/humaneval/HumanEval.jsonl.gz"
CORPORA: dict[str, Callable[[Path], Iterator[Case]]] = {
    "mbpp": _references("mbpp:{}/mbpp/mbpp.jsonl"),
    "mbpp-sanitized": _references("mbpp:{}/mbpp/sanitized-mbpp.json"),
    "humaneval": _references(HUMANEVAL),
    "humanevalplus": _references("humanevalplus:{}/humanevalplus/HumanEvalPlus-OriginFmt-third.jsonl.gz"),
    "mbppplus": _references("mbppplus:{}/mbppplus/MbppPlus-OriginFmt-third.jsonl.gz"),
    "leetcode": _references("leetcode:{}/leetcode/LeetCodeDataset-v0.2.0-test.jsonl.gz"),
    "quixbugs-correct": _quixbugs("correct_program", expected=True),
    "quixbugs-buggy": _quixbugs("buggy_program", expected=False),
    "apps-train": _references("apps:{}/apps/train"),
    "codet5-apps": _codet5,
    "gpt-3.5-mbpp": _gpt35,
    "codegen-humaneval": _codegen,
}
