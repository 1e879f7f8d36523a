"""The category of an error is the same in every supported Python, even though messages and lines differ."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from functools import cache

import pytest

from rltf.rewards import Category
from rltf.rewards.lines import unclosed_triple_quote_line, unmatched_dedent_line
from rltf.sandbox.verdict import Outcome, ProgramError
from tests.rewards.samples import character_tokens, make_verdict, plain, score_one

VERSIONS = ("3.11", "3.12", "3.13")

# Reads a JSON list of programs. For each, it prints the class, line and message of the compiler's error or, if it
# compiles, of the exception it raises, with the line of the innermost frame inside the program.
REPORT = r"""
import json, sys, traceback, warnings
warnings.simplefilter("ignore")
found = []
for program in json.load(sys.stdin):
    try:
        code = compile(program, "<program>", "exec")
    except SyntaxError as error:
        found.append(["syntax_error", type(error).__name__, error.lineno, error.msg])
        continue
    try:
        exec(code, {})
    except BaseException as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == "<program>"]
        found.append(["runtime_error", type(error).__name__, lines[-1], str(error)])
    else:
        found.append(["passed", None, None, ""])
print(json.dumps(found))
"""

BROKEN = (
    ("x = '''never closed\nthe end\n", Category.GLOBAL),
    ('y = 1\nx = f"""never {y} closed\nthe end\n', Category.GLOBAL),
    ("if x:\n    y\n  z\n", Category.GLOBAL),
    ("if 1:\n\tx = 1\n        y = 2\n", Category.GLOBAL),  # tabs and spaces: a TabError
    ("if x:\ny\n", Category.LINE),
    ("x = 1\n  y = 2\n", Category.LINE),
    ("x = 'never closed\n", Category.LINE),
    ("x = f'never {closed\n", Category.LINE),
    ("x = (1,\n2\n", Category.LINE),
    ("def f(:\n    pass\n", Category.LINE),
    ("x = 1\nprint x\n", Category.LINE),
    ("return 1\n", Category.LINE),
    ("x = 1\nreverse(x)\n", Category.LINE),
    ("import nothing_of_this_name\n", Category.LINE),
    ("from math import nothing_of_this_name\n", Category.LINE),
    ("x = [1]\ny = (\n    x[\n        3\n    ]\n)\n", Category.LINE),
    ("x = 1 + '1'\n", Category.LINE),
    ("x = {}['k']\n", Category.LINE),
    ("x = 1 / 0\n", Category.LINE),
    ("x = int('a')\n", Category.LINE),
    ("x = 'a'.b\n", Category.LINE),
    ("import json\njson.loads('{')\n", Category.LINE),
    ("assert False\n", Category.LINE),
    ("class Mine(Exception):\n    pass\nraise Mine('!')\n", Category.LINE),
    ("try:\n    1 / 0\nexcept* ZeroDivisionError:\n    raise KeyError(1)\n", Category.LINE),
    ("def f():\n    return f()\nf()\n", Category.GLOBAL),  # RecursionError
    ("x = 1\n", None),
)


@cache
def interpreter(version: str) -> tuple[str, dict[str, str]] | None:
    """A Python of this version, on the path or in pyenv, with the environment it needs; None if there is none."""
    environments = [dict(os.environ)]
    if shutil.which("pyenv"):
        known = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True).stdout.split()
        environments += [os.environ | {"PYENV_VERSION": name} for name in known if name.startswith(f"{version}.")]
    for environment in environments:
        found = shutil.which(f"python{version}")
        if found and subprocess.run([found, "-c", ""], env=environment, capture_output=True).returncode == 0:
            return found, environment
    return None


def report(version: str, programs: list[str]) -> list[tuple[str, str, int, str]]:
    found = interpreter(version)
    if found is None:
        pytest.skip(f"no python{version} on this machine")
    command, environment = found
    done = subprocess.run(
        [command, "-I", "-c", REPORT],
        input=json.dumps(programs),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [tuple(row) for row in json.loads(done.stdout)]


@pytest.mark.parametrize("version", VERSIONS)
def test_categories_are_the_same_in_every_python(version: str) -> None:
    reports = report(version, [program for program, _ in BROKEN])
    for (program, expected), (outcome, kind, line, message) in zip(BROKEN, reports, strict=True):
        error = None if expected is None else ProgramError(kind, message, line)
        verdict = make_verdict(Outcome(outcome), (Outcome(outcome),), error=error)
        scored = score_one(character_tokens(program), verdict, plain("rltf"))
        assert scored.category is expected, (program, kind, line, message)


@pytest.mark.parametrize("version", VERSIONS)
def test_facts_agree_with_every_compiler(version: str) -> None:
    rng = random.Random(0)
    blanks = ["", " ", "  ", "    ", "\t"]
    texts = ["", "x", "if x:", "(", ")", "x = [1,", "]", "'''", '"""', "'", "# it's", "x \\", "f'{x}'", "r'''a\\'''"]
    programs = [
        "\n".join(rng.choice(blanks) + rng.choice(texts) for _ in range(rng.randint(1, 7))) for _ in range(3000)
    ]
    broken = 0
    for program, (outcome, kind, line, message) in zip(programs, report(version, programs), strict=True):
        if outcome != "syntax_error":
            assert unclosed_triple_quote_line(program) is None, program
            assert unmatched_dedent_line(program) is None, program
        elif "unterminated triple-quoted" in message:
            broken += 1
            assert unclosed_triple_quote_line(program) == line, program
        elif "unindent does not match" in message:
            broken += 1
            assert unmatched_dedent_line(program) == line, program
        elif kind == "IndentationError":
            assert unmatched_dedent_line(program) != line, program
    assert broken > 100
