"""A client of `rltf serve` that needs only the standard library.

client = GraderClient("http://127.0.0.1:8600")
rows = client.grade(problems, programs)
"""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from rltf.errors import UserError

_RETRIED = (429, 502, 503)
_MAX_PAUSE_S = 10.0
_SLACK_S = 30.0


class GraderClient:
    """Sends programs to a server, and waits for their verdicts. Thread-safe.

    A request is repeated under its id while the server cannot be reached or has no room, for at most `patience_s`
    seconds. The server grades it once, so no verdict is lost or made twice.
    """

    def __init__(self, address: str, token: str | None = None, *, patience_s: float = 600.0) -> None:
        """`address` is as the server prints it: `http://HOST:PORT`."""
        self._address = address.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._patience_s = patience_s

    def grade(
        self,
        problems: Sequence[Mapping[str, Any] | str | int],
        programs: Sequence[str],
        *,
        benchmark: str | None = None,
        completions: bool = False,
        in_thought: bool = False,
        deadline_s: float = 600.0,
    ) -> list[dict[str, Any]]:
        """The verdict of each program, as a row (`Verdict.to_json`), in order.

        `problems` are rows, or the ids of problems that the server has loaded: one for each program, or one for all.
        `benchmark` is the KIND of the rows. With `completions`, the programs are answers of a model that hold them, and
        `in_thought` says that their prompt has opened a thought. Raises UserError if the server refuses the request,
        cannot be reached, or needs more than `deadline_s` seconds.
        """
        if not programs:
            return []
        are_rows = all(isinstance(problem, Mapping) for problem in problems)
        query = {
            "problems" if are_rows else "task_ids": list(problems),
            "completions" if completions else "programs": list(programs),
            "request_id": uuid.uuid4().hex,
            "in_thought": in_thought,
            "deadline_s": deadline_s,
            **({} if benchmark is None else {"benchmark": benchmark}),
        }
        verdicts: list[dict[str, Any]] = self._post("/v1/grade", query, deadline_s + _SLACK_S)["verdicts"]
        return verdicts

    def _post(self, path: str, query: Mapping[str, Any], timeout_s: float) -> Any:
        request = urllib.request.Request(self._address + path, json.dumps(query).encode(), self._headers)
        give_up = time.monotonic() + self._patience_s
        pause_s = 0.1
        while True:
            wait_s = pause_s
            try:
                with urllib.request.urlopen(request, timeout=timeout_s) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                reason = f"{error.code}: {_detail(error)}"
                if error.code not in _RETRIED:
                    raise UserError(f"{self._address}{path}: {reason}") from error
                wait_s = _seconds(error.headers.get("Retry-After"), pause_s)
            # Also what a server that ends in the middle of its answer leaves behind.
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = str(error) or type(error).__name__
            if time.monotonic() + wait_s > give_up:
                raise UserError(f"{self._address}{path}: no answer for {self._patience_s:g} s; the last time: {reason}")
            time.sleep(wait_s * random.uniform(1.0, 1.5))  # clients that were refused together do not return together
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (OSError, ValueError, KeyError, TypeError):
        return error.reason


def _seconds(retry_after: str | None, default: float) -> float:
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else default
