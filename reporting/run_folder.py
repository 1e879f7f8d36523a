"""The folder of a run: what is written where, and that it is written once."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Protocol

from controller.ledger import LedgerCounts
from controller.reports import GradedSample
from errors import UserError
from files import write_text
from problems.types import AssertTest, CallTest, Problem, StdinTest, Test
from reporting.report import build_report
from reporting.rows import Row, RowWriter, keep_rows_until
from reporting.tensorboard import TensorBoardWriter
from sandbox.verdict import Outcome
from settings import Settings
from settings_sources import to_yaml

# What every row of metrics.jsonl holds; other programs read these.
# fmt: off
STEP_FIELDS = frozenset({
    "step", "weights_version", "loss", "loss_sl", "loss_coarse", "loss_fine", "loss_adaptive", "reward_mean",
    "pass_rate", "outcomes", "staleness_mean", "staleness_max", "tokens_per_s", "buffer_size", "seconds",
})
# fmt: on
REPORT_EVERY_S = 60.0
MAX_SHOWN_TEST = 600  # characters of a failing test that are kept


class CurveWriter(Protocol):
    """A tool that draws curves, TensorBoard or another."""

    def write(self, prefix: str, row: Mapping[str, object]) -> None:
        """Add the numbers of a row that holds its `step`."""

    def close(self) -> None:
        """Write out what is pending."""


class RunFolder:
    """Writes `settings.yaml`, `metrics.jsonl`, `evaluations.jsonl`, `ledger.json`, `samples/`, TensorBoard events and
    the report.

    A context manager, which writes the report when it closes:

        with RunFolder.create(settings.run.folder, settings) as folder:
            folder.metrics(step_metrics.row())
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._samples = path / "samples"
        self.checkpoints.mkdir(exist_ok=True)
        self._samples.mkdir(exist_ok=True)
        self._metrics = RowWriter(path / "metrics.jsonl")
        self._evaluations = RowWriter(path / "evaluations.jsonl")
        self._reported = -math.inf
        self._curves: list[CurveWriter] = [TensorBoardWriter(path / "tensorboard")]
        if settings.run.wandb_project is not None:
            self._curves.append(_wandb_writer(path, settings.run.wandb_project))

    @classmethod
    def create(cls, path: Path, settings: Settings) -> RunFolder:
        """Start a new run in `path`. Raises UserError where it holds anything, or cannot be written to."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                resume = (path / "settings.yaml").is_file()
                cure = f", or go on with that run: --resume {path}" if resume else ""
                raise UserError(f"run.dir {path} is not empty: choose another --run.name or --run.dir{cure}")
            # Exclusive creation: of two runs that start at once, one gets the folder.
            with (path / "settings.yaml").open("x", encoding="utf-8") as file:
                file.write(to_yaml(settings))
        except FileExistsError:
            raise UserError(f"run.dir {path}: another run took it at this moment; choose another --run.dir") from None
        except OSError as error:
            with contextlib.suppress(OSError):
                (path / "settings.yaml").unlink()  # empty, on a full disk
            raise UserError(f"run.dir {path} cannot be written: {error.strerror}") from None
        try:
            return cls(path, settings)
        except (OSError, UserError) as error:
            shutil.rmtree(path)  # nothing is in it yet: the name is free for the next try
            if isinstance(error, OSError):
                raise UserError(f"run.dir {path} cannot be written: {error.strerror}") from None
            raise

    @classmethod
    def resume(cls, path: Path, settings: Settings, step: int) -> RunFolder:
        """Go on with the run in `path` after update `step`. Rows of later updates are dropped: they will come again.

        Raises UserError where `path` holds no run.
        """
        if not (path / "settings.yaml").is_file():
            raise UserError(f"--resume {path}: no run folder (it holds no settings.yaml)")
        try:
            keep_rows_until(path / "metrics.jsonl", step)
            keep_rows_until(path / "evaluations.jsonl", step)
            write_text(path / "settings.yaml", to_yaml(settings))
            return cls(path, settings)
        except OSError as error:
            raise UserError(f"--resume {path} cannot be written: {error.strerror}") from None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def metrics(self, row: Mapping[str, object]) -> None:
        """Add one learner step. Raises ValueError where a field of interfaces is missing."""
        missing = STEP_FIELDS - row.keys()
        if missing:
            raise ValueError(f"a row of metrics.jsonl lacks {', '.join(sorted(missing))}")
        self._metrics.write(row)
        for curves in self._curves:
            curves.write("train", row)

    def ledger(self, step: int, counts: LedgerCounts) -> None:
        """Replace `ledger.json`: where every sample is after update `step`."""
        write_text(self.path / "ledger.json", json.dumps({"step": step, **asdict(counts)}, indent=2) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the rows of later updates than `step`: they are undone, and will come again."""
        self._metrics.rewind(step)
        self._evaluations.rewind(step)

    def evaluation(self, row: Mapping[str, object]) -> None:
        """Add one evaluation: `step`, `problems`, and what `EvaluationResult.to_json` gives.

        Raises ValueError where a field is missing.
        """
        missing = {"step", "problems", "intervals"} - row.keys()
        if missing or not any(name.startswith("pass@") for name in row):
            raise ValueError(f"a row of evaluations.jsonl lacks {', '.join(sorted(missing)) or 'pass@k'}")
        self._evaluations.write(row)
        self._report_again()
        for curves in self._curves:
            curves.write("evaluation", row)

    def samples(self, refresh: int, samples: Iterable[GradedSample], problems: Mapping[str, Problem]) -> None:
        """Keep programs of refresh number `refresh` for people to look at; `problems` is by task id."""
        writer = RowWriter(self._samples / f"refresh-{refresh:06d}.jsonl")
        for sample in samples:
            writer.write(_sample_row(sample, problems[sample.verdict.task_id]))
        writer.close()
        self._report_again()

    def has_learned(self) -> bool:
        """Whether the run got as far as an update, an evaluation or a checkpoint."""
        rows = (self.path / name for name in ("metrics.jsonl", "evaluations.jsonl"))
        return any(self.checkpoints.iterdir()) or any(file.exists() and file.stat().st_size for file in rows)

    def report(self) -> Path:
        """Write `report.html` from what is in the folder, and return its path."""
        self._reported = time.monotonic()
        return build_report(self.path)

    def _report_again(self) -> None:
        """Have a report during the run too, at most REPORT_EVERY_S old when something new can be seen."""
        if time.monotonic() - self._reported > REPORT_EVERY_S:
            self.report()

    def close(self) -> None:
        """Write the report and close all files."""
        self._metrics.close()
        self._evaluations.close()
        for curves in self._curves:
            curves.close()
        self.report()


