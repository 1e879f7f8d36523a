"""Where the programs of an evaluation come from: a file, or the model that `--model` names."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from rltf.errors import UserError
from rltf.evaluation.candidates import CandidateCounts
from rltf.evaluation.places import EnginePlace, here
from rltf.evaluation.turns import Examiner, TurnCounts
from rltf.problems import LoadedProblems, Problem
from rltf.problems.fingerprints import some
from rltf.problems.index import ProblemIndex
from rltf.sandbox.command import positive
from rltf.sandbox.grading import ProgramRow, read_programs
from rltf.settings import ChatTemplate, Dtype, Engine

logger = logging.getLogger(__name__)

Programs = Iterable[tuple[ProgramRow, Problem] | None]
"""Programs as they come; None says that the next one is not ready yet, and that there is time to store others."""
StoredRows = Iterable[Mapping[str, Any]]
"""The rows of the graded programs that an evaluation has stored, in order."""
HistoryCounts = TurnCounts | CandidateCounts
"""What an evaluation finds about programs and the ones before them; `results.json` has it under `key`."""

CONCURRENCY = 16
"""The requests to a server that are under way at a time, by default."""
MAX_PART = 64
"""The most samples of a problem that are drawn together. An interruption loses no more of them."""


@dataclass(frozen=True, slots=True)
class PreparedPrograms:
    """The programs for a set of problems, none of which is made yet.

    `left(stored)` makes those that are left if `stored` are the rows of the others. `num_programs` counts all of them.
    `num_left_out` further programs are for unusable problems. `examined(stored, examiner)` takes the place of `left` if
    programs are made from others: the examiner runs these on the examples meanwhile. Then `history` makes what counts
    the others.
    """

    num_programs: int
    left: Callable[[StoredRows], Programs]
    num_left_out: int = 0
    examined: Callable[[StoredRows, Examiner], Generator[tuple[ProgramRow, Problem] | None]] | None = None
    history: Callable[[], HistoryCounts] | None = None


class ProgramSource(Protocol):
    """Makes the same programs every time.

    All sets of problems are prepared before the first program is made. So what cannot work is refused in time, and a
    model can be loaded once for all of them.
    """

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes this source from others; an evaluation only continues with an equal one."""

    def prepare(self, loaded: LoadedProblems, k: int) -> PreparedPrograms:
        """Check everything that can be checked before a program is made, and log what a reader must know.

        Raises UserError if there are no programs for these problems, or not `k` of any of them.
        """

    def close(self) -> None:
        """Free whatever the programs were made with."""


