"""Programs from a model behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from openai import AsyncOpenAI, BadRequestError, OpenAI, OpenAIError
from openai.types import CompletionUsage

from rltf.errors import UserError
from rltf.evaluation.patience import Patience, in_words
from rltf.evaluation.sources import CONCURRENCY, Part, PreparedPrograms, Programs, SamplingOptions, StoredRows
from rltf.evaluation.turns import Answer, Dialogue, Examiner, TurnCounts, check_examples
from rltf.problems import LoadedProblems, Problem
from rltf.problems.extraction import extract_program
from rltf.problems.fingerprints import some
from rltf.problems.prompts import Exchange, PromptFormat, chat_messages, render_prompt
from rltf.sandbox.grading import ProgramRow
from rltf.seeds import seed_of

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
        identity = self.sampling | {"model": f"{self.address}#{self._name}"}
        del identity["address"], identity["concurrency"]
        return identity

    def prepare(self, loaded: LoadedProblems, k: int) -> PreparedPrograms:
        problems = loaded.problems
        if self.turns > 1:
            check_examples(loaded, f"--turns {self.turns}", "one turn")
        return PreparedPrograms(
            len(problems) * self.num_samples,
            partial(self._left, problems),
            examined=partial(self._in_turns, problems) if self.turns > 1 else None,
            history=partial(TurnCounts, problems, self.turns) if self.turns > 1 else None,
        )

    def close(self) -> None:
        """Every set of problems has its own connections, which close with it."""

    def _left(self, problems: Sequence[Problem], stored: StoredRows) -> Programs:
        return self._gathered([partial(self._part, part) for part in self.parts(problems, stored)])

    def _in_turns(
        self, problems: Sequence[Problem], stored: StoredRows, examiner: Examiner
    ) -> Generator[tuple[ProgramRow, Problem] | None]:
        return self._gathered([partial(self._dialogue, part, examiner) for part in self.parts(problems, stored)])

    def _gathered(
        self, jobs: Iterable[Callable[[_Client], Coroutine[Any, Any, Programs]]]
    ) -> Generator[tuple[ProgramRow, Problem] | None]:
        """The programs of all jobs as they finish; each job has one request under way."""
        waiting = deque(jobs)
        pending: set[asyncio.Task[Programs]] = set()
        failure: BaseException | None = None
        patience = Patience(self.address)
        with asyncio.Runner() as runner:  # it cancels what is pending if the evaluation ends early
            client = AsyncOpenAI(base_url=self.address, api_key=_key(), timeout=_TIMEOUT_S, max_retries=0)
            while pending or (waiting and failure is None):
                while waiting and failure is None and len(pending) < self.concurrency:
                    task = runner.get_loop().create_task(waiting.popleft()(_Client(client, patience)))
                    # asyncio prints failures that nobody asks for, as happens if the evaluation ends early.
                    task.add_done_callback(lambda done: done.cancelled() or done.exception())
                    pending.add(task)
                first = asyncio.wait(pending, timeout=_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
                finished, pending = runner.run(first)
                for task in finished:
                    if (error := task.exception()) is not None:
                        failure = failure or error  # raised once the answers under way are stored
                        continue
                    yield from task.result()
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

    async def _part(self, part: Part, client: _Client) -> Programs:
        # vLLM's server gives each sample its own seed, counting up from this one.
        with _one_message(self.address):
            texts, _ = await self._ask(client, part, ())
        return part.programs((_program(part.problem, text), text) for text in texts)

    async def _dialogue(self, part: Part, examiner: Examiner, client: _Client) -> Programs:
        """The row of the dialogue that `part`, a single sample, begins."""
        dialogue = Dialogue(part.problem, part.start, self.turns)
        while not dialogue.is_over:
            try:
                with _one_message(self.address):
                    (text,), usage = await self._ask(client, part, dialogue.exchanges)
            except UserError as error:
                if not dialogue.turns or not _is_too_long(error.__cause__):
                    raise
                dialogue.end()
            else:
                tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
                answer = Answer(text, _program(part.problem, text), *tokens)
                await asyncio.wrap_future(examiner.submit(dialogue, answer))
        return [dialogue.row()]

    def _seed_of(self, part: Part) -> int:
        return seed_of(self.seed, part.problem.task_id) + part.start

    async def _ask(
        self, client: _Client, part: Part, exchanges: Sequence[Exchange]
    ) -> tuple[list[str], CompletionUsage | None]:
        """An answer for each sample of a part after `exchanges`, and how many tokens they took."""
        asked: dict[str, Any] = {"model": self._name, "n": part.num_samples, "seed": self._seed_of(part)}
        if self.stop is not None:
            asked["stop"] = self.stop
        asked |= {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        # Only a dialogue that has grown may be too long: a first prompt that does not fit is an error.
        ask = partial(client.patience.ask, is_expected=_is_too_long if exchanges else lambda _: False)
        if self.chat:
            asked["messages"] = chat_messages(part.problem, self._form, exchanges)
            if self.chat_template_kwargs is not None:
                asked["extra_body"] = {"chat_template_kwargs": self.chat_template_kwargs}
            chat = await ask(lambda: client.api.chat.completions.create(**asked))
            texts, usage = [choice.message.content or "" for choice in chat.choices], chat.usage
        else:
            asked["prompt"] = render_prompt(part.problem, self._form, exchanges=exchanges)
            plain = await ask(lambda: client.api.completions.create(**asked))
            texts, usage = [choice.text for choice in plain.choices], plain.usage
        if len(texts) != part.num_samples:
            raise UserError(f"{self.address}: asked for {part.num_samples} programs, got {len(texts)}")
        return texts, usage


@dataclass(frozen=True, slots=True)
class _Client:
    """The connections of one set of problems, and the patience with their server."""

    api: AsyncOpenAI
    patience: Patience


def _is_too_long(cause: BaseException | None) -> bool:
    """Whether a server refused a prompt because of its length. Each says so in its own words."""
    return isinstance(cause, BadRequestError) and "context" in cause.response.text.lower()


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
    except OpenAIError as error:
        raise UserError(f"{url}: {in_words(error)}") from error
    except (AttributeError, TypeError, ValueError) as error:
        # The client does not check the shape of an answer: a web page, say, only fails when its fields are read.
        raise UserError(f"{url}: this is not the answer of an OpenAI-compatible server ({error})") from error
