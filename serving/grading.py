"""`POST /v1/grade`: problems and programs in, verdicts out, in the order of the programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rltf.problems.extraction import extract_program
from rltf.problems.types import Problem
from rltf.sandbox.verdict import Verdict
from rltf.serving.known_problems import KnownProblems

DEADLINE_S = 600.0
_MAX_DEADLINE_S = 86400.0
Name = Annotated[str, Field(min_length=1, max_length=256)]


class GradeRequest(BaseModel):
    """One problem for each program, or a single one for all of them."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    problems: list[dict[str, Any]] | None = Field(None, min_length=1, description="Rows of a benchmark, or your own.")
    task_ids: list[Name | int] | None = Field(None, min_length=1, description="Ids of problems that the server loaded.")
    benchmark: Name | None = Field(None, description="The KIND of the rows; by default it is recognized.")
    programs: list[str] | None = Field(None, min_length=1)
    completions: list[str] | None = Field(None, min_length=1, description="Answers of a model, which hold programs.")
    in_thought: bool = Field(False, description="The prompt of the completions has opened a thought.")
    request_id: Name | None = None
    deadline_s: float = Field(DEADLINE_S, gt=0, le=_MAX_DEADLINE_S, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> GradeRequest:
        for first, second in (("problems", "task_ids"), ("programs", "completions")):
            if (getattr(self, first) is None) == (getattr(self, second) is None):
                raise ValueError(f"expected either {first} or {second}")
        if self.benchmark is not None and self.problems is None:
            raise ValueError("benchmark: says how to read the rows in problems, which are missing")
        num_problems, num_texts = len(self.problems or self.task_ids or ()), len(self.texts)
        if num_problems not in (1, num_texts):
            raise ValueError(f"{num_problems} problems for {num_texts} programs; give one for each, or one for all")
        return self

    @property
    def texts(self) -> list[str]:
        """The programs or completions."""
        return self.programs or self.completions or []


@dataclass(frozen=True, slots=True)
class Task:
    """A program to grade. `span` says which characters of a completion it is."""

    problem: Problem
    program: str
    span: tuple[int, int] | None = None

    def row(self, verdict: Verdict) -> dict[str, Any]:
        """The row of an answer."""
        row = {"task_id": self.problem.task_id, **verdict.to_json()}
        return row if self.span is None else {**row, "span": self.span}


def tasks_of(query: GradeRequest, known: KnownProblems) -> list[Task]:
    """What to grade. Raises `RefusedError` for the first problem that cannot be used."""
    if query.problems is not None:
        problems = [known.from_row(f"problems.{n}", row, query.benchmark) for n, row in enumerate(query.problems)]
    else:
        problems = [known.find(f"task_ids.{n}", task_id) for n, task_id in enumerate(query.task_ids or ())]
    if len(problems) == 1:
        problems *= len(query.texts)
    pairs = zip(problems, query.texts, strict=True)
    if query.programs is not None:
        return [Task(problem, program) for problem, program in pairs]
    found = [(problem, text, extract_program(problem, text, in_thought=query.in_thought)) for problem, text in pairs]
    return [Task(problem, text[slice(*span)], span) for problem, text, span in found]
