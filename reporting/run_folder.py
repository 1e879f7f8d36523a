"""The folder of a run: what is written where, and that it is written once."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from rltf.controller.events import (
    Evaluated,
    Event,
    GradedSample,
    Refreshed,
    Rewound,
    Step,
    TokenMark,
    Ungraded,
    UngradedRollout,
)
from rltf.errors import UserError
from rltf.files import RowWriter, has_torn_tail, keep_rows_until, read_steps, write_json, write_text
from rltf.lock import LOCK
from rltf.problems.types import AssertTest, CallTest, CheckTest, Problem, ReferenceTest, StdinTest, Test
from rltf.reporting.curves import TensorBoardWriter, WandbWriter
from rltf.reporting.report import build_report
from rltf.sandbox.verdict import Outcome
from rltf.settings import Settings
from rltf.settings_sources import to_yaml

logger = logging.getLogger(__name__)

REPORT_EVERY_S = 60.0
MAX_SHOWN_TEST = 600  # characters kept of a failing test


class RunFolder:
    """Writes `settings.yaml`, `metrics.jsonl`, `evaluations.jsonl`, `ledger.json`, `samples/`, TensorBoard events and
    the report.

    A context manager, which writes the report when it closes:

        with RunFolder.create(settings.run.folder, settings, problems) as folder:
            folder.emit(Step(metrics, grading, ledger))

    `problems`, by task id, are those that the samples solve.
    """

    def __init__(self, path: Path, settings: Settings, problems: Mapping[str, Problem]) -> None:
        self.path = path
        self._samples = path / "samples"
        (path / "checkpoints").mkdir(exist_ok=True)
        self._samples.mkdir(exist_ok=True)
        self._problems = problems
        self._set_specs = {name: ", ".join(specs) for name, specs in settings.problems.evaluation_sets.items()}
        named = "; ".join(f"{name}: {specs}" for name, specs in self._set_specs.items())
        self._held_out = named or ", ".join(settings.problems.evaluation)
        self._metrics = RowWriter(path / "metrics.jsonl")
        self._evaluations = RowWriter(path / "evaluations.jsonl")
        self._reported = -math.inf
        # Time from one update to the next, which starts with the first weights that the generators get.
        self._clock: float | None = None
        self._made_update = False
        self._publish_s = 0.0
        self._curves: list[TensorBoardWriter | WandbWriter] = [TensorBoardWriter(path / "tensorboard")]
        if settings.run.wandb_project is not None:
            self._curves.append(WandbWriter(path, settings.run.wandb_project))

    @classmethod
    def create(cls, path: Path, settings: Settings, problems: Mapping[str, Problem]) -> RunFolder:
        """Start a new run in `path`. Raises UserError if `path` is not empty or cannot be written to."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(each.name != LOCK for each in path.iterdir()):
                resume = (path / "settings.yaml").is_file()
                fix = f", or continue that run: --resume {path}" if resume else ""
                raise UserError(f"run.dir {path} is not empty: choose another --run.name or --run.dir{fix}")
            write_text(path / "settings.yaml", to_yaml(settings))
        except OSError as error:
            raise UserError(f"run.dir {path} cannot be written: {error.strerror}") from None
        try:
            return cls(path, settings, problems)
        except (OSError, UserError) as error:
            shutil.rmtree(path)  # nothing of value is in it yet, and the next try can use the name
            if isinstance(error, OSError):
                raise UserError(f"run.dir {path} cannot be written: {error.strerror}") from None
            raise

    @classmethod
    def resume(cls, path: Path, settings: Settings, problems: Mapping[str, Problem], step: int) -> RunFolder:
        """Continue the run in `path` after update `step`. Rows of later updates are dropped: they will come again.

        Raises UserError if `path` is not a run folder, or if its rows are damaged.
        """
        if not (path / "settings.yaml").is_file():
            raise UserError(f"--resume {path}: not a run folder (it has no settings.yaml)")
        try:
            for rows in _rows_of(path):
                read_steps(rows)  # so that nothing is changed if one of them is damaged
            for rows in _rows_of(path):
                keep_rows_until(rows, step)
            write_text(path / "settings.yaml", to_yaml(settings))
            return cls(path, settings, problems)
        except OSError as error:
            raise UserError(f"--resume {path} cannot be written: {error.strerror}") from None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def emit(self, event: Event) -> None:
        """Write down what an event says."""
        match event:
            case Step(metrics, grading, ledger):
                now = time.monotonic()
                elapsed_s = metrics.seconds if self._clock is None else now - self._clock
                self._clock, self._made_update = now, True
                row = metrics.row() | asdict(grading) | {"publish_s": self._publish_s, "elapsed_s": elapsed_s}
                self.metrics(row)
                write_json(self.path / "ledger.json", {"step": metrics.step, **asdict(ledger)})
                self._publish_s = 0.0
            case Ungraded(rollout):
                self._keep_programs(rollout)
            case Refreshed(version, shown, seconds):
                self._publish_s += seconds
                self._start_clock()
                if shown:
                    self.samples(version, shown)
            case Evaluated(step, result, num_passed, by_turn):
                self._start_clock()
                row = {"step": step, "problems": self._held_out, **result.to_json(), "num_passed": num_passed}
                if by_turn:
                    row["turns"] = [{"turn": turn, "pass@1": dict(of)} for turn, of in enumerate(by_turn, start=1)]
                if result.sets:
                    row["sets"] = {
                        name: {"problems": self._set_specs[name], "task_ids": list(task_ids)}
                        for name, task_ids in result.sets.items()
                    }
                self.evaluation(row)
            case Rewound(step):
                self._metrics.rewind(step)
                self._evaluations.rewind(step)

    def metrics(self, row: Mapping[str, object]) -> None:
        """Add one learner step."""
        self._metrics.write_row(row)
        for curves in self._curves:
            curves.write("train", row)

    def evaluation(self, row: Mapping[str, object]) -> None:
        """Add one evaluation: `step`, `problems`, and the object that `EvaluationResult.to_json` makes."""
        self._evaluations.write_row(row)
        self._report_again()
        for curves in self._curves:
            curves.write("evaluation", row)

    def samples(self, refresh: int, samples: Iterable[GradedSample]) -> None:
        """Keep some programs of refresh number `refresh` for people to look at."""
        writer = RowWriter(self._samples / f"refresh-{refresh:06d}.jsonl")
        for sample in samples:
            writer.write_row(_sample_row(sample, self._problems[sample.verdict.task_id]))
        writer.close()
        self._report_again()

    def _keep_programs(self, rollout: UngradedRollout) -> None:
        """Keep programs that no grader survived, in the format of `rltf grade`."""
        writer = RowWriter(self.path / "ungraded.jsonl")
        for completion_id, program in rollout.programs.items():
            writer.write_row({"task_id": rollout.task_id, "completion_id": completion_id, "code": program})
        writer.close()

    def has_learned(self) -> bool:
        """Whether the run got as far as an update, an evaluation or a checkpoint."""
        return any((self.path / "checkpoints").glob("step-*")) or any(
            file.exists() and file.stat().st_size for file in _rows_of(self.path)
        )

    def _start_clock(self) -> None:
        if not self._made_update:  # evaluations before the first update do not count as its time
            self._clock = time.monotonic()

    def report(self) -> Path:
        """Write `report.html` from the files in the folder, and return its path."""
        self._reported = time.monotonic()
        return build_report([self.path])

    def _report_again(self) -> None:
        """Write the report during the run too, at most once in REPORT_EVERY_S seconds."""
        if time.monotonic() - self._reported > REPORT_EVERY_S:
            self._try_to_report()

    def _try_to_report(self) -> None:
        """Write the report, unless older files of the run are damaged, which must not end the run."""
        try:
            self.report()
        except UserError as error:
            logger.warning("no report: %s", error)

    def close(self) -> None:
        """Write the report and close all files."""
        self._metrics.close()
        self._evaluations.close()
        for curves in self._curves:
            curves.close()
        self._try_to_report()


