"""Sends malformed requests to a real server: no answer of 5xx, words in every refusal, and nothing left behind.

    python -m tests.serving.fuzz [--requests N] [--seed S]

Prints one JSON object: how many requests got which status, and what grew. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import http.client
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil

from rltf.problems.spec import ROW_KINDS
from tests.serving.servers import DEADLINE_S, RIGHT, SUM, Client, running

GRADE, RUN_CODE, SUBMIT = "/v1/grade", "/run_code", "/submit"
_MBPP = {"task_id": 2, "text": "Double.", "code": "def f(n): return 2 * n", "test_list": ["assert f(2) == 4"]}
_HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def f(n):\n    """Double."""\n',
    "entry_point": "f",
    "canonical_solution": "    return 2 * n\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}
_EVALPLUS = {**_HUMANEVAL, "base_input": [[1]], "plus_input": [[2]], "atol": 0, "contract": ""}
_APPS = {
    "problem_id": 1,
    "question": "Add.",
    "input_output": '{"inputs": ["1 2\\n"], "outputs": ["3\\n"]}',
    "solutions": "",
}
_KODCODE = {
    "question_id": "a",
    "question": "Double.",
    "solution": "def f(n): return 2 * n",
    "test": "def test_f():\n    assert f(2) == 4",
}
_LEETCODE = {
    "task_id": "a",
    "prompt": "",
    "completion": "",
    "entry_point": "Solution().f",
    "test": "def check(candidate):\n    assert candidate(2) == 4",
    "query": "Double.",
}
_DEEPCODER = {"problem": "Add.", "tests": '[{"input": "1 2", "output": "3", "type": "stdin_stdout"}]', "solutions": []}
_CHECKED = {
    **SUM,
    "checker": {"function": "def check(input, expected, actual): return True"},
    "limits": {"time_s": 1.0},
}
_TYPED = {
    "task_id": "c",
    "statement": "Add.",
    "tests": [{"call": "f", "arguments": [1, [2.5]], "expected": {"a": [1]}}, {"assert": "assert f(1) == 2"}],
}
ROWS = (SUM, _CHECKED, _TYPED, _MBPP, _HUMANEVAL, _EVALPLUS, _APPS, _KODCODE, _LEETCODE, _DEEPCODER)
_CASE = {"input": {"stdin": "1 2"}, "output": {"stdout": "3"}}
_RUN = {"code": RIGHT, "stdin": "1 2", "language": "python", "run_timeout": 1, "memory_limit_MB": 64, "files": {}}
_CONFIG = {"language": "python", "run_timeout": 1.0, "extra": {}, "provided_data": {"test": [_CASE]}}
_SUBMITTED = {"dataset": "x", "id": 1, "completion": RIGHT, "config": _CONFIG}
_PLACES: tuple[tuple[str, dict[str, Any]], ...] = (
    *((GRADE, {"problems": [row], "programs": [RIGHT], "request_id": None, "deadline_s": 30.0}) for row in ROWS),
    (GRADE, {"problems": [SUM, _MBPP], "completions": [f"```python\n{RIGHT}\n```", "def f(n): return n"]}),
    (GRADE, {"task_ids": [1, "sum"], "programs": [RIGHT, RIGHT]}),
    (RUN_CODE, _RUN),
    (SUBMIT, _SUBMITTED),
    *((SUBMIT, {**_SUBMITTED, "config": {"dataset_type": "mbpp", "provided_data": row}}) for row in ROWS[2:5]),
)
_JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e308, [], [[]], [None], {}, {"": {}},
    "", " ", "0", "\x00", "\ud800", "\U0001f600", "a" * 10_000, "[" * 500, '{"inputs": 1}', "[[1, 2]]",
    "def f(", "assert", "assert f(", "import os", "python", *ROW_KINDS,
    {"stdin": 1}, {"test": []}, [1, "a", None, {"b": []}],
)  # fmt: skip
_LITERALS = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"01",
    b"9" * 5000,
    b'"\\ud800"',
    b"[" * 3000,
    b"//",
    b"\xff\xfe",
)


def requests(seed: int) -> Iterator[tuple[str, bytes]]:
    """Endless paths and bodies: valid requests with some of their values, or some of their bytes, replaced."""
    random_ = random.Random(seed)
    while True:
        path, query = random_.choice(_PLACES)
        query = copy.deepcopy(query)
        for _ in range(random_.choice((0, 1, 1, 1, 2, 4))):
            _mutate(random_, query)
        if random_.random() < 0.1:
            query["benchmark"] = random_.choice(ROW_KINDS)
        body = json.dumps(query).encode()
        if random_.random() < 0.1:
            start = random_.randrange(len(body))
            end = min(len(body), start + random_.choice((0, 1, 5, 50)))
            body = body[:start] + random_.choice(_LITERALS) + body[end:]
        if random_.random() < 0.05:
            body = body[: random_.randrange(len(body))]
        yield path, body


def _mutate(random_: random.Random, query: dict[str, Any]) -> None:
    """Replace, remove or add a value at a random place."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(query)
    if not places:
        return
    inside, key = random_.choice(places)
    match random_.randrange(6):
        case 0:
            del inside[key]
        case 1 if isinstance(inside, dict):
            inside[random_.choice(("", "x", "stdin", "expected", "\ud800", "task_id"))] = random_.choice(_JUNK)
        case 2 if isinstance(inside, list):
            inside.extend(inside[:5])
        case 3 if isinstance(inside[key], str) and inside[key]:
            at = random_.randrange(len(inside[key]))
            inside[key] = (
                inside[key][:at] + random_.choice(("\x00", "\ud800", "(", "\n", "\\", "'")) + inside[key][at + 1 :]
            )
        case _:
            inside[key] = copy.deepcopy(random_.choice(_JUNK))


