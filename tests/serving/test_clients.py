"""Clients of a real server: our own, SandboxFusion's, and verl's for SandboxFusion."""

from __future__ import annotations

import http.server
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from sandbox_fusion import RunCodeRequest, RunStatus, run_code

from rltf.errors import UserError
from rltf.problems.types import Problem, StdinTest
from rltf.serving.client import GraderClient
from tests.serving.servers import RIGHT, SUM, Client, running
from tests.trainer_venvs import interpreter

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def server() -> Iterator[Client]:
    with running(problems=(Problem("7", "jsonl", "Say 1.", (StdinTest("", "1"),)),), token=TOKEN, workers=2) as client:
        yield client


def test_the_client_gets_verdicts(server: Client) -> None:
    client = GraderClient(server.address, TOKEN)
    assert [row["outcome"] for row in client.grade([SUM], [RIGHT, "1 / 0"])] == ["passed", "runtime_error"]
    assert [row["outcome"] for row in client.grade([7, "7"], ["print(1)", "print(2)"])] == ["passed", "failed"]
    mbpp = {"task_id": 2, "text": "Double.", "code": "def f(n): return 2 * n", "test_list": ["assert f(2) == 4"]}
    fenced = f"```python\n{mbpp['code']}\n```"
    assert client.grade([mbpp], [fenced], benchmark="mbpp", completions=True)[0]["passed"]
    assert client.grade([], []) == []


def test_the_client_says_why_it_was_refused(server: Client) -> None:
    with pytest.raises(UserError, match=r"http://127.0.0.1:\d+/v1/grade: 401: expected the header `Authorization"):
        GraderClient(server.address).grade([7], ["1"])
    with pytest.raises(UserError, match=r"422: problems\.0: a row with the columns of no benchmark"):
        GraderClient(server.address, TOKEN).grade([{}], ["1"])
    with pytest.raises(UserError, match=r"504: no answer within 0\.001 s"):
        GraderClient(server.address, TOKEN).grade([SUM], [RIGHT], deadline_s=0.001)


def test_the_client_of_sandbox_fusion_needs_only_the_address(server: Client) -> None:
    address = server.address.replace("http://", f"http://anyone:{TOKEN}@")

    def ran(code: str, stdin: str | None = None) -> Any:
        request = RunCodeRequest(code=code, language="python", stdin=stdin)
        return run_code(request, endpoint=address, max_attempts=1)

    doubled = ran("print(input() * 2)", "ab")
    assert (doubled.status, doubled.run_result.stdout, doubled.run_result.return_code) == (
        RunStatus.Success,
        "abab\n",
        0,
    )
    failed = ran("1 / 0")
    assert (failed.status, failed.run_result.return_code) == (RunStatus.Failed, 1)
    assert "ZeroDivisionError" in failed.run_result.stderr


class Moody(http.server.BaseHTTPRequestHandler):
    """Fails in every way that a client has to live with, and then answers."""

    moods: list[str]
    ids: list[str]

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.ids.append(query["request_id"])
        mood = self.moods.pop(0)
        if mood == "gone":
            self.close_connection = True
            return
        content = json.dumps({"verdicts": [{"passed": True}], "detail": "no room"}).encode()
        self.send_response(int(mood) if mood.isdecimal() else 200)
        self.send_header("Content-Length", str(len(content)))
        if mood == "429":
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(content[: 5 if mood == "half" else None])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("rltf.serving.client.time.sleep", lambda _: None)
    Moody.ids = []
    with http.server.HTTPServer(("127.0.0.1", 0), Moody) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_client_repeats_a_request_under_its_id(moody: str) -> None:
    Moody.moods = ["gone", "429", "half", "503", "502", "200"]
    assert GraderClient(moody).grade([1], ["1"]) == [{"passed": True}]
    assert (len(Moody.ids), len(set(Moody.ids))) == (6, 1)
    Moody.moods = ["200"]
    GraderClient(moody).grade([1], ["1"])
    assert len(set(Moody.ids)) == 2


def test_the_client_gives_up_at_last(moody: str) -> None:
    Moody.moods = ["429"]
    with pytest.raises(UserError, match="no answer for 0 s; the last time: 429: no room"):
        GraderClient(moody, patience_s=0).grade([1], ["1"])
    Moody.moods = ["500"]
    with pytest.raises(UserError, match="500: no room"):
        GraderClient(moody).grade([1], ["1"])
    assert len(Moody.ids) == 2


@pytest.fixture(scope="module")
def verl() -> ModuleType:
    """Its client, without the rest of verl."""
    environment = interpreter("verl").parents[1]
    (folder,) = environment.glob("lib/python*/site-packages/verl/utils/reward_score/sandbox_fusion")
    name = "verl_sandbox_fusion"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_verl_needs_nothing_but_the_address(server: Client, verl: ModuleType) -> None:
    """verl knows no header for a token, but `requests` takes one from the address."""
    address = f"http://verl:{TOKEN}@127.0.0.1:{server.port}/run_code"
    cases = {"inputs": ["1 2", "3 4", "x"], "outputs": ["3", "8", ""]}
    results, rows = verl.check_correctness(address, cases, RIGHT, timeout=1)
    assert results == [True, False, -2]
    assert rows[2]["status"] == "runtime_error"
    assert "ValueError" in rows[2]["stderr"]
    assert verl.check_correctness(address, cases, "while True: pass", timeout=1)[0] == [-3] * 3
    assert verl.check_correctness(address, cases, "print(", timeout=1)[0] == [-2] * 3
    assert verl.check_correctness(address, cases, RIGHT, timeout=1, language="cpp")[0] == [-1] * 3
    score, _ = verl.compute_score(address, None, 1024, f"```python\n{RIGHT}\n```", cases)
    assert score == pytest.approx(1 / 3)
    called = {"inputs": ["1\n2", "3\n4"], "outputs": ["3", "7"], "fn_name": "add"}
    assert verl.check_correctness(address, called, "def add(a, b): return a + b", timeout=2)[0] == [True, True]
    asserted = {"inputs": [""], "outputs": [None], "assert_case": ["assert add(1, 2) == 3"]}
    assert verl.check_correctness(address, asserted, "def add(a, b): return a + b", timeout=1)[0] == [True]
