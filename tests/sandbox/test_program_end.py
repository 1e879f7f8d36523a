"""Whatever a program writes arrives, through whatever stream, as it would with plain Python."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rltf.problems.types import Problem, StdinTest
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Outcome

# The template of fast contest programs. Its `flush` needs the program's own imports.
FAST_STREAMS = """
import os, sys
from io import BytesIO, IOBase

class FastIO(IOBase):
    def __init__(self, file):
        self._fd = file.fileno()
        self.buffer = BytesIO()
        self.writable = "x" in file.mode or "r" not in file.mode
        self.write = self.buffer.write if self.writable else None

    def flush(self):
        if self.writable:
            os.write(self._fd, self.buffer.getvalue())
            self.buffer.truncate(0), self.buffer.seek(0)

class IOWrapper(IOBase):
    def __init__(self, file):
        self.buffer = FastIO(file)
        self.flush = self.buffer.flush
        self.writable = self.buffer.writable
        self.write = lambda s: self.buffer.write(s.encode("ascii"))

number = int(input())
sys.stdout = IOWrapper(sys.stdout)
print(number ** 2)
"""
REPLACED_AND_RESTORED = """
import sys
from io import StringIO
real, sys.stdout = sys.stdout, StringIO()
print(int(input()) ** 2)
real.write(sys.stdout.getvalue())
sys.stdout = real
"""
AT_EXIT = """
import atexit, sys
from io import StringIO
sys.stdout = StringIO()
atexit.register(lambda: sys.__stdout__.write(sys.stdout.getvalue()))
print(int(input()) ** 2)
"""
FINALIZER = """
class Last:
    def __del__(self):
        print(25)
last = Last()
"""
OPEN_FILE = "f = open(1, 'w')\nf.write('25')\n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as made:
        yield made


@pytest.mark.parametrize("program", [FAST_STREAMS, REPLACED_AND_RESTORED, AT_EXIT, FINALIZER, OPEN_FILE])
def test_what_was_written_arrives(sandbox: Sandbox, program: str) -> None:
    problem = Problem("1", "own", "Square.", (StdinTest("5\n", "25\n"),))
    verdict = sandbox.grade(problem, program, "0")
    assert verdict.outcome is Outcome.PASSED, verdict