def _rows_of(path: Path) -> tuple[Path, Path]:
    return path / "metrics.jsonl", path / "evaluations.jsonl"


def torn_rows(path: Path) -> list[str]:
    """The files of the run in `path` whose last row a crash has cut short, in words."""
    return [
        f"{file}: a crash has left an incomplete row at its end, which is dropped"
        for file in _rows_of(path)
        if has_torn_tail(file)
    ]


def _sample_row(sample: GradedSample, problem: Problem) -> dict[str, object]:
    verdict = sample.verdict
    return {
        "task_id": verdict.task_id,
        "completion_id": verdict.completion_id,
        **verdict.to_json(),
        "reward": sample.reward,
        "statement": problem.statement,
        "failing_test": _failing_test(sample, problem),
        "program": sample.program,
        "completion": sample.completion,
        "tokens": _tokens(sample.tokens),
        "turns": [
            {
                "completion": turn.completion,
                "program": turn.program,
                "outcome": turn.outcome,
                "feedback": turn.feedback,
                "tokens": _tokens(turn.tokens),
            }
            for turn in sample.turns
        ],
    }


def _tokens(marks: Iterable[TokenMark]) -> list[list[object]]:
    return [[mark.text, mark.weight] for mark in marks]


def _failing_test(sample: GradedSample, problem: Problem) -> str | None:
    """A readable description of the first test that did not pass."""
    ran = zip(sample.test_numbers, sample.verdict.tests, strict=True)
    number = next((number for number, outcome in ran if outcome is not Outcome.PASSED), None)
    if number is None:
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
        case CheckTest(source):
            return source
        case ReferenceTest(function, arguments):
            return f"{function}({', '.join(map(repr, arguments))})"
