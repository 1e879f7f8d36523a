"""More cases like the field cases: what a test may be, and what an honest program may do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rltf.errors import UserError
from rltf.problems import load
from rltf.sandbox.admission import reason_to_refuse
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings

_CHECK = "def check(candidate):\n"
_MANY = "    for i in range(2):\n        "
_SUM = "    return sum(xs)\n"
_RAISES = (
    _CHECK
    + "    try:\n        candidate([])\n    except {} as error:\n        assert {}\n    else:\n        assert False\n"
)
_ECHO = "def f(x):\n    return x\n"

# A `test` in HumanEval's format, the body of the program, and the outcome.
CHECKS = {
    "only asks whether it can be called": (_CHECK + "    assert callable(candidate)\n", _SUM, "passed"),
    "returns at its end": (_CHECK + "    assert candidate([1]) == 1\n    return True\n", _SUM, "passed"),
    "prints at its end": (_CHECK + "    assert candidate([1]) == 1\n    print('ok')\n    pass\n", _SUM, "passed"),
    "tests nothing": (_CHECK + "    print('ok')\n    pass\n", _SUM, "refused"),
    "calls by a helper": (
        "def h(f):\n    assert f([1]) == 1\n" + _CHECK + "    h(candidate)\n",
        "    return 2\n",
        "failed",
    ),
    "name of the program's exception": (
        _RAISES.format("Exception", "type(error).__name__ == 'Bad' and error.args == (1,)"),
        "    class Bad(Exception):\n        pass\n    raise Bad(1)\n",
        "passed",
    ),
    "number of a system error": (
        _RAISES.format("FileNotFoundError", "error.errno == 2 and error.filename == 'a' and \"'a'\" in str(error)"),
        "    open('a')\n",
        "passed",
    ),
    "calls from several threads": (
        f"import threading\n{_CHECK}    found = []\n"
        "    threads = [threading.Thread(target=lambda: found.append(candidate([1]))) for _ in range(8)]\n"
        "    [thread.start() for thread in threads]\n    [thread.join() for thread in threads]\n"
        "    assert found == [1] * 8\n",
        _SUM,
        "passed",
    ),
    "reads what was printed": (
        "import io, contextlib\n" + _CHECK + "    out = io.StringIO()\n    with contextlib.redirect_stdout(out):\n"
        "        candidate([1])\n    assert out.getvalue() == 'hi\\n'\n",
        "    print('hi')\n",
        "refused",
    ),
    "replaces a builtin": (
        "from unittest.mock import patch\n" + _CHECK + "    with patch('builtins.input', return_value='3'):\n"
        "        assert candidate([1]) == 3\n",
        "    return int(input())\n",
        "refused",
    ),
    "asks an object": (_CHECK + "    found = candidate([1])\n    assert found.x == 1\n", _SUM, "refused"),
    "asks an object in a loop": (_CHECK + _MANY + "assert candidate([i]).x == 1\n", _SUM, "refused"),
    "asks a plain value": (_CHECK + "    found = candidate([1])\n    assert found.bit_length() == 1\n", _SUM, "passed"),
    "collects results": (
        _CHECK + "    results = []\n    for i in range(2):\n        results.append(candidate([i]))\n"
        "    assert results == [0, 1]\n",
        _SUM,
        "passed",
    ),
    "has inputs": (
        _CHECK + "    inputs = [[1], [2]]\n    for one in inputs:\n        assert candidate(one) == one[0]\n",
        _SUM,
        "passed",
    ),
}

# An assert, a program, and the outcome.
ASSERTIONS = {
    "callable": ("assert callable(f)", _ECHO, "passed"),
    "not callable": ("assert callable(f)", "f = 1\n", "failed"),
    "coroutine": ("assert asyncio.run(f(1)) == 1", "async " + _ECHO, "passed"),
    "wrong coroutine": ("assert asyncio.run(f(1)) == 2", "async " + _ECHO, "failed"),
    "a module nobody imports": ("assert f(math.pi) == math.pi", _ECHO, "passed"),
    "a name nobody imports": ("assert f(Counter('a')) == Counter('a')", _ECHO, "passed"),
    "the same in a check": ("assert set(f([math.pi])) == {math.pi}", _ECHO, "passed"),
    "the program's own name stays": ("assert f(sqrt(4)) == 7", "def sqrt(x):\n    return 7\n" + _ECHO, "passed"),
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxSettings(), Isolation.LANDLOCK) as sandbox:
        yield sandbox


def _outcome(sandbox: Sandbox, folder: Path, kind: str, row: dict[str, Any], program: str) -> str:
    path = folder / "problems.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    try:
        (problem,) = load(f"{kind}:{path}", reason_to_refuse(SandboxSettings())).problems
    except UserError:
        return "refused"
    return sandbox.grade(problem, program, "0").outcome.value


@pytest.mark.parametrize("name", CHECKS)
def test_checks_run_or_are_refused(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    test, program, wanted = CHECKS[name]
    prompt = 'def f(xs):\n    """Add them."""\n'
    row = {"task_id": "H/0", "prompt": prompt, "entry_point": "f", "canonical_solution": _SUM, "test": test}
    assert _outcome(sandbox, tmp_path, "humaneval", row, program) == wanted


@pytest.mark.parametrize("name", ASSERTIONS)
def test_assertions_need_no_imports(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    assertion, program, wanted = ASSERTIONS[name]
    row = {"task_id": "0", "statement": "s", "tests": [{"assert": assertion}]}
    assert _outcome(sandbox, tmp_path, "jsonl", row, program) == wanted
