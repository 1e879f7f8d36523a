"""How far an evaluation is: a bar that log lines leave whole, or a line now and then, with the time that is left."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.progress import Task, TaskID

import rltf.evaluation.progress
from rltf.evaluation.progress import ProgramProgress, time_left
from rltf.evaluation.run import run_evaluations
from rltf.evaluation.sources import PreparedPrograms, Programs, StoredRows
from rltf.problems import LoadedProblems
from rltf.sandbox.grading import Graders, ProgramRow
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings

ROOT = Path(__file__).parents[2]
OWN = f"jsonl:{ROOT / 'examples' / 'own_problems.jsonl'}"


def task(completed: int, num_stored: int, elapsed_s: float) -> Task:
    """A task of 100 programs that began `elapsed_s` ago."""
    fields = {"num_stored": num_stored}
    made = Task(TaskID(0), "", total=100, completed=completed, _get_time=lambda: elapsed_s, fields=fields)
    made.start_time = 0.0
    return made


def test_the_time_left_counts_the_programs_of_this_call_only() -> None:
    assert time_left(task(completed=60, num_stored=40, elapsed_s=600)) == "about 20 min left"
    assert time_left(task(completed=60, num_stored=0, elapsed_s=600)) == "about 7 min left"
    assert time_left(task(completed=40, num_stored=40, elapsed_s=600)) == ""
    assert time_left(task(completed=99, num_stored=0, elapsed_s=99)) == "about 1 min left"


def test_nothing_is_known_before_the_first_program() -> None:
    progress = ProgramProgress(100, 40)
    assert progress.describe() == "graded 40 of 100 programs"
    with progress:
        progress.begin()
        assert progress.describe() == "graded 40 of 100 programs"
        progress.advance()
        assert re.fullmatch(r"graded 41 of 100 programs, about \d+ min left", progress.describe())


class Slow:
    """A source whose second program comes only when `caplog` has a line about the first."""

    identity: ClassVar[dict[str, Any]] = {"model": "slow"}

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def prepare(self, loaded: LoadedProblems, k: int) -> PreparedPrograms:
        problem = loaded.problems[0]
        one, other = (ProgramRow(task_id=problem.task_id, completion_id=name, code="print(1)") for name in "ab")

        def left(stored: StoredRows) -> Programs:
            yield one, problem
            while "graded 1 of 2 programs, about " not in self._caplog.text:
                time.sleep(0.01)
                yield None
            yield other, problem

        return PreparedPrograms(2, left)

    def close(self) -> None:
        pass


@pytest.mark.slow
def test_lines_come_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rltf.evaluation.progress, "LOG_EVERY_S", 0.01)
    caplog.set_level("INFO")
    graders = Graders(1, SandboxSettings(), Isolation.NAMESPACES)
    (found,) = run_evaluations(Slow(caplog), [OWN], tmp_path, [1], graders).values()
    assert found["num_samples"] == 2


def on_terminal(*command: str) -> str:
    """What a command shows on a terminal of 100 columns that is its standard error."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b"".join(_read(ours))
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


def _read(terminal: int) -> Iterator[bytes]:
    try:
        while data := os.read(terminal, 4096):
            yield data
    except OSError:  # all that wrote to it are gone
        return


def test_log_lines_leave_the_bar_whole() -> None:
    code = (
        "import logging\nfrom rltf.evaluation.progress import ProgramProgress\nfrom rltf.entry import run_command\n"
        "def run():\n    logging.basicConfig(format='%(levelname)s %(message)s')\n"
        "    with ProgramProgress(2, 0) as progress:\n"
        "        progress.begin()\n        progress.advance()\n        logging.warning('in between')\n"
        "    logging.warning('afterwards')\n    return 0\n"
        "run_command('test', run)"
    )
    shown = on_terminal("-c", code)
    assert "graded 0 of 2 programs" in shown
    # The line replaces the bar, and the bar is drawn again below it.
    assert re.search(r"\x1b\[2KWARNING in between *\r\n[^\n]*graded 1 of 2 programs", shown)
    assert shown.endswith("WARNING afterwards\r\n")


@pytest.mark.slow
def test_an_evaluation_shows_a_bar(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text('{"task_id": "sum-of-line", "completion_id": 0, "code": "print(1)"}\n')
    options = ["--samples", str(samples), "--problems", OWN, "--output", str(tmp_path / "out"), "--workers", "1"]
    assert "graded 0 of 1 programs" in on_terminal("evaluate.py", *options)
