"""A served model that is overloaded: how long a request is repeated, and that nothing finished is lost."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path

import httpx2 as httpx
import pytest
from openai import APIConnectionError, APIStatusError

import rltf.evaluation.patience
from rltf.errors import UserError
from rltf.evaluate import main
from rltf.evaluation.patience import Patience, pause_s
from rltf.evaluation.store import read_samples
from rltf.sandbox.grading import Graders
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings
from tests.openai_server import serve

NUM_PROBLEMS = 6


def status_error(status: int, **headers: str) -> APIStatusError:
    request = httpx.Request("POST", "http://server/v1")
    response = httpx.Response(status, headers=headers, text="too many", request=request)
    return APIStatusError("", response=response, body=None)


@pytest.fixture
def problems(tmp_path: Path) -> str:
    rows = [
        {"task_id": number, "statement": f"Print {number}.", "tests": [{"stdin": "", "expected": f"{number}\n"}]}
        for number in range(NUM_PROBLEMS)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{tmp_path / 'rows.jsonl'}"


def asked_for(prompt: str) -> int:
    return next(number for number in range(NUM_PROBLEMS) if f"Print {number}." in prompt)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 503, None])
def test_what_may_pass_is_repeated(status: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rltf.evaluation.patience, "_FIRST_PAUSE_S", 0.001)
    failures = iter([*[status] * 3, 0])

    async def request() -> str:
        failure = next(failures)
        if failure == 0:
            return "answer"
        raise (
            APIConnectionError(request=httpx.Request("POST", "http://x")) if failure is None else status_error(failure)
        )

    assert asyncio.run(Patience("url").ask(request)) == "answer"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_cannot_pass_is_raised_at_once(status: int) -> None:
    num_asked = 0

    async def request() -> None:
        nonlocal num_asked
        num_asked += 1
        raise status_error(status)

    patience = Patience("url")
    with pytest.raises(APIStatusError):
        asyncio.run(patience.ask(request))
    assert num_asked == 1


def test_an_expected_refusal_does_not_end_the_patience_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dialogue that has grown too long says nothing about the server."""
    monkeypatch.setattr(rltf.evaluation.patience, "_FIRST_PAUSE_S", 0.001)
    patience, failures = Patience("http://server"), iter([429, 0])

    async def refused() -> str:
        raise status_error(400)

    async def request() -> str:
        if (failure := next(failures)) == 0:
            return "answer"
        raise status_error(failure)

    with pytest.raises(APIStatusError):
        asyncio.run(patience.ask(refused, lambda error: isinstance(error, APIStatusError) and error.status_code == 400))
    assert asyncio.run(patience.ask(request)) == "answer"


def test_the_server_decides_on_the_pause() -> None:
    assert pause_s(status_error(429, **{"retry-after": "17"}), 1) == 17
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert pause_s(status_error(503, **{"retry-after": later}), 1) == pytest.approx(100, abs=30)
    for header in ({}, {"retry-after": "soon"}, {"retry-after": "-3"}):
        pauses = [pause_s(status_error(429, **header), number) for number in range(1, 40)]
        assert 0.375 <= pauses[0] <= 0.5
        assert 3 <= pauses[3] <= 4
        assert 45 <= min(pauses[10:]) <= max(pauses) <= 60


def test_a_pause_that_is_too_long_is_not_made(caplog: pytest.LogCaptureFixture) -> None:
    async def request() -> None:
        raise status_error(429, **{"retry-after": "3600"})

    with pytest.raises(UserError, match=r"^url: status 429: too many; gave up after 0 s .* 3600 s later, .* 600 s$"):
        asyncio.run(Patience("url").ask(request))
    assert not caplog.records


def test_one_line_says_that_requests_wait(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    left = dict.fromkeys(range(5), 3)

    async def request(number: int) -> None:
        left[number] -= 1
        if left[number] >= 0:
            raise status_error(429, **{"retry-after": "0.001"})

    async def ask_all() -> None:
        patience = Patience("http://x/v1")
        await asyncio.gather(*(patience.ask(partial(request, number)) for number in left))

    asyncio.run(ask_all())
    messages = [record.message for record in caplog.records if record.name == rltf.evaluation.patience.logger.name]
    assert messages == [
        "http://x/v1: status 429: too many; asking again in 0 s (1 requests wait, each for at most 600 s)"
    ]


def test_what_is_finished_is_kept_and_the_same_command_continues(
    problems: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Problem 2 is refused for good while the answer to problem 3 is under way; the others wait for their turn."""
    is_asked, is_over = threading.Event(), threading.Event()
    asked: list[int] = []

    def give_up(error: Exception, num_tries: int) -> float:
        is_over.set()
        return 3600.0

    def answer(prompt: str) -> list[str] | None:
        number = asked_for(prompt)
        asked.append(number)
        if number == 3:
            is_asked.set()
            assert is_over.wait(60)
        if number == 2 and not is_over.is_set():
            assert is_asked.wait(60)
            return None
        return [f"print({number})"]

    monkeypatch.setattr(rltf.evaluation.patience, "pause_s", give_up)
    with serve(answer) as address:
        command = ["--model", address, "--problems", problems, "--output", str(tmp_path / "out")]
        assert main([*command, "--concurrency", "2"]) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert f"{address}: status 429: " in message
        assert "gave up after 0 s (tries: 1)" in message
        assert message.endswith("Programs that were sampled before are kept; the same command continues")
        assert sorted(row["task_id"] for row in read_samples(tmp_path / "out")) == ["0", "1", "3"]
        assert sorted(asked) == [0, 1, 2, 3], "nothing is asked for after a failure"
        assert main(command) == 0
    assert sorted(asked) == [0, 1, 2, 2, 3, 4, 5]
    rows = list(read_samples(tmp_path / "out"))
    assert sorted(row["task_id"] for row in rows) == [str(number) for number in range(NUM_PROBLEMS)]
    assert all(row["passed"] for row in rows)


def test_graders_finish_what_came_before_a_failure() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise UserError("the source failed")

    done: list[int] = []
    with Graders(2, SandboxSettings(), Isolation.RLIMITS) as graders:
        graded = graders.map(lambda item: 2 * item, items())
        with pytest.raises(UserError, match="source failed"):
            done.extend(double for _, double in graded)
    assert done == [0, 2, 4, 6, 8]


def test_concurrency_is_for_servers(tmp_path: Path, problems: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(tmp_path), "--problems", problems, "--output", str(tmp_path / "out")]
    assert main([*options, "--concurrency", "2"]) == 2
    assert "--concurrency is for a model behind a server" in capsys.readouterr().err
