"""A right program is found whatever surrounds it in an answer, and no text makes the search fail or take long."""

from __future__ import annotations

import ast
import contextlib
import io
from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.problems.extraction import extract_program
from rltf.problems.prompts import QUESTION
from rltf.problems.python_source import as_run, shift_of
from rltf.problems.types import AssertTest, CallTest, Problem, StdinTest

HEAD = 'from typing import List\n\n\ndef double(x):\n    """Twice `x`.\n    >>> double(1)\n    2\n    """\n'
CALLED = Problem("c", "own", "Double it.", (CallTest("double", (4,), 8),), entry_point="double")
ASSERTED = Problem("a", "mbpp", "Double it.", (AssertTest("assert double(4) == 8"),), entry_point="double")
READ = Problem("r", "own", "Double it.", (StdinTest("4\n", "8"),))
CONTINUED = Problem(
    "h", "humaneval", HEAD, (AssertTest("assert double(4) == 8"),), entry_point="double", code_prefix=HEAD
)
PROBLEMS = (CALLED, ASSERTED, READ, CONTINUED)


@dataclass(frozen=True)
class Program:
    """A right program for `problem`, and a wrong draft of it."""

    problem: Problem
    source: str
    wrong: str


FUNCTIONS = (
    "def double(x):\n    return x * 2\n",
    "import functools\n\n\n@functools.lru_cache(None)\ndef double(x):\n    # twice\n    return x * 2\n",
    "def double(x):\n    return helper(x)\n\n\ndef helper(x):\n    return x * 2\n",
    "FACTOR = 2\n\n\ndef double(x):\n    if x:\n\n        return x * FACTOR\n    return 0\n",
    "class Solution:\n    def double(self, x):\n        return x * 2\n",
    "double = lambda x: x * 2\n",
    'def double(x):\n    """Twice.\n\n```python\ndouble(2)\n```\n    """\n    return x * 2\n',
    "def double(x):\n    '''\n    ```\n    >>> double(2)\n    ```\n    '''\n    return x * 2\n",
    'def double(x):\n    marks = ["</s>", "<think>", "</think>", "<|endoftext|>"]\n    return x * 2 * bool(marks)\n',
    'TEXT = """\n~~~\nOutput:\n```\n4\n"""\n\n\ndef double(x):\n    return x * 2 * bool(TEXT)\n',
    "import re\n\n\ndef double(x):  # it's \"double\"\n    return x * len(re.findall(r'\\d', '12'))\n",
)
SCRIPTS = (
    "print(int(input()) * 2)\n",
    "import sys\n\n\ndef main():\n    for line in sys.stdin:\n        print(int(line) * 2)\n\n\nmain()\n",
    "n = int(input())\nif n:\n    # even\n    print(2 * n)\nelse:\n    print(0)\n",
    "def solve():\n    n = int(input())\n    print(n * 2)\n\n\nif __name__ == '__main__':\n    solve()\n",
    '"""\n```\n4\n```\n"""\nn = int(input())\nprint(n * 2)\n',
    "def f(s):\n    return s.replace('</think>', '').strip('`')\n\n\nprint(int(f(input())) * 2)\n",
)
BODIES = (
    "    return x * 2\n",
    "    return helper(x)\n\n\ndef helper(x):\n    return x * 2\n",
    "    if x:\n        return x * 2\n\n    # none\n    return 0\n",
    "    values: List[int] = [x, x]\n    y = sum(values)\n    return y\n",
    "    text = '''\n```\nq'''\n    return x * 2 * bool(text)\n",
)
PROGRAMS = (
    *(Program(CALLED, source, "def double(x):\n    return x\n") for source in FUNCTIONS),
    *(
        Program(problem, source, "def double(x):\n    return x\n")
        for source in FUNCTIONS
        if "class" not in source
        for problem in (ASSERTED, CONTINUED)
    ),
    *(Program(READ, source, "n = int(input())\nprint(n)\n") for source in SCRIPTS),
)
PROSE = (
    "",
    "Sure! Here it is.\n",
    "**Solution:**\n\n",
    "It's simple: don't use `x` twice.\n\n",
    "1. Read\n2. Double\n\n",
)
AFTER = (
    "\n\nThis doubles the value; it's O(1).\n",
    "\n\nOutput:\n```\n8\n```\n",
    "\n\nRun it:\n```bash\npython double.py <<< 4\n```\n",
    "\n\n```json\n{}\n```\nThat's all.",
    "\n```text\n8\n```",
    "\n```\n```\n",
    "\n\n```pycon\n>>> double(2)\n4\n```\n",
    "\n\n```python\n>>> double(2)\n4\n```\n",
    "\n\n~~~\n4\n~~~\n",
    "\n\n### Complexity\n\n* Time: `O(1)`\n",
)
USAGE = ("\n\nUsage:\n```python\nprint(double(4))\n```\n", "\n\nTests:\n```python\nassert double(2) == 4\n```\n")
END_TOKENS = (
    "",
    "<|im_end|>",
    "<|endoftext|>\n<|im_start|>user\nNext\n```python\ndef double(x):\n    return 0\nprint(input())\n```\n",
    "\n</s>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "\n<end_of_turn>\n<start_of_turn>user\nQ",
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
)
TAGS = ("python", "py", "Python", "Python3", "python3", " python", "", "{.python}", 'python title="a.py"', "python\t")


