"""Programs from a model behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

from openai import APIStatusError, AsyncOpenAI, OpenAI, OpenAIError

from rltf.errors import UserError
from rltf.evaluation.patience import Patience
from rltf.evaluation.sources import CONCURRENCY, Part, PreparedPrograms, Programs, SamplingOptions, StoredRows
from rltf.problems import LoadedProblems, Problem
from rltf.problems.extraction import extract_program
from rltf.problems.fingerprints import some
from rltf.problems.prompts import PromptFormat, chat_messages, render_prompt

_TIMEOUT_S = 300.0
_CONNECT_TIMEOUT_S = 10.0
_WAIT_S = 0.5  # then graded programs are stored, although no new one has come
logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request


@dataclass(frozen=True, kw_only=True)
class ServedModel(SamplingOptions):
    """`num_samples` programs of each problem from `model` at `address` (`http://HOST/v1`).

    `model` may be None if the server has only one. `chat` asks for chat completions instead of completions of the plain
    prompt. At most `concurrency` requests are under way at a time. The environment variable `OPENAI_API_KEY` is sent if
    it is set.
    """

    address: str
    chat: bool
    model: str | None = None
    concurrency: int = CONCURRENCY

    def __post_init__(self) -> None:
        for name in ("system_prompt", "chat_template_kwargs"):
            if getattr(self, name) is not None and not self.chat:
                raise UserError(f"--{name.replace('_', '-')} needs a chat; add --chat-template")

    @property
    def identity(self) -> dict[str, Any]:
        identity = asdict(self) | {"model": f"{self.address}#{self._name}"}
        del identity["address"], identity["concurrency"]
        return identity

    def prepare(self, loaded: LoadedProblems, k: int) -> PreparedPrograms:
        problems = loaded.problems
        return PreparedPrograms(len(problems) * self.num_samples, partial(self._left, problems))

    def close(self) -> None:
        """Every set of problems has its own connections, which close with it."""

    def _left(self, problems: Sequence[Problem], stored: StoredRows) -> Programs:
        waiting = deque(self.parts(problems, stored))
        pending: set[asyncio.Task[tuple[Part, list[str]]]] = set()
        failure: BaseException | None = None
        patience = Patience(self.address)
        with asyncio.Runner() as runner:  # it cancels what is pending if the evaluation ends early
            client = AsyncOpenAI(base_url=self.address, api_key=_key(), timeout=_TIMEOUT_S, max_retries=0)
            while pending or (waiting and failure is None):
                while waiting and failure is None and len(pending) < self.concurrency:
                    task = runner.get_loop().create_task(self._sample(waiting.popleft(), client, patience))
                    # asyncio prints failures that nobody asks for, as happens if the evaluation ends early.
                    task.add_done_callback(lambda done: done.cancelled() or done.exception())
                    pending.add(task)
                first = asyncio.wait(pending, timeout=_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
                finished, pending = runner.run(first)
                for task in finished:
                    if (error := task.exception()) is not None:
                        failure = failure or error  # raised once the answers under way are stored
                        continue
                    part, texts = task.result()
                    yield from part.programs((_program(part.problem, text), text) for text in texts)
                yield None
            runner.run(client.close())
        if isinstance(failure, UserError):
            raise UserError(f"{failure}. Programs that were sampled before are kept; the same command continues")
        if failure is not None:
            raise failure

    @property
    def _form(self) -> PromptFormat:
        """The text of prompts; the server adds its chat template itself."""
        return PromptFormat(self.chat, self.system_prompt, self.prompt_template)

    @cached_property
    def _name(self) -> str:
        """Raises UserError if the server lacks the model, or has several and none is named."""
        with _one_message(f"{self.address}/models"):
            quick = OpenAI(base_url=self.address, api_key=_key(), timeout=_CONNECT_TIMEOUT_S, max_retries=0)
            ids = [model.id for model in quick.models.list().data or []]
        if not ids:
            raise UserError(f"{self.address}: the server has no model")
        if self.model in ids:
            return self.model
        if self.model is None and len(ids) == 1:
            return ids[0]
        found = f"serves {some(ids)}" if self.model is None else f"has no model {self.model}, it serves {some(ids)}"
        raise UserError(f"{self.address}: {found}; choose one of them, for example --model {self.address}#{ids[0]}")

    async def _sample(self, part: Part, client: AsyncOpenAI, patience: Patience) -> tuple[Part, list[str]]:
        # vLLM's server gives each sample its own seed, counting up from this one.
        asked: dict[str, Any] = {"model": self._name, "n": part.num_samples, "seed": self.seed + part.start}
        if self.stop is not None:
            asked["stop"] = self.stop
        asked |= {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        with _one_message(self.address):
            if self.chat:
                asked["messages"] = chat_messages(part.problem, self._form)
                if self.chat_template_kwargs is not None:
                    asked["extra_body"] = {"chat_template_kwargs": self.chat_template_kwargs}
                chat = await patience.ask(lambda: client.chat.completions.create(**asked))
                texts = [choice.message.content or "" for choice in chat.choices]
            else:
                asked["prompt"] = render_prompt(part.problem, self._form)
                plain = await patience.ask(lambda: client.completions.create(**asked))
                texts = [choice.text for choice in plain.choices]
        if len(texts) != part.num_samples:
            raise UserError(f"{self.address}: asked for {part.num_samples} programs, got {len(texts)}")
        return part, texts


def _key() -> str:
    """The client refuses to start without a key; servers that want none ignore it."""
    return os.environ.get("OPENAI_API_KEY") or "EMPTY"


def _program(problem: Problem, text: str) -> str:
    start, end = extract_program(problem, text)
    return text[start:end]


@contextmanager
def _one_message(url: str) -> Iterator[None]:
    """Turn whatever the client raises into one UserError that starts with `url`."""
    try:
        yield
    except APIStatusError as error:
        raise UserError(f"{url}: status {error.status_code}: {error.response.text[:300]}") from error
    except OpenAIError as error:
        raise UserError(f"{url}: {error.__cause__ or error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        # The client does not check the shape of an answer: a web page, say, only fails when its fields are read.
        raise UserError(f"{url}: this is not the answer of an OpenAI-compatible server ({error})") from error
