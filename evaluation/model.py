"""Programs sampled from a model folder or a Hub id, by engines here or elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from rltf.actors.engine import SamplingRequest
from rltf.actors.messages import RolloutRequest
from rltf.actors.prompting import Prompter
from rltf.errors import UserError
from rltf.evaluation.capacity import cache_bytes_per_token, sized_for_cpus
from rltf.evaluation.places import EnginePlace, RunningEngine, here
from rltf.evaluation.sampler import Sampler, finished
from rltf.evaluation.sources import Part, PreparedPrograms, Programs, SamplingOptions, StoredRows
from rltf.evaluation.turns import Answer, Dialogue, Examiner, TurnCounts, check_examples
from rltf.learner.model_source import TINY, model_folder
from rltf.problems import LoadedProblems, Problem
from rltf.problems.fingerprints import NUM_CHARACTERS
from rltf.problems.prompts import PromptFormat
from rltf.sandbox.grading import ProgramRow
from rltf.seeds import seed_of
from rltf.settings import CACHE_DIR, ChatTemplate, Dtype, Engine, GeneratorSettings, ModelSettings
from rltf.transport.model_folder import chat_warning, check_model_folder, end_token_ids, load_tokenizer, prompt_format
from rltf.transport.rollouts import EarlierTurn

logger = logging.getLogger(__name__)
LENGTH_LIMIT = 2048
_QUEUED_SEQUENCES_PER_SLOT = 2
_WHOLE_FILE_BYTES = 1 << 22
_PART_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SampledModel(SamplingOptions):
    """`num_samples` programs of each problem from a model, in the order in which they are finished.

    At temperature 0 each problem has one greedy program. A sample's seed depends on `seed`, its problem and its number,
    so an interrupted evaluation continues with the programs it would have had anyway.
    """

    name: str
    max_length: int | None = None
    """Most tokens of a prompt with its program; None means the model's own limit, but at most `LENGTH_LIMIT`."""
    dtype: Dtype = Dtype.BFLOAT16
    engine: Engine = Engine.VLLM
    chat_template: ChatTemplate = ChatTemplate.AUTO
    engines: EnginePlace = field(default_factory=here)

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError("--temperature must be at least 0, and --top-p above 0 and at most 1")
        if self.temperature == 0 and self.num_samples > 1:
            raise UserError("--temperature 0 decodes one program per problem; use --num-samples 1 or a temperature")
        if self.name == TINY:
            raise UserError("--model tiny is only built and trained by the starter job; give one of its checkpoints")

    @property
    def identity(self) -> dict[str, Any]:
        identity = self.sampling | {"model": self.name, "max_length": self.settings.max_model_len}
        identity |= {"dtype": self.dtype.value, "engine": self.engine.value, "chat_template": self.form.chat}
        del identity["name"], identity["engines"]
        return identity | {"model_files": folder_fingerprint(self.folder)}

    @cached_property
    def folder(self) -> Path:
        return model_folder(self.name, (), CACHE_DIR, seed=self.seed)

    @cached_property
    def settings(self) -> ModelSettings:
        length = self.max_length
        if length is None:
            config = check_model_folder(self.folder)
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
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return load_tokenizer(self.folder)

    @cached_property
    def form(self) -> PromptFormat:
        if warning := chat_warning(self.folder, self.tokenizer, self.settings):
            logger.warning("%s", warning)
        return prompt_format(self.folder, self.tokenizer, self.settings)

    def prepare(self, loaded: LoadedProblems, k: int) -> PreparedPrograms:
        """Raises UserError if no prompt leaves room for a program."""
        problems = loaded.problems
        if self.turns > 1:
            check_examples(loaded, f"--turns {self.turns}", "one turn")
        prompter = self.prompter(problems)
        requests = self.requests(prompter, problems)
        return PreparedPrograms(
            len(problems) * self.num_samples,
            partial(self.left, prompter, problems, requests),
            examined=partial(self._in_turns, prompter, problems, requests) if self.turns > 1 else None,
            history=partial(TurnCounts, problems, self.turns) if self.turns > 1 else None,
        )

    def close(self) -> None:
        if "running_engine" in vars(self):
            self.running_engine.close()
            del vars(self)["running_engine"]

    @cached_property
    def _prompt_lengths(self) -> list[int]:
        """In tokens, of all problems prepared so far."""
        return []

    @cached_property
    def generator(self) -> GeneratorSettings:
        settings = GeneratorSettings(engine=self.engine, stop=tuple(self.stop or ()))
        if self.engines.on_gpu:
            return settings
        limit = self.settings.max_model_len
        num_tokens = min(max(self._prompt_lengths) + self.max_tokens, limit) if self.turns == 1 else limit
        token_bytes = cache_bytes_per_token(self.folder, self.dtype)
        return sized_for_cpus(settings, self.settings, token_bytes, num_tokens, self.engines.num_cores)

    @cached_property
    def running_engine(self) -> RunningEngine:
        """Started once for all problems, when the first program is needed. Raises UserError as `build_engine`."""
        end_ids = end_token_ids(self.folder, self.tokenizer, chat=self.form.chat)
        return self.engines.start(self.folder, self.settings, self.generator, end_ids, self.seed)

    def prompter(self, problems: Sequence[Problem]) -> Prompter:
        """What knows the prompts of `problems`, and finds the programs in what is sampled."""
        return Prompter(self.folder, {one.task_id: one for one in problems}, self.settings, self.stop or ())

    def requests(self, prompter: Prompter, problems: Sequence[Problem]) -> dict[str, SamplingRequest | None]:
        """For all samples of each problem, by task id; None if the prompt leaves no room for a program.

        Raises UserError if none does.
        """
        requests: dict[str, SamplingRequest | None] = {}
        for problem in problems:
            asked = RolloutRequest(
                rollout_id=problem.task_id,
                task_id=problem.task_id,
                num_samples=0 if self.temperature == 0 else self.num_samples,
                greedy=self.temperature == 0,
                temperature=self.temperature or 1.0,
                top_p=self.top_p,
                max_tokens=self.max_tokens,
                seed=seed_of(self.seed, problem.task_id),
            )
            request = SamplingRequest(asked, prompter.encode(problem.task_id))
            try:
                request.completion_room(self.settings.max_model_len)
            except ValueError as error:
                logger.warning("%s; its programs count as empty", error)
                requests[problem.task_id] = None
            else:
                requests[problem.task_id] = request
        if not any(requests.values()):
            raise UserError(
                f"no prompt leaves room for a program within {self.settings.max_model_len} tokens; raise --max-length"
            )
        self._prompt_lengths.extend(len(request.prompt_ids) for request in requests.values() if request is not None)
        return requests

    @property
    def queue_limit(self) -> int:
        """The sequences, queued or running, with which no engine is ever idle."""
        return _QUEUED_SEQUENCES_PER_SLOT * self.generator.max_num_seqs * self.engines.num_engines

    def left(
        self,
        prompter: Prompter,
        problems: Sequence[Problem],
        requests: Mapping[str, SamplingRequest | None],
        stored: StoredRows,
    ) -> Programs:
        """Raises UserError, before the first program, if the model cannot be sampled."""
        parts = self.parts(problems, stored)
        if not parts:
            return ()
        sampler = Sampler(self, prompter)
        return finished([partial(_sampled, sampler, part, requests[part.problem.task_id]) for part in parts], [sampler])

    def _in_turns(
        self,
        prompter: Prompter,
        problems: Sequence[Problem],
        requests: Mapping[str, SamplingRequest | None],
        stored: StoredRows,
        examiner: Examiner,
    ) -> Generator[tuple[ProgramRow, Problem] | None]:
        """Raises UserError, before the first program, if the model cannot be sampled."""
        if parts := self.parts(problems, stored):
            sampler = Sampler(self, prompter)
            talk = partial(self._dialogue, sampler, examiner)
            yield from finished([partial(talk, part, requests[part.problem.task_id]) for part in parts], [sampler])

    async def _dialogue(
        self, sampler: Sampler, examiner: Examiner, part: Part, first: SamplingRequest | None
    ) -> Programs:
        """The row of the dialogue that `part`, a single sample, begins with the request `first`, if it has room."""
        dialogue = Dialogue(part.problem, part.start, self.turns)
        request = None if first is None else _request_of(part, first)
        while request is not None:
            (one,) = await sampler.sample(request)
            answer = Answer(one.text, one.program, len(request.prompt_ids), len(one.token_ids))
            await asyncio.wrap_future(examiner.submit(dialogue, answer))
            if dialogue.is_over:
                break
            assert dialogue.verdict is not None
            earlier = EarlierTurn(one, dialogue.turns[-1].feedback or "", dialogue.verdict)
            ids = sampler.prompter.encode(part.problem.task_id, earlier)
            asked, turn = request.rollout, len(dialogue.turns)
            rollout = replace(asked, rollout_id=f"{part.name}/{turn}", seed=seed_of(asked.seed, turn))
            request = SamplingRequest(rollout, ids) if len(ids) < self.settings.max_model_len else None
        else:
            dialogue.end()
        return [dialogue.row()]


async def _sampled(sampler: Sampler, part: Part, whole: SamplingRequest | None) -> Programs:
    """The programs of a part; empty ones if its prompt leaves no room."""
    if whole is None:
        return part.programs([("", "")] * part.num_samples)
    completions = await sampler.sample(_request_of(part, whole))
    return part.programs((completion.program, completion.text) for completion in completions)


def _request_of(part: Part, whole: SamplingRequest) -> SamplingRequest:
    """A part of a request. Engines give a request's samples consecutive seeds, so its samples stay the same."""
    asked = whole.rollout
    rollout = replace(
        asked,
        rollout_id=part.name,
        num_samples=min(asked.num_samples, part.num_samples),  # none if it is only decoded greedily
        seed=(asked.seed or 0) + part.start,
    )
    return SamplingRequest(rollout, whole.prompt_ids)


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
