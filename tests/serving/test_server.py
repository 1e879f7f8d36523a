"""The endpoints of a real server: verdicts, the shapes of SandboxFusion, and every reason to refuse a request."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rltf.grader import Grader
from rltf.problems import load
from rltf.problems.types import Problem, StdinTest
from rltf.serving import exchange
from rltf.serving.app import Bounds
from rltf.serving.command import allow_connections
from tests.serving.servers import LIMITS, RIGHT, SUM, Answered, Client, HeldBackend, request_bytes, running

HIDDEN = "a-hidden-answer"
SECRET = Problem("secret", "jsonl", "Say it.", (StdinTest("", HIDDEN),))
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def server() -> Iterator[Client]:
    starter = load("starter:test[0:1]").problems
    with running(problems=(SECRET, *starter), workers=2) as client:
        yield client


@pytest.fixture
def held() -> Iterator[tuple[Client, HeldBackend]]:
    backend = HeldBackend()
    with running(backend, bounds=Bounds(max_pending=2, max_body_bytes=2000)) as client:
        yield client, backend


def run_code(server: Client, code: str, **options: Any) -> dict[str, Any]:
    answered = server.post("/run_code", {"code": code, "language": "python", **options})
    assert answered.status == 200, answered.content
    result: dict[str, Any] = answered.json
    assert set(result) == {"status", "message", "compile_result", "run_result", "executor_pod_name", "files"}
    return result


def submit(server: Client, completion: str, config: dict[str, Any], **fields: Any) -> Answered:
    return server.post("/submit", {"dataset": "any", "id": 7, "completion": completion, "config": config, **fields})


def stdio(*pairs: tuple[str, str]) -> dict[str, Any]:
    tests = [{"input": {"stdin": given}, "output": {"stdout": expected}} for given, expected in pairs]
    return {"dataset_type": "CommonOJDataset", "language": "python", "provided_data": {"test": tests}}


def in_background(call: Callable[[], Answered]) -> Callable[[], Answered]:
    executor = ThreadPoolExecutor(1)
    future = executor.submit(call)
    executor.shutdown(wait=False)
    return lambda: future.result(60)


# Grading


def test_verdicts_are_those_of_the_grader(server: Client) -> None:
    programs = [RIGHT, "print(3)", "1 / 0", "print(", "x = input()\nexit(3)"]
    with Grader(1, settings=LIMITS) as grader:
        expected = [verdict.to_json() for verdict in grader.grade(SUM, programs)]
    rows = server.post("/v1/grade", {"problems": [SUM], "programs": programs}).json["verdicts"]
    for row, wanted in zip(rows, expected, strict=True):
        assert {**row, "seconds": 0} == {"task_id": "sum", **wanted, "seconds": 0}
    assert [row["pass_ratio"] for row in rows] == [1.0, 0.5, 0.0, 0.0, 0.0]


def test_a_preloaded_problem_is_named_by_its_id(server: Client) -> None:
    answered = server.post("/v1/grade", {"task_ids": ["secret", "secret"], "programs": [f"print({HIDDEN!r})", "0"]})
    assert [row["outcome"] for row in answered.json["verdicts"]] == ["passed", "failed"]
    assert answered.json["request_id"] is None


def test_the_program_of_a_completion_is_found(server: Client) -> None:
    completion = f"Adding:\n```python\n{RIGHT}\n```\nDone."
    (row,) = server.post("/v1/grade", {"problems": [SUM], "completions": [completion]}).json["verdicts"]
    assert row["passed"]
    assert completion[slice(*row["span"])].strip() == RIGHT


def test_what_a_program_prints_comes_back_whatever_it_is(server: Client) -> None:
    program = "import sys\nsys.stdout.buffer.write(b'\\xff\\xed\\xa0\\x80\\x00')"
    (row,) = server.post("/v1/grade", {"problems": [SUM], "programs": [program]}).json["verdicts"]
    assert row["outcome"] == "failed"
    assert row["actual"].startswith("\ufffd")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"problems": [SUM]}, "expected either programs or completions"),
        ({"programs": ["1"]}, "expected either problems or task_ids"),
        ({"problems": [SUM], "task_ids": ["1"], "programs": ["1"]}, "expected either problems or task_ids"),
        ({"problems": [SUM, SUM], "programs": ["1"]}, "2 problems for 1 programs; give one for each"),
        ({"problems": [SUM], "programs": []}, "programs: List should have at least 1 item"),
        ({"problems": [SUM], "programs": [1]}, "programs.0: Input should be a valid string"),
        ({"problems": [SUM], "programs": ["1"], "program": "1"}, "program: Extra inputs are not permitted"),
        ({"problems": [SUM], "programs": ["1"], "deadline_s": 0}, "deadline_s: Input should be greater than 0"),
        ({"task_ids": ["secrets"], "programs": ["1"]}, "task_ids.0: task_id 'secrets': none of the 2 problems"),
        ({"problems": [{"statement": "x", "tests": []}], "programs": ["1"]}, "problems.0: the row cannot be used as"),
        ({"problems": [{"a": 1}], "programs": ["1"]}, "problems.0: a row with the columns of no benchmark"),
        ({"problems": [SUM], "benchmark": "mbp", "programs": ["1"]}, "did you mean mbpp?"),
    ],
)
def test_a_request_that_cannot_be_used_is_refused_in_words(server: Client, query: Any, words: str) -> None:
    answered = server.post("/v1/grade", query)
    assert answered.status == (404 if "task_ids" in query and "problems" not in query else 422)
    assert words in answered.json["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"problems": [{"a": "\\ud800"}]}', b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(server: Client, body: bytes) -> None:
    answered = server.send("POST", "/v1/grade", body, {"Content-Type": "application/json"})
    assert answered.status == 422
    assert "JSON" in answered.json["detail"]


def test_other_paths_methods_and_types_are_refused_in_words(server: Client) -> None:
    assert server.get("/v2/grade").json == {"detail": "GET /v2/grade: Not Found"}
    assert server.get("/v1/grade").status == 405
    plain = server.send("POST", "/v1/grade", b"{}", {"Content-Type": "text/plain"})
    assert (plain.status, plain.json["detail"]) == (415, "expected the header `Content-Type: application/json`")


# SandboxFusion


def test_run_code_answers_as_sandbox_fusion_does(server: Client) -> None:
    result = run_code(server, "print(input() * 2)", stdin="ab", compile_timeout=10, memory_limit_MB=1024, files={})
    assert result["status"] == "Success"
    assert result["run_result"] | {"execution_time": 0} == {
        "status": "Finished", "execution_time": 0, "return_code": 0, "stdout": "abab\n", "stderr": "",
    }  # fmt: skip
    assert result["run_result"]["execution_time"] > 0


@pytest.mark.parametrize(
    ("code", "status", "return_code", "stderr"),
    [
        ("print(1)\nraise ValueError('late')", "Finished", 1, "line 2\nValueError: late\n"),
        ("print(1)\nprint(", "Finished", 1, "SyntaxError"),
        ("import sys; print(1); sys.exit(3)", "Finished", 3, ""),
        ("import os; os.abort()", "Finished", -6, ""),
        ("x = bytearray(10**10)", "Finished", -9, "MemoryError"),
        ("while True: pass", "TimeLimitExceeded", None, ""),
    ],
)
def test_run_code_says_how_a_program_failed(
    server: Client, code: str, status: str, return_code: int | None, stderr: str
) -> None:
    result = run_code(server, code, run_timeout=0.5)
    assert (result["status"], result["run_result"]["status"]) == ("Failed", status)
    assert result["run_result"]["return_code"] == return_code
    assert stderr in result["run_result"]["stderr"]


@pytest.mark.slow
def test_run_code_can_lower_the_memory_but_not_raise_it(server: Client) -> None:
    code = "print(len(bytearray(200 << 20)))"
    assert run_code(server, code)["status"] == "Success"
    assert run_code(server, code, memory_limit_MB=100)["status"] == "Failed"
    assert run_code(server, "print(len(bytearray(900 << 20)))", memory_limit_MB=2048)["status"] == "Failed"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"language": "cpp"}, "only python"), ({"files": {"a": ""}}, "no files"), ({"fetch_files": ["a"]}, "no files")],
)
def test_run_code_says_what_it_does_not_do(server: Client, options: dict[str, Any], words: str) -> None:
    result = run_code(server, "print(1)", **options)
    assert (result["status"], result["run_result"]) == ("SandboxError", None)
    assert words in result["message"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"run_timeout": 0}, "run_timeout: Input should be greater than 0"),
        ({"run_timeout": 21}, "run_timeout: 21 s is more than the 20 s of sandbox.program_wall_s"),
        ({"memory_limit_MB": -2}, "memory_limit_MB: Input should be greater than or equal to -1"),
        ({"code": None}, "code: Input should be a valid string"),
    ],
)
def test_run_code_refuses_what_makes_no_sense(server: Client, options: dict[str, Any], words: str) -> None:
    answered = server.post("/run_code", {"code": "1", "language": "python", **options})
    assert (answered.status, answered.json["detail"]) == (422, words)


def test_submit_judges_by_the_tests_in_the_request(server: Client) -> None:
    config = stdio(("1 2", "3\n"), ("5 6", "12\n"))
    result = submit(server, f"```python\n{RIGHT}\n```", config).json
    assert (result["id"], result["accepted"], result["extracted_code"].strip()) == (7, False, RIGHT)
    assert [test["passed"] for test in result["tests"]] == [True, False]
    assert [test["test_info"] for test in result["tests"]] == config["provided_data"]["test"]
    assert result["tests"][1]["exec_info"]["run_result"]["stdout"] == "11\n"
    as_text = {**config, "provided_data": {"test": json.dumps(config["provided_data"]["test"][:1])}}
    assert submit(server, RIGHT, as_text).json["accepted"]
    assert submit(server, "print('YES')", stdio(("", "Yes"))).json["accepted"]


def test_submit_takes_rows_of_benchmarks_and_preloaded_problems(server: Client) -> None:
    row = {"task_id": 1, "text": "Double.", "code": "", "test_list": ["assert f(2) == 4", "assert f(3) == 6"]}
    config = {"dataset_type": "mbpp", "provided_data": {**row, "code": "def f(n): return 2 * n"}, "run_timeout": 1}
    assert submit(server, "def f(n): return 2 * n", config).json["accepted"]
    wrong = submit(server, "def f(n): return 4", config).json
    assert [test["passed"] for test in wrong["tests"]] == [True, False]
    crashed = submit(server, "def f(n): raise KeyError(n)", config).json
    assert "KeyError: 2" in crashed["tests"][0]["exec_info"]["run_result"]["stderr"]
    answered = submit(server, f"print({HIDDEN!r})", {}, dataset="jsonl", id="secret")
    assert answered.json["accepted"]


def test_the_answers_of_hidden_tests_never_leave_the_server(server: Client) -> None:
    for program in (
        "print('no')",
        "print(open('/proc/self/environ').read())",
        "print(",
        "import sys; print(sys._getframe())",
    ):
        for answered in (
            submit(server, program, {}, dataset="jsonl", id="secret"),
            server.post("/v1/grade", {"task_ids": ["secret"], "programs": [program]}),
        ):
            assert answered.status == 200
            assert HIDDEN.encode() not in answered.content


@pytest.mark.parametrize(
    ("fields", "config", "status", "words"),
    [
        ({"id": "absent", "dataset": "jsonl"}, {}, 404, "id: task_id 'absent'"),
        ({"id": "secret", "dataset": "mbpp"}, {}, 404, "dataset 'mbpp': not loaded; loaded are jsonl, starter"),
        ({}, {"language": "cpp"}, 422, "config.language: 'cpp'; this server runs only python"),
        ({}, {"provided_data": {"test": []}}, 422, "config.provided_data.test: expected ["),
        ({}, {"provided_data": {"test": "[["}}, 422, "config.provided_data.test: expected ["),
        ({}, {"provided_data": {}, "dataset_type": "CruxEval"}, 422, "config.provided_data: benchmark 'CruxEval'"),
        ({}, {"custom_extract_logic": "x"}, 422, "config.custom_extract_logic: not supported"),
    ],
)
def test_submit_refuses_in_words(
    server: Client, fields: dict[str, Any], config: dict[str, Any], status: int, words: str
) -> None:
    answered = submit(server, "1", config, **fields)
    assert answered.status == status
    assert words in answered.json["detail"]


# Bounds, tokens, metrics


def test_more_programs_than_allowed_are_refused_for_now(held: tuple[Client, HeldBackend]) -> None:
    client, backend = held
    query = {"problems": [SUM], "programs": ["1", "2"]}
    first = in_background(lambda: client.post("/v1/grade", query))
    backend.wait_for(begun=2)
    for path, refused in (("/v1/grade", query), ("/run_code", {"code": "1", "language": "python"})):
        answered = client.post(path, refused)
        assert (answered.status, answered.headers["Retry-After"]) == (429, "1")
        assert answered.json["detail"] == "2 of at most 2 programs are under way; try again later"
    assert client.get("/health").json["pending"] == 2
    backend.let_go()
    assert first().status == 200
    assert client.post("/v1/grade", query).status == 200
    too_many = client.post("/v1/grade", {**query, "programs": ["1", "2", "3"]})
    assert (too_many.status, too_many.json["detail"]) == (413, "3 programs in a request; send at most 2")


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(held: tuple[Client, HeldBackend], is_chunked: bool) -> None:
    client, _ = held
    body = json.dumps({"problems": [SUM], "programs": ["#" * 3000]}).encode()
    headers = {"Content-Type": "application/json"} | ({"Transfer-Encoding": "chunked"} if is_chunked else {})
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if is_chunked else body
    answered = client.send("POST", "/v1/grade", sent, headers)
    assert answered.status == 413
    assert "larger than 2000 bytes" in answered.json["detail"]


def test_a_body_that_never_ends_is_refused(held: tuple[Client, HeldBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = held
    monkeypatch.setattr(exchange, "READ_S", 0.1)
    with socket.create_connection(("127.0.0.1", client.port), 60) as connection:
        connection.sendall(
            b"POST /v1/grade HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_deadline_ends_a_request_and_its_programs(held: tuple[Client, HeldBackend]) -> None:
    client, backend = held
    for number, request_id in enumerate((None, "a"), start=1):
        query = {"problems": [SUM], "programs": ["1"], "deadline_s": 0.1, "request_id": request_id}
        answered = client.post("/v1/grade", query)
        assert (answered.status, answered.json["detail"][:24]) == (504, "no answer within 0.1 s; ")
        backend.wait_for(begun=number, cancelled=number)
    assert client.get("/health").json["pending"] == 0


@pytest.mark.parametrize("path", ["/v1/grade", "/run_code"])
def test_what_a_client_leaves_behind_is_cancelled(held: tuple[Client, HeldBackend], path: str) -> None:
    client, backend = held
    query = {"problems": [SUM], "programs": ["1"]} if path == "/v1/grade" else {"code": "1", "language": "python"}
    leave(client, path, query, backend, begun=1)
    backend.wait_for(cancelled=1)
    assert client.get("/health").json["pending"] == 0


def leave(client: Client, path: str, query: Any, backend: HeldBackend, begun: int) -> None:
    """Send a request, and close the connection once its programs run."""
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(request_bytes(path, query))
        backend.wait_for(begun=begun)


def test_a_repeated_request_joins_the_first_and_later_gets_its_answer(held: tuple[Client, HeldBackend]) -> None:
    client, backend = held
    query = {"problems": [SUM], "programs": ["1"], "request_id": "mine"}
    leave(client, "/v1/grade", query, backend, begun=1)
    second = in_background(lambda: client.post("/v1/grade", query))
    other = client.post("/v1/grade", {**query, "programs": ["2"]})
    assert (other.status, other.json["detail"][:44]) == (409, "request_id 'mine' belongs to another request")
    backend.let_go()
    assert second().json["verdicts"][0]["passed"]
    assert client.post("/v1/grade", query).content == second().content
    assert (backend.num_begun, backend.num_cancelled) == (1, 0)
    assert b"rltf_serve_repeated_requests_total 2.0" in client.get("/metrics").content


def test_a_request_that_failed_is_not_remembered(held: tuple[Client, HeldBackend]) -> None:
    client, backend = held
    query = {"problems": [SUM], "programs": ["1", "2"], "request_id": "mine"}
    other = in_background(lambda: client.post("/v1/grade", {**query, "request_id": "other"}))
    backend.wait_for(begun=2)
    assert client.post("/v1/grade", query).status == 429
    backend.let_go()
    assert other().status == 200
    assert client.post("/v1/grade", query).status == 200


def test_a_token_is_asked_for_in_either_form() -> None:
    query = {"code": "1", "language": "python"}
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    backend = HeldBackend()
    with running(backend, token=TOKEN) as client:
        assert client.get("/health").status == 200
        for given in (None, TOKEN, f"Bearer {TOKEN}x", "Bearer", "Basic ä", f"Basic {TOKEN}", "Bearer \xff"):
            client.headers = {} if given is None else {"Authorization": given}
            for answered in (client.post("/run_code", query), client.get("/metrics")):
                assert answered.status == 401
                assert answered.json["detail"] == "expected the header `Authorization: Bearer TOKEN`"
        assert backend.num_begun == 0
        for given in (f"Bearer {TOKEN}", f"Basic {basic}"):
            client.headers = {"Authorization": given}
            assert client.get("/metrics").status == 200


def test_health_and_metrics(server: Client) -> None:
    server.post("/v1/grade", {"problems": [SUM], "programs": [RIGHT, "1 / 0"]})
    health = server.get("/health").json
    assert (health["ready"], health["workers"], health["problems"]) == (True, 2, 2)
    assert health["isolation"] in ("namespaces", "namespaces+cgroup")
    text = server.get("/metrics").content.decode()
    for line in ('rltf_serve_programs_total{outcome="passed"}', "rltf_serve_pending 0.0", "rltf_serve_workers 2.0"):
        assert line in text
    assert 'rltf_serve_requests_total{endpoint="/v1/grade",status="200"}' in text


@pytest.mark.slow
def test_a_thousand_requests_at_a_time_are_all_answered(server: Client) -> None:
    """They come at once, each over a connection of its own, and wait for two sandboxes."""
    allow_connections()
    start = threading.Barrier(50)

    def send(number: int) -> list[str]:
        start.wait(60)
        sockets = [socket.create_connection(("127.0.0.1", server.port), 60) for _ in range(20)]
        for connection in sockets:
            connection.sendall(request_bytes("/run_code", {"code": f"print({number})", "language": "python"}))
        outputs = []
        for connection in sockets:
            with connection, connection.makefile("rb") as file:
                content = file.read().partition(b"\r\n\r\n")[2]
            outputs.append(json.loads(content)["run_result"]["stdout"])
        return outputs

    with ThreadPoolExecutor(50) as executor:
        assert list(executor.map(send, range(50))) == [[f"{number}\n"] * 20 for number in range(50)]
