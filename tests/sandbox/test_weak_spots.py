"""Weak spots found in a later review: grader errors made at will, traces in the next verdict, expensive values."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from rltf.problems.types import AssertTest, CheckTest, Problem, StdinTest
from rltf.sandbox import codec
from rltf.sandbox.compare import apps_call_matches
from rltf.sandbox.jobs import End, StdinJob
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import MIB, SandboxSettings
from tests.sandbox.attacks.shape import SQUARE, problem

_LENGTH = struct.Struct("<I")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    limits = SandboxSettings(cpu_s=2.0, wall_s=5.0, memory_bytes=160 * MIB)
    with Sandbox(limits, min_isolation=Isolation.LANDLOCK) as sandbox:
        if sandbox.isolation is not Isolation.NAMESPACES_CGROUP:
            pytest.skip("without a control group nobody counts the jail's memory")
        yield sandbox


_ENDLESS = "def f(n):\n    while True:\n        yield 'x' * 200_000"
_MANY = "def f(n): return 8 * 10**6"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("on", "program"),
    [
        (problem(CheckTest("def check(candidate):\n    assert list(candidate(5)) == [25]\n", "f")), _ENDLESS),
        (problem(AssertTest("assert list(f(5)) == [25]")), _ENDLESS),
        (problem(CheckTest("def check(candidate):\n    assert list(range(candidate(5))) == [25]\n", "f")), _MANY),
    ],
    ids=["endless answer", "endless answer in an assert", "an answer that the test makes much of"],
)
def test_answers_that_fill_the_memory_of_a_test_count(sandbox: Sandbox, on: Problem, program: str) -> None:
    assert sandbox.grade(on, program, "0").outcome in (Outcome.MEMORY_LIMIT, Outcome.TIMEOUT, Outcome.FAILED)


def test_test_that_fills_its_own_memory_is_a_grader_error(sandbox: Sandbox) -> None:
    on = problem(CheckTest("def check(candidate):\n    x = [0]\n    while True:\n        x += x[:10**6]\n", "f"))
    assert sandbox.grade(on, "def f(n): return n", "0").outcome is Outcome.INFRASTRUCTURE_ERROR


def test_late_kill_is_not_blamed_on_the_next_program(sandbox: Sandbox) -> None:
    check = "def check(candidate):\n    assert candidate(7) == 49\n    for _ in range(6 * 10**6): pass\n"
    hog = "def hog():\n    x = []\n    while True: x.append(bytearray(1 << 20))\n"
    answer = "import threading\ndef f(n):\n    threading.Thread(target=hog).start()\n    return n * n"
    sandbox.grade(problem(CheckTest(check, "f")), hog + answer, "0")
    assert sandbox.grade(SQUARE, "import os\nos.kill(os.getpid(), 9)", "0").outcome is Outcome.RUNTIME_ERROR


@pytest.mark.slow
def test_tests_after_a_timeout_are_skipped(sandbox: Sandbox) -> None:
    many = problem(*(StdinTest(f"{n}\n", f"{n}\n") for n in range(4)))
    spin = "import time\nn = int(input())\nwhile n or time.process_time() < 1.5: pass\nprint(n)"
    wanted = (Outcome.PASSED, Outcome.TIMEOUT, Outcome.SKIPPED, Outcome.SKIPPED)
    assert sandbox.grade(many, spin, "0").tests == wanted


@pytest.mark.parametrize(
    "source",
    [
        "class Reader:\n    opens = open\nprint(Reader().opens('/dev/stdin').read())",
        "print(open(file='/dev/stdin').read())",
        "import os\nprint(os.read(os.open(path='/dev/stdin', flags=0), 9).decode())",
        "import os\nos.close(os.open(path='/tmp/x', flags=os.O_CREAT | os.O_WRONLY))\nprint(input())",
    ],
)
def test_open_works_however_it_is_called(sandbox: Sandbox, source: str) -> None:
    (result,) = sandbox.run(source, [StdinJob(b"25\n")])
    assert (result.end, result.stdout.strip()) == (End.OK, b"25"), result


def _atom(tag: bytes, content: bytes) -> bytes:
    return tag + _LENGTH.pack(len(content)) + content


@pytest.mark.slow
@pytest.mark.parametrize(
    "item",
    [
        *(_atom(b"/", b"a"), _atom(b"Q", b"1/3"), _atom(b"L", b"1,1,1"), _atom(b"O", b""), _atom(b"y", b"")),
        *(b"q" + _LENGTH.pack(1) + b"N", b"p" + _LENGTH.pack(10) + b"qq" + bytes(8), _atom(b"p", b"sq")),
    ],
)
def test_expensive_values_are_limited_by_their_cost(item: bytes) -> None:
    # Within the limit on bytes, these would take hundreds of megabytes or many seconds.
    count = 1_100_000
    with pytest.raises(codec.CodecError, match="too many values"):
        codec.decode(b"l" + _LENGTH.pack(count) + item * count)


def test_range_is_not_expanded_to_compare_it() -> None:
    assert not apps_call_matches([(1,), range(10**18)], [[[1], [2]]])