@dataclass(frozen=True, slots=True)
class Part:
    """Samples of a problem that are drawn together: `num_samples`, of which the first has the number `start`.

    `place` is that of the problem, from 0. `num_stored` of the samples are stored already, the first ones.
    """

    problem: Problem
    place: int
    start: int
    num_samples: int
    num_stored: int

    @property
    def name(self) -> str:
        """Identifies the part among those of all problems."""
        return f"{self.problem.task_id}/{self.start}"

    def programs(self, answers: Iterable[tuple[str, str]]) -> Programs:
        """The programs that are not stored yet, from each sample's program and the text that it was taken from."""
        for number, (program, text) in islice(enumerate(answers, self.start), self.num_stored, None):
            task_id = self.problem.task_id
            row = ProgramRow(task_id=task_id, completion_id=f"{task_id}/{number}", code=program, completion=text)
            yield row, self.problem


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """What every model takes, here or behind a server."""

    num_samples: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    system_prompt: str | None = None
    prompt_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    stop: list[str] | None = None
    turns: int = 1
    """Most answers of a dialogue. With more than one, a model repairs its programs (`evaluation/turns.py`)."""

    @property
    def sampling(self) -> dict[str, Any]:
        """The options as part of an evaluation's identity. Folders of single answers do not name the turns."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if (name, value) != ("turns", 1)}

    def parts(self, problems: Sequence[Problem], stored: StoredRows) -> list[Part]:
        """What is left to sample if `stored` are the rows of what is finished.

        A part that is stored in part is drawn again as a whole: a server need not have a seed of its own for each
        sample. The rows of a part are stored in order, so their number says which ones.
        """
        size = MAX_PART if self.turns == 1 else 1  # dialogues are stored one by one
        counts = Counter(_part_of(row, size) for row in stored)
        parts = [
            Part(problem, place, start, min(size, self.num_samples - start), counts[problem.task_id, start])
            for place, problem in enumerate(problems)
            for start in range(0, self.num_samples, size)
        ]
        return [part for part in parts if part.num_stored < part.num_samples]


def _part_of(row: Mapping[str, Any], size: int) -> tuple[str, int]:
    """The task id and the first number of the part that a stored program belongs to."""
    task_id, _, number = str(row["completion_id"]).rpartition("/")
    return task_id, int(number) // size * size


@dataclass(frozen=True, slots=True)
class SamplesFile:
    """The programs of a JSON lines file. Those for unusable problems are left out; any other unknown id is an error."""

    path: Path

    @property
    def identity(self) -> dict[str, Any]:
        if not self.path.is_file():
            raise UserError(f"--samples {self.path}: no such file")
        with self.path.open("rb") as file:
            return {"samples": str(self.path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def prepare(self, loaded: LoadedProblems, k: int) -> PreparedPrograms:
        """Read the whole file. Raises as every source, and if a row is unusable."""
        usable = {problem.task_id for problem in loaded.problems}
        rejected = {row.task_id for row in loaded.rejected if row.task_id is not None} - usable
        # Empty problems, which are never graded, take the places of the rejected ones.
        empty = (Problem(task_id, "rejected", "", ()) for task_id in sorted(rejected))
        index = ProblemIndex((*empty, *loaded.problems))
        try:
            counts = Counter(problem.task_id for _, problem in read_programs(self.path, index))
        except UserError as error:
            raise UserError(f"{error}; every row of --samples must be a program for one of the --problems") from error
        num_left_out = sum(counts.pop(task_id, 0) for task_id in rejected)
        self._check(counts, loaded, k, num_left_out)

        def left(stored: StoredRows) -> Programs:
            rows = (row for row in read_programs(self.path, index) if row[1].task_id not in rejected)
            return islice(rows, sum(1 for _ in stored), None)

        return PreparedPrograms(counts.total(), left, num_left_out)

    def close(self) -> None:
        """Nothing stays open."""

    def _check(self, counts: Counter[str], loaded: LoadedProblems, k: int, num_left_out: int) -> None:
        if not counts:
            raise UserError(
                f"{self.path}: all {num_left_out} programs are for unusable problems; fix the rows of those problems, "
                "or give programs for other problems"
            )
        fewest, most = min(counts.values()), max(counts.values())
        if most < k:
            raise UserError(
                f"pass@{k} needs {k} graded programs of a problem; {self.path} has at most {most}; give a smaller --k"
            )
        if without := [problem.task_id for problem in loaded.problems if problem.task_id not in counts]:
            logger.warning(
                "%s has programs for %d of %d problems; pass@k covers only these, not %s",
                *(self.path, len(counts), len(loaded.problems), some(without)),
            )
        if fewest != most:
            logger.warning("%s has between %d and %d programs per problem", self.path, fewest, most)
        if num_left_out:
            logger.warning("%s: left out %d programs for unusable problems", self.path, num_left_out)


def add_sampling_options(group: argparse._ArgumentGroup, *, num_samples: int, temperature: float) -> None:
    """Add the options that `model_source` reads, with a command's own defaults."""
    add = group.add_argument
    add("--num-samples", type=positive, default=num_samples, help="programs per problem (default: %(default)s)")
    add("--temperature", type=float, default=temperature, help="0 decodes greedily (default: %(default)s)")
    add("--top-p", type=float, default=1.0, help="probability mass of nucleus sampling (default: %(default)s)")
    add("--max-tokens", type=positive, default=512, help="longest completion (default: %(default)s)")
    add("--max-length", type=positive, help="longest prompt with its completion (default: the model's own limit)")
    add("--stop", nargs="+", metavar="TEXT", help="texts that end a completion, besides the model's own end tokens")
    add("--dtype", choices=[one.value for one in Dtype], help="type of the weights (default: auto)")
    add("--engine", choices=[one.value for one in Engine], help="inference backend (default: vllm)")
    add("--concurrency", type=positive, metavar="N", help=f"requests to a server at a time (default: {CONCURRENCY})")
    add_prompt_options(group)
    add("--seed", type=int, default=0, help="seed of the sampling (default: %(default)s)")


