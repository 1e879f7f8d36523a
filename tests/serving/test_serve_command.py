"""The command `rltf serve` in a process of its own: its start, its end, its refusals, and clients that outlive it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from rltf.errors import UserError
from rltf.serving.client import GraderClient
from rltf.serving.command import is_loopback, listen, main, read_token
from tests.serving.servers import DEADLINE_S, RIGHT, SUM, Client, request_bytes

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-some-length"
SLOW = "import time; time.sleep(1); print(3)"


@contextlib.contextmanager
def serve(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server with one sandbox in a process of its own, and its port."""
    command = [sys.executable, "-m", "rltf.cli", "serve", "--workers", "1", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.fullmatch(r"serving on http://127\.0\.0\.1:(\d+): 1 sandboxes, isolation \S+\n", line)
            assert found, line + process.stdout.read()
            jails = psutil.Process(process.pid).children(recursive=True)
            assert jails
            yield process, int(found[1])
        finally:
            process.kill()
        _, alive = psutil.wait_procs(jails, DEADLINE_S)
        assert alive == []  # the jails end with their server, even if it is killed


def await_pending(client: Client, number: int) -> None:
    give_up = time.monotonic() + DEADLINE_S
    while client.get("/health").json["pending"] != number:
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.mark.slow
def test_a_server_that_may_not_wait_says_so_and_ends() -> None:
    with serve("--port", "0", "--drain-s", "1", "--sandbox.cpu_s", "2") as (process, port):
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
            query = {"problems": [SUM], "programs": ["while True: pass", RIGHT]}
            connection.sendall(request_bytes("/v1/grade", query))
            await_pending(Client(port), 2)
            process.send_signal(signal.SIGTERM)
            head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert json.loads(body)["detail"] == "the server is ending; try again later"
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.slow
def test_a_client_outlives_its_server_and_loses_no_verdict() -> None:
    """A server is killed while it grades. The next one at its address answers the repeated request, and is then asked
    to end: it finishes what runs.
    """
    port = free_port()
    programs = [SLOW, RIGHT, "1 / 0"]
    with ThreadPoolExecutor(1) as executor:
        with serve("--port", str(port)) as (process, _):
            client = GraderClient(f"http://127.0.0.1:{port}/", patience_s=DEADLINE_S)
            rows = executor.submit(client.grade, [SUM], programs)
            await_pending(Client(port), 3)
            process.kill()
            process.wait()
        with serve("--port", str(port)) as (process, _):
            outcomes = [row["outcome"] for row in rows.result(DEADLINE_S)]
            assert outcomes == ["failed", "passed", "runtime_error"]
            text = Client(port).get("/metrics").content.decode()
            assert re.search(r'rltf_serve_requests_total\{endpoint="/v1/grade",status="200"\} 1\.0', text)
            assert_ends_in_good_order(process, Client(port), executor)


def assert_ends_in_good_order(process: subprocess.Popen[str], client: Client, executor: ThreadPoolExecutor) -> None:
    answered = executor.submit(client.post, "/v1/grade", {"problems": [SUM], "programs": [SLOW, RIGHT]})
    await_pending(client, 2)
    process.send_signal(signal.SIGTERM)
    assert [row["outcome"] for row in answered.result(DEADLINE_S).json["verdicts"]] == ["failed", "passed"]
    assert process.wait(DEADLINE_S) == 0
    with pytest.raises(ConnectionRefusedError):
        client.get("/health")


def free_port() -> int:
    with listen("127.0.0.1", 0) as listener:
        return int(listener.getsockname()[1])


def test_a_server_for_other_machines_needs_a_token(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRADER_TOKEN", raising=False)
    assert main(["--host", "0.0.0.0", "--port", "0"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --host 0.0.0.0: other machines can reach this address, so clients need a token")
    assert "--token-file FILE" in message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_addresses_of_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_addresses_that_others_reach(host: str) -> None:
    assert not is_loopback(host)


def test_tokens_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("GRADER_TOKEN", f"{TOKEN}-of-the-environment")
    assert read_token(file) == TOKEN
    assert read_token(None) == f"{TOKEN}-of-the-environment"
    monkeypatch.delenv("GRADER_TOKEN")
    assert read_token(None) is None


@pytest.mark.parametrize("text", ["", "short", "two words of some length", "\u00e4" * 20, b"\xff" * 20])
def test_a_token_that_is_too_weak_or_unreadable_is_refused(tmp_path: Path, text: str | bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=re.escape(str(file))):
        read_token(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_token(tmp_path / "absent")


def test_a_port_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"--host 127\.0\.0\.1 --port {port}: cannot listen there: .*in use"):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match="cannot listen there"):
        listen("a host that is not there", 0)


def test_answers_are_sent_at_once() -> None:
    """With Nagle's algorithm, every answer would take 40 ms."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
