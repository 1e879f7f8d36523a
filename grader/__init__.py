"""The sandboxed grader for other people's trainers: problems and programs in, typed verdicts out.

    from rltf.grader import Grader

    with Grader(workers=8) as grader:
        verdicts = grader.grade(problems, programs)

Invariants: verdicts come in the order of the programs. An error of the grader is never a wrong answer
(`Verdict.is_grader_error`). Rows that cannot be used are refused before anything runs. No process is left when the
grader is closed, or when the interpreter ends. Importing this room imports neither Ray nor models.
"""

from errors import UserError
from grader.grader import Grader
from grader.rows import problem_from_row
from problems.types import Problem
from sandbox.compare import Comparison
from sandbox.verdict import Isolation, Outcome, ProgramError, Verdict
from settings import SandboxSettings

__all__ = [
    "Comparison",
    "Grader",
    "Isolation",
    "Outcome",
    "Problem",
    "ProgramError",
    "SandboxSettings",
    "UserError",
    "Verdict",
    "problem_from_row",
]
