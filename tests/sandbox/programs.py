"""What tests of the sandbox share: tight limits, and problems about squares."""

from __future__ import annotations

from rltf.problems.types import Problem, StdinTest, Test
from rltf.settings import SandboxSettings

LIMITS = SandboxSettings(cpu_s=0.5, wall_s=2.0, program_wall_s=20, program_cpu_s=2.0)
RIGHT = "print(int(input()) ** 2)"


def problem(*tests: Test, prefix: str = "") -> Problem:
    return Problem("p", "tests", "", tests, entry_point="f", code_prefix=prefix)


def squares(count: int) -> Problem:
    return problem(*(StdinTest(f"{i}\n", f"{i * i}\n") for i in range(count)))
