"""BigCodeBench: one check per test method, and only rows whose tests need nothing but values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rltf.errors import UserError
from rltf.problems import CheckTest, Problem, load
from rltf.problems.prompts import PromptFormat, render_prompt
from rltf.sandbox.admission import reason_to_refuse
from rltf.settings import SandboxSettings

PROMPT = 'import math\nfrom collections import Counter\nLIMIT = 2\n\ndef task_func(words):\n    """Counts."""\n'
TEST = """import unittest

class TestCases(unittest.TestCase):
    def setUp(self):
        self.words = ["a", "b", "a"]

    def test_counts(self):
        self.assertEqual(task_func(self.words), Counter({"a": 2, "b": 1}))

    def test_limit(self):
        self.assertGreaterEqual(LIMIT, len(task_func(self.words)))
        with self.assertRaises(TypeError):
            task_func(5)

if __name__ == "__main__":
    unittest.main()
"""
ROW = {
    "task_id": "BigCodeBench/7",
    "complete_prompt": PROMPT,
    "instruct_prompt": "Count words with `task_func`.",
    "canonical_solution": "    return Counter(words)\n",
    "test": TEST,
    "entry_point": "task_func",
    "libs": "['math', 'collections']",
}


def read(tmp_path: Path, **changed: Any) -> Problem:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROW | changed) + "\n")
    return load(f"bigcodebench:{file}").problems[0]


def outcome(test: CheckTest, program: str) -> str:
    """What a check finds when it runs in one process with the program."""
    namespace: dict[str, Any] = {}
    exec(PROMPT + program, namespace)
    exec(test.source, namespace)
    try:
        namespace["check"](namespace["task_func"])
    except AssertionError:
        return "failed"
    return "passed"


def test_every_method_becomes_a_check(tmp_path: Path) -> None:
    problem = read(tmp_path)
    assert len(problem.tests) == 2
    checks = [test for test in problem.tests if isinstance(test, CheckTest)]
    assert [test.entry_point for test in checks] == ["task_func", "task_func"]
    assert "def task_func" not in checks[0].source
    programs = [str(ROW["canonical_solution"]), "    return dict.fromkeys(words, 1)\n", "    return Counter('abc')\n"]
    assert [[outcome(test, program) for test in checks] for program in programs] == [
        ["passed", "passed"],
        ["failed", "passed"],
        ["failed", "failed"],
    ]


def test_both_prompts_are_there(tmp_path: Path) -> None:
    problem = read(tmp_path)
    assert render_prompt(problem) == problem.code_prefix == PROMPT
    assert render_prompt(problem, PromptFormat(template="{statement}")) == ROW["instruct_prompt"]
    assert problem.references == (ROW["canonical_solution"],)


def test_packages_can_be_made_importable(tmp_path: Path) -> None:
    problem = read(tmp_path, libs="['math', 'numpy.linalg', 'nonesuch']")
    assert problem.modules[:3] == ("math", "numpy", "nonesuch")
    reason = "needs {}: neither in the standard library nor in sandbox.packages"
    assert reason_to_refuse(SandboxSettings())(problem) == reason.format("numpy, nonesuch")
    assert reason_to_refuse(SandboxSettings(packages=("numpy",)))(problem) == reason.format("nonesuch")
    assert reason_to_refuse(SandboxSettings())(read(tmp_path)) is None


def method(*lines: str, before: str = "") -> dict[str, str]:
    body = "".join(f"        {line}\n" for line in lines)
    return {"test": f"import unittest\n{before}\nclass TestCases(unittest.TestCase):\n    def test_a(self):\n{body}"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"libs": "numpy"}, "libs: not a list"),
        ({"libs": None}, "libs: expected a list"),
        (method("pass", before="from unittest.mock import patch"), r"unittest\.mock"),
        (method("pass", before="import os"), "more than the function's values: os"),
        (method("pass", before="from urllib import request"), "more than the function's values: urllib"),
        ({"complete_prompt": "import subprocess\n" + PROMPT}, "more than the function's values: subprocess"),
        (method("open('x')"), "needs files"),
        (method("random.seed(0)", before="import random"), r"random.seed\(0\) does not reach"),
        (method("task_func(lambda x: x)"), "passes a function"),
        (method("task_func(N)"), "nothing defines: N"),
        (method("self.assertTrue(task_func([]).axes)"), "axes"),
        (method("check(task_func([]))", before="def check(x): ..."), "named check"),
        ({"test": "import unittest\n"}, "no test method"),
        ({"entry_point": ""}, "entry_point: missing"),
    ],
)
def test_rows_that_cannot_be_read(changed: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        read(tmp_path, **changed)


def test_parsing_addresses_needs_no_network(tmp_path: Path) -> None:
    test = method("self.assertEqual(task_func(urlparse('a').path), 1)", before="from urllib.parse import urlparse")
    assert len(read(tmp_path, **test).tests) == 1