def _wandb_writer(path: Path, project: str) -> CurveWriter:
    from reporting.wandb_writer import WandbWriter

    return WandbWriter(path, project)


def _sample_row(sample: GradedSample, problem: Problem) -> Row:
    verdict = sample.verdict
    return {
        "task_id": verdict.task_id,
        "completion_id": verdict.completion_id,
        **verdict.to_json(),
        "reward": sample.reward,
        "statement": problem.statement,
        "failing_test": _failing_test(verdict.tests, problem),
        "program": sample.program,
        "tokens": [[mark.text, mark.weight] for mark in sample.tokens],
    }


def _failing_test(outcomes: tuple[Outcome, ...], problem: Problem) -> str | None:
    """The first test that did not pass, in words."""
    not_passed = (number for number, outcome in enumerate(outcomes) if outcome is not Outcome.PASSED)
    number = next(not_passed, None)
    if number is None or number >= len(problem.tests):
        return None
    text = _describe(problem.tests[number])
    return text if len(text) <= MAX_SHOWN_TEST else text[:MAX_SHOWN_TEST] + " ..."


def _describe(test: Test) -> str:
    match test:
        case StdinTest(stdin, expected):
            return f"input:\n{stdin.rstrip()}\nexpected output:\n{expected.rstrip()}"
        case CallTest(function, arguments, expected):
            return f"{function}({', '.join(map(repr, arguments))}) == {expected!r}"
        case AssertTest(assertion):
            return assertion
        case _:
            return test.source
