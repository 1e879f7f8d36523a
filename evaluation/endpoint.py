"""Programs from a model behind an OpenAI-compatible address."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from errors import UserError
from evaluation.fingerprints import some
from evaluation.run import Programs
from problems import Problem
from problems.extraction import extract_program
from problems.prompts import chat_message, render_prompt
from sandbox.grading import ProgramRow

_TIMEOUT_S = 300.0
_CONNECT_TIMEOUT_S = 10.0
_ATTEMPTS = 4
_RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_CONCURRENT_REQUESTS = 16


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`num_samples` programs of each problem from `model` at `address` (`http://HOST/v1`); None: the only one there.

    With `chat`, by chat completions, else by completions of the plain prompt. The environment variable `OPENAI_API_KEY`
    is sent where it is set.
    """

    address: str
    num_samples: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    chat: bool
    model: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "model": f"{self.address}#{self._model_name()}",
            "num_samples": self.num_samples,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "chat": self.chat,
        }

    def resume_point(self, num_stored: int) -> int:
        """Whole problems only: their samples are asked for together."""
        return num_stored // self.num_samples * self.num_samples

    def programs(self, problems: tuple[Problem, ...], num_done: int) -> Programs:
        return self._programs(problems[num_done // self.num_samples :], self._model_name())

    def _programs(self, problems: tuple[Problem, ...], model: str) -> Iterator[tuple[ProgramRow, Problem]]:
        pending: deque[tuple[Problem, Future[list[str]]]] = deque()
        remaining = iter(problems)
        with ThreadPoolExecutor(_CONCURRENT_REQUESTS, thread_name_prefix="endpoint") as executor:
            for problem in remaining:
                pending.append((problem, executor.submit(self._sample, problem, model)))
                if len(pending) >= 2 * _CONCURRENT_REQUESTS:
                    yield from self._rows(*pending.popleft())
            while pending:
                yield from self._rows(*pending.popleft())

    def _rows(self, problem: Problem, future: Future[list[str]]) -> Iterator[tuple[ProgramRow, Problem]]:
        for number, text in enumerate(future.result()):
            start, end = extract_program(problem, text)
            completion_id = f"{problem.task_id}/{number}"
            yield ProgramRow(task_id=problem.task_id, completion_id=completion_id, code=text[start:end]), problem

    def _sample(self, problem: Problem, model: str) -> list[str]:
        body: dict[str, Any] = {
            "model": model,
            "n": self.num_samples,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }
        if self.chat:
            body["messages"] = [{"role": "user", "content": chat_message(problem)}]
            answer = self._ask("chat/completions", body)
            texts = [choice["message"]["content"] or "" for choice in answer.get("choices", [])]
        else:
            answer = self._ask("completions", body | {"prompt": render_prompt(problem)})
            texts = [choice["text"] for choice in answer.get("choices", [])]
        if len(texts) != self.num_samples:
            raise UserError(f"{self.address}: asked for {self.num_samples} programs, got {len(texts)}")
        return texts

    def _model_name(self) -> str:
        """Raises UserError where the server does not have the model, or has several and none is named."""
        data = self._ask("models", None, timeout_s=_CONNECT_TIMEOUT_S, attempts=1).get("data") or []
        ids = [str(model["id"]) for model in data if isinstance(model, dict) and "id" in model]
        if not ids:
            raise UserError(f"{self.address}: serves no model")
        if self.model in ids:
            return self.model
        if self.model is None and len(ids) == 1:
            return ids[0]
        found = f"serves {some(ids)}" if self.model is None else f"has no model {self.model}, it serves {some(ids)}"
        raise UserError(f"{self.address}: {found}; name one of them: --model {self.address}#{ids[0]}")

    def _ask(
        self, path: str, body: dict[str, Any] | None, *, timeout_s: float = _TIMEOUT_S, attempts: int = _ATTEMPTS
    ) -> dict[str, Any]:
        """The answer's JSON object. A busy server is asked again, with pauses of 1, 2 and 4 seconds.

        Raises:
            UserError: no usable answer.
        """
        url = f"{self.address.rstrip('/')}/{path}"
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(attempts):
            request = urllib.request.Request(url, data, headers)
            try:
                with urllib.request.urlopen(request, timeout=timeout_s) as response:
                    answer = json.load(response)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}: {error.read(300).decode('utf-8', 'replace')}"
                if error.code not in _RETRY_STATUS:
                    break
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = str(error) or type(error).__name__
            else:
                if isinstance(answer, dict):
                    return answer
                reason = "the answer is no JSON object"
            if attempt + 1 < attempts:
                time.sleep(2**attempt)
        raise UserError(f"{url}: {reason}")
