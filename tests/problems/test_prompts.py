"""Prompts have the papers' formats, programs are found in answers, and programs run after the right source."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.problems.extraction import extract_program
from rltf.problems.prompts import PromptFormat, render_prompt
from rltf.problems.python_source import source_before
from rltf.problems.types import AssertTest, CallTest, Problem, StdinTest

STDIN = Problem("1", "apps", "Add.", (StdinTest("1 2", "3"),))
CALL = Problem("2", "apps", "Add.", (CallTest("f", (1,), 2),), starter_code="def f(x):\n    ")
MBPP = Problem(
    "3",
    "mbpp",
    "Write a function.",
    (AssertTest("assert f(1) == 2"), AssertTest("assert f(2) == 3")),
    num_visible_tests=2,
)
PREFIX = 'import math\n\ndef f(x):\n    """Add one."""\n'
CONTINUED = Problem(
    "HumanEval/0", "humaneval", PREFIX, (AssertTest("assert f(1) == 2"),), entry_point="f", code_prefix=PREFIX
)


class ChatTemplate:
    """A minimal chat template, rendered as transformers would. Its arguments come out at the end."""

    def apply_chat_template(self, messages: Any, *, tokenize: bool, add_generation_prompt: bool, **more: Any) -> Any:
        assert not tokenize
        assert add_generation_prompt
        turns = "".join(f"<{message['role']}>{message['content']}" for message in messages)
        return f"{turns}<assistant>{more or ''}"


def test_formats() -> None:
    assert render_prompt(STDIN) == "\nQUESTION:\nAdd.\n\nUse Standard Input format\nANSWER:\n"
    assert render_prompt(CALL) == "\nQUESTION:\nAdd.\ndef f(x):\n    \nUse Call-Based format\nANSWER:\n"
    assert render_prompt(MBPP) == (
        "Write a function.\nYour code should satisfy these tests:\nassert f(1) == 2\nassert f(2) == 3\n"
    )
    assert render_prompt(CONTINUED) == PREFIX


def test_chat_prompts_use_the_template() -> None:
    tokenizer: Any = ChatTemplate()
    prompt = render_prompt(MBPP, PromptFormat(chat=True), tokenizer)
    assert prompt.startswith("<user>Write a Python program")
    assert prompt.endswith("<assistant>")
    assert "assert f(2) == 3" in prompt
    form = PromptFormat(True, "Be brief.", "{statement} {x} {{}}", {"enable_thinking": False})
    prompt = render_prompt(MBPP, form, tokenizer)
    assert prompt == "<system>Be brief.<user>Write a function. {x} {{}}<assistant>{'enable_thinking': False}"


def test_a_template_takes_the_parts_of_a_problem() -> None:
    form = PromptFormat(template="# {function}\n{tests}\n{prompt}")
    tests = "assert f(1) == 2\nassert f(2) == 3"
    assert render_prompt(MBPP, form) == f"# \n{tests}\n{render_prompt(MBPP)}"
    form = PromptFormat(template="{starter_code}|{statement}|{function}")
    assert render_prompt(CALL, form) == "def f(x):\n    |Add.|"
    assert render_prompt(CONTINUED, form) == f"{PREFIX}|{PREFIX}|f"


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("print(1)\n", "print(1)\n"),
        ("Sure!\n```python\nprint(1)\n```\nDone.", "print(1)\n"),
        ("```\nprint(1)\n```", "print(1)\n"),
        ("First\n```python\nx\n```\nbetter\n```python\nprint(2)\n```\n", "print(2)\n"),
        ("```python\nprint(1)\nprint(", "print(1)\nprint("),
        ("```python", ""),
        ("```python\n```", ""),
        ('def f():\n    """\n```\nx\n```\n"""\n', 'def f():\n    """\n```\nx\n```\n"""\n'),
        ("", ""),
    ],
)
def test_the_program_in_an_answer(text: str, program: str) -> None:
    start, end = extract_program(STDIN, text)
    assert text[start:end] == program


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("    return x + 1\n", "    return x + 1\n"),
        ("    return x + 1\n\n\ndef g():\n    pass\n", "    return x + 1\n\n\n"),
        ("    y = '''\nz'''\n    return 1\n# end", "    y = '''\nz'''\n    return 1\n"),
        ("    return x + 1\nprint(f(1))", "    return x + 1\n"),
        ("    return x + step\nprinter = 1\nstep = 1\n", "    return x + step\nprinter = 1\nstep = 1\n"),
        ("    return x + 1\nprinter = 1\n", "    return x + 1\n"),
        ("\n    return x + 1\nclass A:", "\n    return x + 1\n"),
        (
            "def f(x):\n    return g(x)\n\ndef g(x):\n    return x",
            "def f(x):\n    return g(x)\n\ndef g(x):\n    return x",
        ),
    ],
)
def test_the_end_of_a_continued_function(text: str, program: str) -> None:
    start, end = extract_program(CONTINUED, text)
    assert text[start:end] == program


@given(st.text(alphabet="`\n ax"), st.sampled_from([STDIN, CONTINUED]))
def test_the_span_is_always_within_the_text(text: str, problem: Problem) -> None:
    start, end = extract_program(problem, text)
    assert 0 <= start <= end <= len(text)


@pytest.mark.parametrize(
    "program",
    [
        "    return x + 1\n",
        "def f(x):\n    return math.floor(x) + 1\n",
        "    return x + 1\ndef f(x):\n    return x + 1\n",
    ],
)
def test_bodies_and_whole_programs_run_after_the_prefix(program: str) -> None:
    namespace: dict[str, Any] = {}
    exec(source_before(CONTINUED, program) + program, namespace)
    assert namespace["f"](1) == 2


def test_a_future_import_in_a_docstring_does_not_count() -> None:
    body = '    """\nfrom __future__ import nothing\n    """\n    return x + 1\n'
    assert source_before(CONTINUED, body) == PREFIX
    whole = f'"""\nfrom __future__ import x\n"""\ndef f(x):\n{body}'
    assert source_before(CONTINUED, whole) == PREFIX
    assert source_before(CONTINUED, f'"""A module."""\n# first\nfrom __future__ import annotations\n{whole}') == ""


def test_future_imports_stay_first() -> None:
    program = "from __future__ import annotations\ndef f(x):\n    return x + 1\n"
    assert source_before(CONTINUED, program) == ""
    assert source_before(STDIN, "print(3)") == ""


def test_custom_functions_get_the_types_that_the_problem_names() -> None:
    program = "def f(xs: List[int]) -> Optional[Dict[int, int]]:\n    return None\n"
    tests = (AssertTest("assert f([1]) is None"),)
    own = Problem("1", "jsonl", "Return an Optional.", tests, starter_code="def f(xs: List[int]):\n    ")
    assert source_before(own, program) == "from typing import Optional\nfrom typing import List\n"
    assert source_before(own, "List = list\n" + program) == "from typing import Optional\n"
    assert source_before(own, "def f(xs):\n    return None\n") == ""
    assert source_before(replace(own, statement="", starter_code=""), program) == ""
    assert source_before(replace(own, benchmark="mbpp"), program) == ""


@pytest.mark.parametrize(
    "body",
    [
        "xs: List[int]) -> Optional[int]:\n        return math.floor(xs[0])",
        "xs):\n        return max(Counter(xs).values())",
        "xs):\n        heapq.heapify(xs)\n        return 1 + bisect_left(xs, 0)",
        "xs):\n        return min(inf, *xs, 1)",
        "xs):\n        return reduce(lambda a, b: a, xs, len(re.findall('a', string.ascii_lowercase)))",
        "xs):\n        return [*accumulate(xs)] and gcd(1, 2)",
    ],
)
@pytest.mark.parametrize("benchmark", ["apps", "jsonl"])
def test_functions_get_the_imports_of_problem_sites(benchmark: str, body: str) -> None:
    problem = Problem("2", benchmark, "Add.", (CallTest("f", (1,), 2),))
    program = f"class Solution:\n    def f(self, {body}\n"
    namespace: dict[str, Any] = {}
    exec(source_before(problem, program) + program, namespace)
    assert namespace["Solution"]().f([1.5]) == 1


def test_only_missing_names_are_imported() -> None:
    assert source_before(CALL, "def f(x):\n    return x") == ""
    assert source_before(CALL, "import math\ndef gcd(a): ...\ninf = 5\ndef f(x):\n    return math.pi + gcd(inf)") == ""
    assert source_before(CALL, "def f(x):\n    return '(Counter'") == ""
    assert source_before(CALL, "def f(x:\n    return Counter") == ""
    assert source_before(STDIN, "print(math.pi)") == ""


def test_a_solution_class_under_asserts_gets_them_too() -> None:
    asserts = Problem("3", "jsonl", "Add.", (AssertTest("assert Solution().f([1]) == 1"),))
    assert source_before(asserts, "class Solution:\n    def f(self, x: List[int]): ...") == "from typing import List\n"
    assert source_before(asserts, "def f(x: List[int]): ...") == ""
    assert source_before(MBPP, "def f(x): return re.sub('a', '', x)") == ""
