"""A sandbox worker that some programs kill, in a module that Ray's processes can import."""

from __future__ import annotations

import os
import signal

from rltf.problems.types import Problem
from rltf.sandbox.compare import Comparison
from rltf.sandbox.verdict import Verdict
from rltf.serving.cluster import ServingWorker

DEADLY = "print('the end of its worker')"


class FragileWorker(ServingWorker):
    """Dies of one program."""

    def grade_one(self, problem: Problem, program: str, completion_id: str, comparison: Comparison) -> Verdict:
        if program == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().grade_one(problem, program, completion_id, comparison)
