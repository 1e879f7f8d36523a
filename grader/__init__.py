"""The sandboxed grader for other people's trainers: problems and programs in, typed verdicts out.

    from rltf.grader import Grader

    with Grader(workers=8) as grader:
        verdicts = grader.grade(problems, programs)

Invariants: verdicts come in the order of the programs. An error of the grader is never a wrong answer
(`Verdict.is_grader_error`). Rows that cannot be used are refused before anything runs. No process is left when the
grader is closed, or when the interpreter ends. Importing this room imports neither Ray nor models.
"""

from rltf.errors import UserError as UserError
from rltf.grader.grader import Grader as Grader
from rltf.grader.rows import problem_from_row as problem_from_row
from rltf.problems.types import Problem as Problem
from rltf.sandbox.compare import Comparison as Comparison
from rltf.sandbox.verdict import Isolation as Isolation
from rltf.sandbox.verdict import Outcome as Outcome
from rltf.sandbox.verdict import ProgramError as ProgramError
from rltf.sandbox.verdict import Verdict as Verdict
from rltf.settings import SandboxSettings as SandboxSettings
