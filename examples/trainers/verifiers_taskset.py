"""A taskset of verifiers 0.4 with your own problems."""

import json
from collections.abc import Iterator
from pathlib import Path

import verifiers.v1 as vf

from rltf.adapters.verifiers import task_reward

REQUEST = "Answer with one block of Python code.\n\n"


class ProblemData(vf.TaskData):
    """What the reward needs: the row of the problem as JSON."""

    problem: str


class ProblemTask(vf.Task[ProblemData]):
    """One problem, rewarded by its tests."""

    unit_tests = vf.reward(task_reward(score="pass_ratio"))


class ProblemsConfig(vf.TasksetConfig):
    """The file of problems, JSON lines."""

    rows: str = "examples/own_problems.jsonl"


__all__ = ["Problems"]


class Problems(vf.Taskset[ProblemTask, ProblemsConfig]):
    """The problems of a file."""

    def load(self) -> Iterator[ProblemTask]:
        for line in Path(self.config.rows).read_text().splitlines():
            prompt = REQUEST + json.loads(line)["statement"]
            yield ProblemTask(ProblemData(prompt=prompt, problem=line), self.config.task)