def fuzz(client: Client, num_requests: int, seed: int) -> Iterator[tuple[int, str]]:
    """The status of each request, and what is wrong with its answer, if anything is."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=DEADLINE_S)
    with contextlib.closing(connection):
        for number, (path, body) in enumerate(requests(seed)):
            if number == num_requests:
                return
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            yield response.status, _complaint(path, response.status, content, body)


def _complaint(path: str, status: int, content: bytes, body: bytes) -> str:
    shown = f"{path} {body[:2000]!r}: {status} {content[:500]!r}"
    try:
        answer = json.loads(content)
    except ValueError:
        return shown
    if status == 200:
        return "" if "detail" not in answer else shown
    return "" if 400 <= status < 500 and answer["detail"] else shown


def holdings() -> dict[str, int]:
    """What this process, with its server and the jails of the sandboxes, holds."""
    process = psutil.Process()
    return {"processes": len(process.children(recursive=True)), "descriptors": process.num_fds()}


def grown(before: dict[str, int], patience_s: float = 10.0) -> dict[str, tuple[int, int]]:
    """What this process holds more of than `before`, even after some time."""
    give_up = time.monotonic() + patience_s
    while True:
        more = {name: (before[name], now) for name, now in holdings().items() if now > before[name]}
        if not more or time.monotonic() > give_up:
            return more
        time.sleep(0.1)


def warm_up(client: Client) -> None:
    """Have the server start what it starts only once, such as the jail for expected values that are expressions."""
    tests = [{"assert": "assert f(2) == set([4]).pop()"}, {"call": "f", "arguments": [3], "expected": 6}]
    row = {"statement": "Double.", "tests": tests, "checker": {"function": "def check(*_): return False"}}
    answered = client.post(GRADE, {"problems": [row], "programs": ["def f(n): return 2 * n", "def f(n): return n"]})
    assert answered.status == 200, answered.content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: Counter[int] = Counter()
    wrong = []
    with running() as client:
        warm_up(client)
        before = holdings()
        for status, complaint in fuzz(client, options.requests, options.seed):
            counts[status] += 1
            wrong += [complaint] if complaint else []
        more = grown(before)
    print(
        json.dumps(
            {"case": "serve-fuzz", "statuses": counts, "wrong": wrong[:10], "num_wrong": len(wrong), "grown": more}
        )
    )
    return 1 if wrong or more else 0


if __name__ == "__main__":
    sys.exit(main())
