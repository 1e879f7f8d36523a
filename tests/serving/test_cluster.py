"""The server's programs in the sandboxes of a Ray cluster."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from rltf.errors import UserError
from rltf.problems.types import AssertTest, Problem, StdinTest
from rltf.sandbox.jobs import End, StdinJob
from rltf.serving.cluster import ClusterGrader
from rltf.settings import SandboxSettings

pytestmark = pytest.mark.usefixtures("ray_session")
SQUARE = Problem("square", "Square it.", "jsonl", (StdinTest("3", "9"), StdinTest("4", "16")))
RIGHT, WRONG = "print(int(input()) ** 2)", "print(9)"


def test_programs_are_graded_in_the_cluster_and_again_if_their_worker_dies() -> None:
    settings = SandboxSettings(min_workers=1, max_workers=2, num_cpus=0.5, min_isolation="rlimits")

    async def scenario() -> None:
        async with ClusterGrader(settings, heartbeat_timeout_s=60.0) as grader:
            problem = grader.usable(SQUARE)
            calls = [grader.grade(problem, program, str(n)) for n, program in enumerate([RIGHT, WRONG] * 8)]
            graded = asyncio.gather(*calls)
            await asyncio.sleep(0.2)
            for process in psutil.process_iter(["cmdline"]):
                if "ray::ServingWorker" in "".join(process.info["cmdline"] or ()):
                    process.kill()
            verdicts = await graded
            assert [(verdict.completion_id, verdict.pass_ratio) for verdict in verdicts] == [
                (str(n), 1.0 if n % 2 == 0 else 0.5) for n in range(16)
            ]
            result = await grader.run("print(input() * 2)", StdinJob(b"ab"))
            assert (result.end, result.stdout) == (End.OK, b"abab\n")
            with pytest.raises(UserError, match=r"problem numbers cannot be graded: .*numpy"):
                grader.usable(Problem("numbers", "", "jsonl", (AssertTest("import numpy\nassert f()"),)))

    asyncio.run(scenario())
