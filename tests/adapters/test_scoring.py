"""Scores are the grader's verdicts, whatever form rows and completions have, in every process."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import psutil
import pytest
from pydantic import ValidationError

from rltf.adapters import scoring
from rltf.adapters.scoring import GraderError, Scorer, shared_grader, text_of
from rltf.errors import UserError
from tests.adapters.cases import ANY, BROKEN, MBPP, PASS, PASS_RATIO, RIGHT, ROW, SQUARE, WRONG, said
from tests.tiers import first_fast

SCORER = Scorer(workers=1)


def scores(scorer: Scorer, rows: list[Any], completions: list[str]) -> list[float | None]:
    return [scorer.score_of(verdict) for verdict in scorer.verdicts(rows, completions)]


@pytest.mark.parametrize(("score", "expected"), [("pass", PASS), ("pass_ratio", PASS_RATIO)])
def test_scores(score: str, expected: Mapping[str, float]) -> None:
    scorer = Scorer.model_validate({"score": score, "workers": 1})
    assert scores(scorer, [ROW] * 3, [*expected]) == [*expected.values()]


def test_rows_of_any_form() -> None:
    as_numpy = SQUARE | {"tests": np.array(SQUARE["tests"], dtype=object)}
    rows = [SQUARE, ROW, MappingProxyType(SQUARE), as_numpy, MBPP]
    completions = [RIGHT] * 4 + ["def double(n):\n    return n + n\n"]
    assert scores(SCORER, rows, completions) == [1.0] * 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("print(25)", "row 1: expected the row of a problem as JSON, got 'print"),
        ("[1]", "row 1: expected the row of a problem as a JSON object"),
        ({"text": "no tests"}, "row 1: a row with the columns of no benchmark"),
        (SQUARE | {"tests": []}, "row 1: the row cannot be used as jsonl: tests"),
    ],
)
def test_unusable_rows(row: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SCORER.verdicts([SQUARE, row], [RIGHT, RIGHT])


def test_unfinished_thoughts_hold_no_program() -> None:
    in_thought = Scorer(workers=1, in_thought=True)
    assert scores(in_thought, [ROW] * 2, [RIGHT, f"So be it.</think>{RIGHT}"]) == [0.0, 1.0]


def test_grader_errors_are_no_scores() -> None:
    (verdict,) = SCORER.verdicts([BROKEN], [ANY])
    assert SCORER.score_of(verdict) is None
    with pytest.raises(GraderError, match="problem broken: the grader failed: the setup of test 0 fails"):
        SCORER.judge(BROKEN, ANY)
    assert Scorer(workers=1, grader_error_score=-0.5).judge(BROKEN, ANY)[0] == -0.5


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("x", "x"),
        (said("x"), "x"),
        ([*said("early"), {"role": "tool", "content": "4"}, *said("late")], "late"),
        ([{"role": "assistant", "content": None}], ""),
        ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "ab"),
        ([], ""),
    ],
)
def test_text_of_completions(completion: Any, text: str) -> None:
    assert text_of(completion) == text


@pytest.mark.parametrize(
    ("options", "field"),
    [({"score": "best"}, "score"), ({"wrkers": 1}, "wrkers"), ({"settings": {"cpu_s": -1}}, "settings.cpu_s")],
)
def test_wrong_options_are_named(options: Any, field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Scorer(**options)


def test_limits_apply() -> None:
    settings = MappingProxyType({"cpu_s": 0.2, "wall_s": 1.0, "packages": []})
    scorer = Scorer.model_validate({"workers": 1, "settings": settings})
    verdict = scorer.judge(SQUARE, "while True:\n    pass\n")[1]
    assert verdict.outcome == "timeout"
    assert verdict.cpu_seconds < 2.0


def test_one_grader_for_each_set_of_limits() -> None:
    other = SCORER.settings.model_copy(update={"cpu_s": 1.0})
    assert shared_grader(1, SCORER.settings) is shared_grader(1, Scorer(workers=1, score="pass_ratio").settings)
    assert shared_grader(1, SCORER.settings) is not shared_grader(1, other)


def still_alive(pids: list[int]) -> list[psutil.Process]:
    """The processes that do not end. Those deep in a jail are reaped a moment after it."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return psutil.wait_procs(found, timeout=30)[1]


def in_another_process(queue: Any, pickled: bytes) -> None:
    scorer = pickle.loads(pickled)
    values = [scorer.judge(SQUARE, completion)[0] for completion in (RIGHT, WRONG)]
    queue.put((values, [child.pid for child in psutil.Process().children(recursive=True)]))


@pytest.mark.parametrize("method", first_fast(["fork", "spawn"]))
def test_other_processes(method: str) -> None:
    """A process that is forked after the grader has started, or spawned, has its own, and leaves none behind."""
    assert SCORER.judge(SQUARE, RIGHT)[0] == 1.0
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=in_another_process, args=(queue, pickle.dumps(SCORER)))
    with scoring._lock:  # as if another thread were about to start a grader
        process.start()
    values, jails = queue.get(timeout=60)
    process.join(60)
    assert (values, process.exitcode) == ([1.0, 0.0], 0)
    assert jails
    assert still_alive(jails) == []
    assert [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if f"rltf-sandbox-{process.pid}-" in folder] == []
    assert SCORER.judge(SQUARE, RIGHT)[0] == 1.0


@pytest.mark.slow
def test_the_end_of_a_program_ends_its_grader() -> None:
    """And no adapter imports a trainer before it is used."""
    source = (
        "import json, psutil, sys\n"
        "import adapters.open_instruct, adapters.trl, adapters.verifiers, adapters.verl\n"
        "from rltf.adapters.scoring import Scorer\n"
        "assert not {'open_instruct', 'ray', 'torch', 'trl', 'verifiers', 'verl'} & {*sys.modules}\n"
        "score, _ = Scorer(workers=1).judge(sys.argv[1], sys.argv[2])\n"
        "print(json.dumps([score, [child.pid for child in psutil.Process().children(recursive=True)]]))\n"
    )
    command = [sys.executable, "-c", source, ROW, RIGHT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    score, jails = json.loads(done.stdout)
    assert score == 1.0
    assert jails
    assert still_alive(jails) == []


def test_ranks_of_a_node_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert scoring._share_of_cores() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "24")
    assert scoring._share_of_cores() == 1
