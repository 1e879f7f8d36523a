"""The canary: a program searches all the memory that it can read for traces of earlier programs and tests."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from rltf.problems.types import CallTest, CheckTest, StdinTest, Test
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation, Outcome, Verdict
from rltf.settings import MIB, SandboxSettings
from tests.sandbox.attacks.memory import earlier
from tests.sandbox.attacks.search import FINDS_NOTHING, PREFIX, WHOLE_MEMORY, thief
from tests.sandbox.attacks.shape import SQUARE, problem
from tests.sandbox.crew import Crew, crew_of, selected

pytestmark = pytest.mark.slow

LIMITS = SandboxSettings(cpu_s=4.0, wall_s=10.0, program_wall_s=60.0, memory_bytes=256 * MIB)
HONEST = "print(int(input()) ** 2)"


@pytest.fixture(scope="module")
def crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    programs = selected(request, "kind", test="test_nothing_of_earlier_programs_is_left")
    tests = selected(request, "kind", test="test_nothing_of_other_tests_is_left")
    cases = [
        *((search_after_others, *case) for case in programs),
        *((search_after_tests, *case) for case in tests),
        *((search_for_plant, *case) for case in selected(request, "plant", "kind")),
    ]
    with crew_of(lambda: Sandbox(LIMITS, Isolation.LANDLOCK), cases) as crew:
        yield crew


class Markers:
    """Random markers, and the place where each was put."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self.places: dict[str, str] = {}

    def new(self, place: str) -> str:
        digits = f"{random.Random(f'{self._seed}: {place}').getrandbits(64):016x}"
        self.places[digits] = place
        return PREFIX.decode() + digits

    def found(self, verdict: Verdict) -> set[str]:
        """The places whose markers a search reports. A search that did not finish fails the test."""
        if verdict.error is None or not verdict.error.message.startswith("found "):
            assert verdict.outcome in (Outcome.PASSED, Outcome.FAILED), verdict
            return set()
        # A long message is cut off, perhaps in the middle of a marker.
        return {self.places.get(digits, digits) for digits in verdict.error.message.split()[1:] if len(digits) == 16}


def search_after_others(sandbox: Sandbox, kind: str) -> None:
    restarts, markers, found = sandbox.num_restarts, Markers(f"programs, {kind}"), set()
    searcher = thief(WHOLE_MEMORY)
    for step in earlier(markers.new):
        assert sandbox.grade(step.problem, step.source, "0").outcome in step.outcomes
        # Search after each step, since the next one may hide what it left.
        found |= markers.found(sandbox.grade(FINDS_NOTHING[kind], searcher, "0"))
    assert found == set()
    assert sandbox.num_restarts == restarts
    assert sandbox.grade(SQUARE, HONEST, "0").passed


def search_after_tests(sandbox: Sandbox, kind: str) -> None:
    markers = Markers(f"tests, {kind}")
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
    # The program answers the first tests with their input doubled and reversed, and searches in the last one.
    program = thief(WHOLE_MEMORY).replace("    search()\n", "    if _ != 'search': return _ + _[::-1]\n    search()\n")
    verdict = sandbox.grade(problem(*tests[kind], last[kind]), program, "0")
    assert verdict.tests[:3] == (Outcome.FAILED,) * 3
    assert markers.found(verdict) == set()
    assert verdict.tests[3] is Outcome.PASSED, verdict


# How the search plants a marker in its own memory, each time in a place that a search could miss.
PLANTS = {
    "a text": "kept = MARK.decode()",
    "a freed object": "garbage = [bytes(MARK) + b'.' * 200 for _ in range(1000)]\ndel garbage",
    "a freed buffer of the allocator": "import ctypes\n"
    "buffers = [ctypes.create_string_buffer(b'.' * 99 + MARK, 9000) for _ in range(300)]\n"
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


def search_for_plant(sandbox: Sandbox, plant: str, kind: str) -> None:
    markers = Markers(f"plant, {kind}")
    digits = markers.new(plant)[len(PREFIX) :]
    source = thief(WHOLE_MEMORY)
    head = source.partition("PATTERN = re.compile(")[2].partition(" + b'[0-9a-f]'")[0]
    source = f"MARK = b''.join([{head}, b'{digits[:8]}', b'{digits[8:]}'])\n{PLANTS[plant]}\ndel MARK\n{source}"
    assert markers.found(sandbox.grade(FINDS_NOTHING[kind], source, "0")) == {plant}


@pytest.mark.parametrize("kind", FINDS_NOTHING)
def test_nothing_of_earlier_programs_is_left(crew: Crew, kind: str) -> None:
    crew.wait_for(search_after_others, kind)


@pytest.mark.parametrize("kind", ["stdin", "call", "check"])
def test_nothing_of_other_tests_is_left(crew: Crew, kind: str) -> None:
    crew.wait_for(search_after_tests, kind)


@pytest.mark.parametrize("kind", FINDS_NOTHING)
@pytest.mark.parametrize("plant", PLANTS)
def test_search_finds_what_is_there(crew: Crew, plant: str, kind: str) -> None:
    crew.wait_for(search_for_plant, plant, kind)
