"""Programs sampled in this process, from a model folder or a Hub id."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, deque
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from actors.engine import SamplingEngine, SamplingRequest, build_engine
from actors.messages import RolloutRequest
from actors.prompting import Prompter
from errors import UserError
from evaluation.sources import Programs, SamplingOptions, numbered
from learner.model_source import TINY, model_folder
from problems import Problem
from problems.fingerprints import NUM_CHARACTERS
from problems.prompts import PromptFormat
from settings import CACHE_DIR, ChatTemplate, Dtype, Engine, GeneratorSettings, ModelSettings
from transport.model_folder import chat_warning, check_model_folder, end_token_ids, load_tokenizer, prompt_format

logger = logging.getLogger(__name__)
LENGTH_LIMIT = 2048
_QUEUED_SEQUENCES_PER_SLOT = 2
_WHOLE_FILE_BYTES = 1 << 22
_PART_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SampledModel(SamplingOptions):
    """`num_samples` programs of each problem from a model, in the order in which problems are finished.

    At temperature 0 each problem has one greedy program. A sample's seed depends on `seed` and its problem's place, so
    an interrupted evaluation continues with the programs it would have had anyway.
    """

    name: str
    max_length: int | None = None
    """Most tokens of a prompt with its program; None means the model's own limit, but at most `LENGTH_LIMIT`."""
    dtype: Dtype = Dtype.BFLOAT16
    engine: Engine = Engine.VLLM
    chat_template: ChatTemplate = ChatTemplate.AUTO

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError("--temperature must be at least 0, and --top-p above 0 and at most 1")
        if self.temperature == 0 and self.num_samples > 1:
            raise UserError("--temperature 0 decodes one program per problem; use --num-samples 1 or a temperature")
        if self.name == TINY:
            raise UserError("--model tiny is only built and trained by the starter job; give one of its checkpoints")

    @property
    def identity(self) -> dict[str, Any]:
        identity = asdict(self) | {"model": self.name, "max_length": self._settings.max_model_len}
        identity |= {"dtype": self.dtype.value, "engine": self.engine.value, "chat_template": self._form.chat}
        del identity["name"]
        return identity | {"model_files": folder_fingerprint(self._folder)}

    @cached_property
    def _folder(self) -> Path:
        return model_folder(self.name, (), CACHE_DIR, seed=self.seed)

    @cached_property
    def _settings(self) -> ModelSettings:
        length = self.max_length
        if length is None:
            config = check_model_folder(self._folder)
            own = config.get("max_position_embeddings") or config.get("n_positions")
            if config.get("is_encoder_decoder"):
                own = None  # T5 knows only distances; `n_positions` is the length it was pre-trained with, not a limit
            length = min(own, LENGTH_LIMIT) if isinstance(own, int) else LENGTH_LIMIT
        return ModelSettings(
            name=self.name,
            dtype=self.dtype,
            max_model_len=length,
            chat_template=self.chat_template,
            chat_template_kwargs=self.chat_template_kwargs,
            system_prompt=self.system_prompt,
            prompt_template=self.prompt_template,
        )

    @cached_property
    def _form(self) -> PromptFormat:
        tokenizer = load_tokenizer(self._folder)
        if warning := chat_warning(self._folder, tokenizer, self._settings):
            logger.warning("%s", warning)
        return prompt_format(self._folder, tokenizer, self._settings)

    def programs(self, problems: tuple[Problem, ...], done: Counter[str]) -> Programs:
        """Raises UserError, before the first program, if the model cannot be sampled."""
        if all(problem.task_id in done for problem in problems):
            return ()
        by_id = {problem.task_id: problem for problem in problems}
        prompter = Prompter(self._folder, by_id, self._settings, self.stop or ())
        requests = self._requests(prompter, problems)
        end_ids = end_token_ids(self._folder, prompter.tokenizer, chat=prompter.form.chat)
        generator = GeneratorSettings(engine=self.engine, stop=tuple(self.stop or ()))
        engine = build_engine(self._folder, self._settings, generator, end_ids, self.seed)
        work = [pair for pair in zip(problems, requests, strict=True) if pair[0].task_id not in done]
        return self._sample(engine, prompter, work)

    def _requests(self, prompter: Prompter, problems: tuple[Problem, ...]) -> list[SamplingRequest | None]:
        """One request per problem; None if the prompt leaves no room for a program."""
        requests: list[SamplingRequest | None] = []
        for place, problem in enumerate(problems):
            asked = RolloutRequest(
                rollout_id=problem.task_id,
                task_id=problem.task_id,
                num_samples=0 if self.temperature == 0 else self.num_samples,
                greedy=self.temperature == 0,
                temperature=self.temperature or 1.0,
                top_p=self.top_p,
                max_tokens=self.max_tokens,
                seed=self.seed + place * self.num_samples,
            )
            request = SamplingRequest(asked, prompter.encode(problem.task_id))
            try:
                request.completion_room(self._settings.max_model_len)
            except ValueError as error:
                logger.warning("%s; its programs count as empty", error)
                requests.append(None)
            else:
                requests.append(request)
        if not any(requests):
            raise UserError(
                f"no prompt leaves room for a program within {self._settings.max_model_len} tokens; raise --max-length"
            )
        return requests

    def _sample(
        self, engine: SamplingEngine, prompter: Prompter, work: list[tuple[Problem, SamplingRequest | None]]
    ) -> Programs:
        """The programs of each problem as soon as the engine has finished it. The engine stays full meanwhile."""
        waiting = deque(request for _, request in work if request is not None)
        in_flight: dict[str, SamplingRequest] = {}
        problems = {problem.task_id: problem for problem, _ in work}
        limit = _QUEUED_SEQUENCES_PER_SLOT * GeneratorSettings().max_num_seqs
        with closing(engine):
            for problem, request in work:
                if request is None:
                    yield from numbered(problem, [("", "")] * self.num_samples)
            while waiting or in_flight:
                while waiting and engine.num_unfinished < limit:
                    request = waiting.popleft()
                    engine.add_request(request)
                    in_flight[request.request_id] = request
                for finished in engine.step():
                    rollout = prompter.rollout(in_flight.pop(finished.request_id), finished)
                    answers = [(completion.program, completion.text) for completion in rollout.completions]
                    yield from numbered(problems[finished.request_id], answers)
                yield None


def folder_fingerprint(folder: Path) -> str:
    """A fingerprint of a model folder: the names, sizes and contents of its files.

    Large files count with their start, middle and end only. Weights that were trained further have the same size, but
    differ almost everywhere.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE_BYTES:
                digest.update(file.read())
                continue
            for start in (0, size // 2, size - _PART_BYTES):
                file.seek(start)
                digest.update(file.read(_PART_BYTES))
    return digest.hexdigest()[:NUM_CHARACTERS]
