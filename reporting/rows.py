"""Reading what a run wrote for people: its settings and rows, checked for what tables and charts take from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rltf.errors import UserError
from rltf.evaluation.passes import ALL as ALL
from rltf.files import read_rows, read_steps, read_yaml
from rltf.reporting.charts import Row
from rltf.sandbox.verdict import Outcome


class _Row(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Run(_Row):
    num_steps: int


class _Settings(_Row):
    run: _Run


class _Metrics(_Row):
    seconds: float
    pass_rate: float
    reward_mean: float
    tokens_per_s: float
    staleness_mean: float
    staleness_max: float
    turns_mean: float | None = None
    pass_rate_first: float | None = None
    isolation: dict[str, int] = {}
    dropped: dict[str, int] = {}


class _Turn(_Row):
    tokens: list[tuple[str, float]]
    outcome: Outcome
    feedback: str | None


class _Sample(_Row):
    tokens: list[tuple[str, float]]
    turns: list[_Turn] = []


class _Set(_Row):
    problems: str
    task_ids: list[str]


class _Evaluation(_Row):
    problems: str
    sets: dict[str, _Set] = {}
    intervals: dict[str, dict[str, tuple[float, float]]]
    num_samples: int | None = None
    num_passed: dict[str, int] | None = None

    @model_validator(mode="after")
    def _check(self) -> _Evaluation:
        passes = {name: value for name, value in (self.model_extra or {}).items() if name.startswith("pass@")}
        if passes.keys() != self.intervals.keys() or not all(name[5:].isdecimal() for name in passes):
            raise ValueError("expected pass@K and an interval for each K")
        for name, groups in passes.items():
            for group in (ALL, *self.sets):
                if not isinstance(groups, Mapping) or group not in groups or group not in self.intervals[name]:
                    what = "all problems" if group == ALL else group
                    raise ValueError(f"{name}: expected a number and an interval for {what}")
        if any(task_id not in (self.num_passed or ()) for one in self.sets.values() for task_id in one.task_ids):
            raise ValueError("sets: expected only task ids that are in num_passed")
        return self


def settings_of(run: Path) -> Row:
    """The settings of the run in this folder. Raises UserError if it is not a run folder, or they are damaged."""
    file = run / "settings.yaml"
    if not file.is_file():
        raise UserError(f"{run} is not a run folder (it has no settings.yaml)")
    return _checked(_Settings, [read_yaml(file)], file)[0]


def metrics_of(run: Path) -> list[Row]:
    """The rows of `metrics.jsonl`. Raises UserError, with the file and line, if one is damaged."""
    return _checked(_Metrics, read_steps(run / "metrics.jsonl"), run / "metrics.jsonl")


def evaluations_of(run: Path) -> list[Row]:
    """The rows of `evaluations.jsonl`. Raises UserError, with the file and line, if one is damaged."""
    return _checked(_Evaluation, read_steps(run / "evaluations.jsonl"), run / "evaluations.jsonl")


def shown_groups(evaluation: Row) -> dict[str, str]:
    """The groups of an evaluation to show, with their SPECs: its named sets or, if it has none, `all`."""
    sets = {name: one["problems"] for name, one in evaluation.get("sets", {}).items()}
    return sets or {ALL: evaluation["problems"]}


def task_ids_of(evaluation: Row, group: str) -> list[str]:
    """The problems of a named set or, for `all`, of the whole evaluation."""
    return sorted(evaluation["num_passed"] if group == ALL else evaluation["sets"][group]["task_ids"])


def samples_of(file: Path) -> list[Row]:
    """The rows of a file in `samples/`. Raises UserError, with the file and line, if one is damaged."""
    return _checked(_Sample, read_rows(file), file)


def _checked(model: type[BaseModel], rows: list[Row], file: Path) -> list[Row]:
    for number, row in enumerate(rows, start=1):
        try:
            model.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            place = f"{file}:{number}" if file.suffix == ".jsonl" else str(file)
            name = "".join(f"{part}: " for part in first["loc"])
            raise UserError(f"{place}: {name}{first['msg']}; the file is damaged: restore it from a copy") from None
    return rows