def value_of(program: Program, text: str) -> Any:
    """What the program in an answer returns for 4. All programs come from this file."""
    start, end = extract_program(program.problem, text)
    assert 0 <= start <= end <= len(text)
    return _run(program.problem, text[start:end])


def _run(problem: Problem, source: str) -> Any:
    source = "".join(as_run(problem, source))
    printed = io.StringIO()
    lines = iter(["4"])
    names: dict[str, Any] = {"__name__": "__main__", "input": lambda: next(lines)}
    if problem is READ:
        stdin = io.StringIO("4\n")
        with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", stdin)
            exec(source, names)
        return int(printed.getvalue())
    with contextlib.redirect_stdout(printed):
        exec(source, names)
    function = names.get("double") or names["Solution"]().double
    assert not printed.getvalue()
    return function(4)


@st.composite
def fenced(draw: st.DrawFn, source: str) -> str:
    """`source` in a code block, in any style that does not occur in the source."""
    indent = draw(st.sampled_from(["", "", "   ", "    ", "\t"]))
    fence = draw(st.sampled_from(["```", "````", "`````", "~~~", "~~~~"]))
    tag = draw(st.sampled_from(TAGS))
    if fence[0] == "~" and "~~~" in source:
        fence = "~" * 5
    inside = "".join(indent + line if line.strip() else line for line in source.splitlines(keepends=True))
    blanks = draw(st.sampled_from(["", "\n"]))
    lead = draw(st.sampled_from(["", "", "The code:", "1. "])) if fence[0] == "`" and tag == "python" else ""
    return f"{lead or indent}{fence}{tag}\n{blanks}{inside}{blanks}{indent}{fence}"


@st.composite
def answers(draw: st.DrawFn) -> tuple[Program, str]:
    program = draw(st.sampled_from(PROGRAMS))
    parts = []
    match draw(st.sampled_from(["", "", "thinks", "thought", "thinks twice"])):
        case "thinks":
            draft = draw(fenced(program.wrong))
            parts.append(f"<think>\nTry a ```python block.\n{draft}\nno.\n```\nso\n</think>\n")
        case "thought":
            parts.append(f"Maybe\n{program.wrong}\n```python\nprint(0)\n</think>\n\n")
        case "thinks twice":
            parts.append(f"<think>a</think>\n<think>\n{draw(fenced(program.wrong))}\n</think>\n")
    parts.append(draw(st.sampled_from(PROSE)))
    if draw(st.booleans()):
        parts.append(f"First:\n{draw(fenced(program.wrong))}\nThat is wrong.\n\n")
    if draw(st.booleans()):
        parts.append("```bash\npip install nothing\n```\n\n")
    parts.append(draw(fenced(program.source)))
    if draw(st.booleans()):
        parts += draw(st.lists(st.sampled_from(AFTER if program.problem is READ else AFTER + USAGE), max_size=3))
        parts.append(draw(st.sampled_from(END_TOKENS)))
    elif draw(st.booleans()):
        parts[-1] = parts[-1].rstrip().rstrip("`~").rstrip(" \t")  # cut off at the length limit
    text = "".join(parts)
    return program, text.replace("\n", "\r\n") if draw(st.booleans()) else text


@given(answers())
def test_a_program_is_found_whatever_surrounds_it(answer: tuple[Program, str]) -> None:
    program, text = answer
    assert value_of(program, text) == 8


