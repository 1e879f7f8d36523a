import io
import math
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from rltf.controller.events import Began, Evaluated, EvaluationProgress, Rewound, Said
from rltf.learner.sft import SftProgress
from rltf.reporting.progress import Progress, outcome_bar
from tests.reporting.runs import evaluated, evaluation_result, step_event


def run(console: Console, log: Path | None = None) -> Progress:
    with Progress(60, console, log) as progress:
        progress.emit(Began("start"))
        progress.emit(Began("training"))
        progress.emit(step_event(30))
        progress.emit(Evaluated(30, evaluation_result(0.5), {}))
        progress.emit(Said("the dashboard is at [localhost]"))
        progress.emit(Rewound(20, "the learner died"))
        os.write(2, b"written by C++\n")
    return progress


def test_without_a_terminal_it_writes_plain_lines() -> None:
    output = io.StringIO()
    progress = run(Console(file=output, width=200))
    text = output.getvalue()
    assert "step 30/60" in text
    assert "pass rate 55.1%" in text
    assert "[passed 141 failed 57" in text  # brackets are text, not markup
    assert "2:15 left" in text  # 30 steps of 4.5 s
    assert "held-out pass@1 50.0% [45.0%, 55.0%]" in text
    assert "the dashboard is at [localhost]" in text
    assert "the learner died" in text
    assert "\x1b" not in text
    assert [name for name, _ in progress.stages] == ["start", "training"]


def test_an_evaluation_on_named_sets_names_each() -> None:
    output = io.StringIO()
    with Progress(60, Console(file=output, width=200)) as progress:
        progress.emit(evaluated(30, 0.5, mbpp=0.6, humaneval=0.3))
    line = "step 30: held-out mbpp pass@1 60.0% [55.0%, 65.0%]; humaneval pass@1 30.0% [25.0%, 35.0%]\n"
    assert line in output.getvalue()


def test_a_long_stage_says_that_it_is_still_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rltf.reporting.progress.HEARTBEAT_S", 0.01)
    output = io.StringIO()
    with Progress(60, Console(file=output, width=200)) as progress:
        progress.emit(Began("evaluation before"))
        progress.emit(EvaluationProgress(7, 20))
        while output.getvalue().count("still running") < 2:
            time.sleep(0.01)
    assert "evaluation before: still running after 0:00  evaluated 7/20 problems" in output.getvalue()


def test_sft_shows_no_validation_loss_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rltf.reporting.progress.HEARTBEAT_S", 0.01)
    output = io.StringIO()
    with Progress(60, Console(file=output, width=200)) as progress:
        progress.emit(Began("learner"))
        for shown, validation_loss in (("loss 1.366\n", math.nan), ("loss 1.366, validation 1.200\n", 1.2)):
            progress.emit(SftProgress(1, 60, 1.366, validation_loss))
            while f"update 1/60, {shown}" not in output.getvalue():
                time.sleep(0.01)


def test_a_terminal_gets_a_panel_and_stderr_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = io.StringIO()
    run(Console(file=output, force_terminal=True, width=140, height=40), tmp_path / "launch.log")
    text = output.getvalue()
    assert "training" in text
    assert "tokens/s" in text
    assert "passed 141" in text
    assert (tmp_path / "launch.log").read_text() == "written by C++\n"
    os.write(2, b"after the run\n")
    assert capfd.readouterr().err == "after the run\n"


def test_the_bar_has_the_same_length_for_any_mix() -> None:
    for outcomes in ({"passed": 1}, {"passed": 1, "failed": 1, "timeout": 1}, {"syntax_error": 7, "passed": 999}):
        assert len(outcome_bar(outcomes)) == 40
    assert len(outcome_bar({})) == 0