def add_prompt_options(group: argparse._ArgumentGroup) -> None:
    """Add the options for the form of the prompts, as the settings `model.*` of a job."""
    add = group.add_argument
    templates = [one.value for one in ChatTemplate]
    shown = "send prompts through the chat template (without a value: on; default: auto, for a server: off)"
    add("--chat-template", nargs="?", choices=templates, const="on", default="auto", help=shown)
    add("--chat-template-kwargs", type=json_object, metavar="JSON", help="such as '{\"enable_thinking\": false}'")
    add("--system-prompt", metavar="TEXT", help="system message of a chat")
    add("--prompt-template", metavar="TEXT", help="text of a prompt; see model.prompt_template in the settings")


def json_object(text: str) -> dict[str, Any]:
    """The object in a JSON text, as an option's type."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"not a JSON object: {text}")
    return value


def is_served(model: str) -> bool:
    """Whether `--model` is a server's address."""
    return model.startswith(("http://", "https://"))


def model_source(options: argparse.Namespace, turns: int = 1, engines: EnginePlace | None = None) -> ProgramSource:
    """The model `options.model` with the options of `add_sampling_options`: a folder, a Hub id, or a server's address.

    With more than one of `turns`, it repairs its programs. A folder is sampled by `engines`, by default here. Raises
    UserError if the options contradict each other.
    """
    sampling = ("num_samples", "temperature", "top_p", "max_tokens", "seed")
    prompts = ("system_prompt", "prompt_template", "chat_template_kwargs")
    asked = {name: getattr(options, name) for name in (*sampling, "stop", *prompts)} | {"turns": turns}
    # Imported late: a model brings torch and the engines, a server an HTTP client, and grading a file needs neither.
    if is_served(options.model):
        for name in ("dtype", "engine", "max_length"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name.replace('_', '-')}: {options.model} decides this itself; remove the option")
        from rltf.evaluation.endpoint import ServedModel

        address, _, model = options.model.partition("#")
        return ServedModel(
            address=address,
            model=model or None,
            concurrency=options.concurrency or CONCURRENCY,
            chat=options.chat_template == ChatTemplate.ON,
            **asked,
        )
    if options.concurrency is not None:
        raise UserError("--concurrency is for a model behind a server (http://HOST/v1); remove the option")
    from rltf.evaluation.model import SampledModel

    engines = engines or here()
    return SampledModel(
        name=options.model,
        max_length=options.max_length,
        dtype=_dtype(options.dtype, on_gpu=engines.on_gpu),
        engine=Engine(options.engine or Engine.VLLM),
        chat_template=ChatTemplate(options.chat_template),
        engines=engines,
        **asked,
    )


def machine_dtype() -> Dtype:
    """The type that this machine computes in."""
    return _dtype(None, on_gpu=here().on_gpu)


def _dtype(asked: str | None, *, on_gpu: bool) -> Dtype:
    """The type that a model computes in, unless another one is `asked` for."""
    if asked is not None and asked != Dtype.AUTO:
        return Dtype(asked)
    return Dtype.BFLOAT16 if on_gpu else Dtype.of_this_cpu()