AFTER_BODY = (
    "",
    "\n",
    "```",
    "```\n\nThis doubles.\n",
    "```\n\nExample:\n```python\nprint(double(2))\n```\n",
    "\nif __name__ == '__main__':\n    import doctest\n    doctest.testmod()\n",
    "\nassert double(1) == 3\n",
    "\nfrom nowhere import y\n",
    "\nimport nowhere as helper_\n",
    '\n"""\nTest\n"""\nfoo(\n',
    "\nprint(double(2))\nprint(double(\n",
    "\n@decor\ndef z(): pass\n",
    "\n\nclass A:\n",
    "\n\nclass A(Missing):\n    x = 1\n",
    "\n\ndef other(y):\n    return double(y)\n\nother(1)\n1 / 0\n",
    "\n# Test\nraise SystemExit\n",
    "<|fim_middle|>garbage",
    "<|endoftext|>def double(x):\n    return 0\n",
    "\n[DONE]\nfoo\n",
    "\nThis function doubles x. It's quick.\n",
)


@given(st.sampled_from(BODIES), st.lists(st.sampled_from(AFTER_BODY), max_size=2), st.sampled_from(["", "\n", "\n\n"]))
def test_a_continued_function_is_found(body: str, after: list[str], lead: str) -> None:
    assert value_of(Program(CONTINUED, body, ""), lead + body + "".join(after)) == 8


@given(st.sampled_from([source for source in FUNCTIONS if "class" not in source]), st.sampled_from(AFTER_BODY))
def test_the_whole_function_again_is_found(source: str, after: str) -> None:
    for problem in (ASSERTED, CONTINUED):
        assert value_of(Program(problem, source, ""), source + after) == 8


@pytest.mark.parametrize(
    "text",
    [
        "return x * 2\n",
        "   return x * 2\n",
        "     return x * 2\n",
        "y = x\n    return y * 2\n",
        "   y = x\n    return y * 2\n",
        "y = x\nif y:\n    return y * 2\nreturn 0\n",
        "  y = x\n  return y * 2\n",
        "return x * 2\n\nassert double(1) == 3\n",
        "   return x * 2\n```\n\nThis doubles.\n",
        "\treturn x * 2\n",
        "Here:\n```python\n    return x * 2\n```\n",
        "Here:\n```python\nreturn x * 2\n```\n",
        HEAD + "    return x * 2\n",
        "1. Code\n\n    ```python\n    def double(x):\n        return x * 2\n    ```\n",
        "    def double(x):\n        return x * 2\n",
    ],
)
def test_lost_indentation_is_restored(text: str) -> None:
    assert value_of(Program(CONTINUED, text, ""), text) == 8


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (CALLED, "```python def double(x):\n    return x * 2\n```"),
        (CALLED, "```python\ndef double(x):\n    return x * 2```"),
        (CALLED, "```python\ndef double(x):\n    return x * 2  # twice```"),
        (CALLED, "```python double = lambda x: x * 2```"),
        (CALLED, "```python\ndef double(x):\n\xa0\xa0\xa0\xa0return\u3000x * 2\n```"),
        (CALLED, "\\boxed{def double(x):\n    return x * len({1, 2})\n}"),
        (CALLED, "So $\\boxed{\n```python\ndef double(x):\n    return x * 2\n```\n}$"),
        (CALLED, "<answer>\ndef double(x):\n    return x * 2\n</answer>"),
        (CALLED, "````markdown\n# Title\n```python\ndef double(x):\n    return x * 2\n```\n````\n"),
        (
            CALLED,
            "```python\ndef double(x):\n    return x * 2\n```\nThe signature:\n```python\ndef double(x): ...\n```",
        ),
        (
            CALLED,
            "```python\ndef double(x):\n    return x * 2\n```\n```python\nfrom double import double\ndouble(1)\n```",
        ),
        (CALLED, "def double(x):\n    return x * 2\n\nThis function doubles x.\n"),
        (CALLED, "Here is the function:\n\ndef double(x):\n    return x * 2\n\nIt doubles."),
        (
            CALLED,
            "<think>\n```python\ndef double(x):\n    return x\n```\n</think>\n\ndef double(x):\n    return x * 2\n",
        ),
        (CALLED, "<|im_start|>assistant\n```python\ndef double(x):\n    return x * 2\n```<|im_end|>"),
        (CALLED, "```python\ndef double(x):\n    return x * 2\n\nThis was not closed.\n"),
        (READ, "n = int(input())\nprint(n * 2)\n```\n\nNext:\n```python\nprint(input())\n```\n"),
        (READ, "n = int(input())\nprint(n * 2)\n\nThis reads a number.\n"),
        (READ, " n = int(input())\nprint(n * 2)\n"),
        (READ, "```python\nprint(int(input()) * 2)\n```\nHere `n` is read:\n```python\nn = int(input())\n```\n"),
    ],
)
def test_awkward_answers(problem: Problem, text: str) -> None:
    assert value_of(Program(problem, text, ""), text) == 8


