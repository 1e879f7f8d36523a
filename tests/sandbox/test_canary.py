"""The canary: a program searches all memory that it can read for what earlier programs and tests left there."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from problems.types import CallTest, CheckTest, StdinTest, Test
from sandbox.sandbox import Sandbox
from sandbox.verdict import Isolation, Outcome, Verdict
from settings import MIB, SandboxSettings
from tests.sandbox.attacks.memory import earlier
from tests.sandbox.attacks.search import FINDS_NOTHING, PREFIX, WHOLE_MEMORY, thief
from tests.sandbox.attacks.shape import SQUARE, problem

LIMITS = SandboxSettings(cpu_s=4.0, wall_s=10.0, program_wall_s=60.0, memory_bytes=256 * MIB)
HONEST = "print(int(input()) ** 2)"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
        yield sandbox


class Markers:
    """Random markers, each with the place that it was put in."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}

    def new(self, place: str) -> str:
        digits = next((known for known, where in self.places.items() if where == place), secrets.token_hex(8))
        self.places[digits] = place
        return PREFIX.decode() + digits

    def found(self, verdict: Verdict) -> set[str]:
        """The places whose markers a searcher reports; a searcher that came to no end fails the test."""
        if verdict.error is None or not verdict.error.message.startswith("found "):
            assert verdict.outcome in (Outcome.PASSED, Outcome.FAILED), verdict
            return set()
        # A long message is cut off, perhaps within a marker.
        return {self.places.get(digits, digits) for digits in verdict.error.message.split()[1:] if len(digits) == 16}


@pytest.mark.parametrize("kind", FINDS_NOTHING)
def test_nothing_of_earlier_programs_is_in_memory(sandbox: Sandbox, kind: str) -> None:
    markers, found = Markers(), set()
    searcher = thief(WHOLE_MEMORY)
    for step in earlier(markers.new):
        assert sandbox.grade(step.problem, step.source, "0").outcome in step.outcomes
        # After each, since what comes next may hide it.
        found |= markers.found(sandbox.grade(FINDS_NOTHING[kind], searcher, "0"))
    assert found == set()
    assert sandbox.num_restarts == 0
    assert sandbox.grade(SQUARE, HONEST, "0").passed


@pytest.mark.parametrize("kind", ["stdin", "call", "check"])
def test_nothing_of_the_programs_other_tests_is_in_memory(sandbox: Sandbox, kind: str) -> None:
    markers = Markers()
    given = [markers.new(f"input or answer of test {n}") for n in range(3)]
    wanted = [markers.new(f"expected value of test {n}") for n in range(3)]
    tests: dict[str, list[Test]] = {
        "stdin": [StdinTest(f"{text}\n", f"{right}\n") for text, right in zip(given, wanted, strict=True)],
        "call": [CallTest("f", (text,), right) for text, right in zip(given, wanted, strict=True)],
        "check": [
            CheckTest(f"RIGHT = '{right}'\ndef check(candidate):\n    assert candidate('{text}') == RIGHT\n", "f")
            for text, right in zip(given, wanted, strict=True)
        ],
    }
    last: dict[str, Test] = {
        "stdin": StdinTest("search\n", "nothing\n"),
        "call": CallTest("f", ("search",), "nothing"),
        "check": CheckTest("def check(candidate):\n    assert candidate('search') == 'nothing'\n", "f"),
    }
    # The others' tests answer with their input turned round and doubled; the last one searches.
    program = thief(WHOLE_MEMORY).replace("    search()\n", "    if _ != 'search': return _ + _[::-1]\n    search()\n")
    verdict = sandbox.grade(problem(*tests[kind], last[kind]), program, "0")
    assert verdict.tests[:3] == (Outcome.FAILED,) * 3
    assert markers.found(verdict) == set()
    assert verdict.tests[3] is Outcome.PASSED, verdict


# Markers that the searcher itself puts into its memory, each in a place that a search could miss.
PLANTS = {
    "a text": "kept = MARK.decode()",
    "a freed object": "garbage = [bytes(MARK) + b'.' * 200 for _ in range(1000)]\ndel garbage",
    "a freed buffer of the allocator": "import ctypes\n"
    "buffers = [ctypes.create_string_buffer(b'.' * 99 + MARK, 9000) for _ in range(9)]\n"
    "del buffers",
    "a mapping, across two pages": "import mmap\nkept = mmap.mmap(-1, 1 << 20)\nkept[4090:4090 + len(MARK)] = MARK",
    "a mapping across two blocks": "import mmap\nkept = mmap.mmap(-1, 1 << 20)\n"
    "for at in range(4096 - 12, (1 << 20) - 4096, 4096): kept[at:at + len(MARK)] = MARK",
    "a mapping that may only be read": "import ctypes, mmap\nkept = mmap.mmap(-1, 8192)\nkept[:len(MARK)] = MARK\n"
    "at = ctypes.addressof(ctypes.c_char.from_buffer(kept))\n"
    "ctypes.CDLL(None).mprotect(ctypes.c_void_p(at), ctypes.c_size_t(8192), 1)",
    "a large object": "kept = bytearray(32 << 20)\nkept[20 << 20:(20 << 20) + len(MARK)] = MARK",
    "the stack": "import ctypes\nlibc = ctypes.CDLL(None)\n"
    "ctypes.memmove(ctypes.c_void_p.in_dll(libc, 'environ').value - 20000, MARK, len(MARK))",
}


@pytest.mark.parametrize("kind", FINDS_NOTHING)
@pytest.mark.parametrize("plant", PLANTS)
def test_the_searcher_finds_what_is_there(sandbox: Sandbox, plant: str, kind: str) -> None:
    markers = Markers()
    digits = markers.new(plant)[len(PREFIX) :]
    source = thief(WHOLE_MEMORY)
    head = source.partition("PATTERN = re.compile(")[2].partition(" + b'[0-9a-f]'")[0]
    source = f"MARK = b''.join([{head}, b'{digits[:8]}', b'{digits[8:]}'])\n{PLANTS[plant]}\ndel MARK\n{source}"
    assert markers.found(sandbox.grade(FINDS_NOTHING[kind], source, "0")) == {plant}