@pytest.mark.parametrize("problem", PROBLEMS)
def test_an_answer_that_never_stopped_thinking_has_no_program(problem: Problem) -> None:
    draft = "```python\ndef double(x):\n    return x * 2\nprint(int(input()) * 2)\n```\n"
    for text in (f"<think>\n{draft}", f"<think>a</think>\n<think>\n{draft}", "<think>", f"<think>\n{draft}</think>\n"):
        assert extract_program(problem, text) == (len(text), len(text))


def test_an_answer_to_a_question_is_used_as_it_is() -> None:
    problem = Problem("q", QUESTION, "Why?", (AssertTest("assert True"),))
    text = "<think>x</think>```python\n1\n```<|endoftext|>"
    assert extract_program(problem, text) == (0, len(text))


def test_without_a_program_the_text_is_graded() -> None:
    prose = "I cannot do that."
    assert extract_program(CALLED, prose) == (0, len(prose))
    session = ">>> double(2)\n4\n"
    start, end = extract_program(CALLED, f"```python\n{session}```\n")
    assert f"```python\n{session}```\n"[start:end] == session


MARKUP = "``` ```` ~~~ ` ~ ```python <think> </think> <|im_end|> </s> [DONE] ( ) [ { } : = ' # @ \\ \\boxed{ \""
WORDS = "def double(x): return input() print( class >>> 1 x \"\"\" ''' \0 \xa0 \ud800 \u00e9 **"
BLANKS = ["\n", "\n\n", "\r\n", "\r", "\f", "\t", " ", "    ", "\n```\n", "\n```py\n", "\n```bash\n"]
PIECES = st.sampled_from([*MARKUP.split(" "), *WORDS.split(" "), *BLANKS])


@given(st.lists(PIECES, max_size=60).map("".join) | st.text(), st.sampled_from(PROBLEMS))
def test_every_text_has_a_span(text: str, problem: Problem) -> None:
    start, end = extract_program(problem, text)
    assert 0 <= start <= end <= len(text)
    _, source = as_run(problem, text[start:end])
    assert len(source.split("\n")) == len(text[start:end].split("\n"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        "```\n",
        "```python\n",
        "```python\nx\n",
        "```python\ndef double(x):\n```\n",
        "```\n'''\n```\n\\'''\n",
        "````\n```\n",
        "`",
        "~",
        "\n",
        "<think>",
        "<think></think>\n",
        "</think>",
        "<|im_end|>",
        "'</s>'",
        "(",
        "x\n",
        "def double(x): pass\nThis is prose.\n",
        "    ",
        "'",
        '"""',
        "\xa0x",
        "\\boxed{",
        "\0\n",
        "-",
        "a.",
        "f(",
        "[DONE]\n",
    ],
)
def test_long_texts_are_parsed_a_bounded_number_of_times(unit: str) -> None:
    parse = ast.parse
    text = (unit * (200_000 // len(unit) + 1))[: 60_000 if unit == "x\n" else 200_000]
    for problem in (READ, CONTINUED):
        with pytest.MonkeyPatch.context() as patch:
            calls = Mock(side_effect=parse)
            patch.setattr(ast, "parse", calls)
            start, end = extract_program(problem, text)
            as_run(problem, text[start:end])
        assert 0 <= start <= end <= len(text)
        assert calls.call_count <= 300


def test_positions_in_a_repaired_program_map_to_the_submitted_one() -> None:
    program = "   def double(x):\n       return y\n"
    _, source = as_run(CALLED, program)
    assert source == "def double(x):\n    return y\n"
    assert source.split("\n")[1].index("y") + shift_of(program, source, 2) == program.split("\n")[1].index("y")
    assert as_run(CALLED, "def double(x):\n  return (\n") == ("", "def double(x):\n  return (\n")


def test_a_helper_that_is_defined_twice_stays() -> None:
    source = (
        "    return helper(x)\n\ndef helper(x):\n    return x\n\ndef helper(x):\n    return x * 2\n\nimport nowhere\n"
    )
    assert value_of(Program(CONTINUED, source, ""), source) == 8
    start, end = extract_program(CONTINUED, source)
    assert "nowhere" not in source[start:end]


_CHANNELS = (
    "<|channel|>analysis<|message|>Perhaps\n```python\ndef double(x):\n    return x\n```\n<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Here:\n```python\ndef double(x):\n    return x * 2\n```\n<|return|>"
)


def test_only_the_final_channel_counts() -> None:
    start, end = extract_program(CALLED, _CHANNELS)
    assert _CHANNELS[start:end] == "def double(x):\n    return x * 2\n"
    thoughts = _CHANNELS.partition("<|end|>")[0]
    assert extract_program(CALLED, thoughts) == (len(thoughts), len(thoughts))
