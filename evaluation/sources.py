"""Where the programs of an evaluation come from: a file, or the model that `--model` names."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from errors import UserError
from problems import LoadedProblems, Problem
from problems.fingerprints import some
from problems.index import ProblemIndex
from sandbox.command import positive
from sandbox.grading import ProgramRow, read_programs
from settings import ChatTemplate, Dtype, Engine

logger = logging.getLogger(__name__)

Programs = Iterable[tuple[ProgramRow, Problem] | None]
"""Programs as they come; None says that the next one is not ready yet, and that there is time to store others."""


class ProgramSource(Protocol):
    """Yields the same programs every time; those of a problem come together."""

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes this source from others; an evaluation only continues with an equal one."""

    def resume_point(self, num_stored: int) -> int:
        """How many of the first `num_stored` programs can be kept."""

    def programs(self, problems: tuple[Problem, ...], done: Counter[str]) -> Programs:
        """The programs that are left if there are `done` programs of each problem, by task id."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """What every model takes, here or behind a server. The samples of a problem are drawn together."""

    num_samples: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    system_prompt: str | None = None
    prompt_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    stop: list[str] | None = None

    def resume_point(self, num_stored: int) -> int:
        """Only whole problems are kept."""
        return num_stored // self.num_samples * self.num_samples


def numbered(problem: Problem, answers: Iterable[tuple[str, str]]) -> Programs:
    """The programs sampled for a problem, each with the text that it was taken from, and with their ids."""
    for number, (program, text) in enumerate(answers):
        completion_id = f"{problem.task_id}/{number}"
        row = ProgramRow(task_id=problem.task_id, completion_id=completion_id, code=program, completion=text)
        yield row, problem


@dataclass(frozen=True, slots=True)
class SamplesFile:
    """The programs of a JSON lines file.

    Programs for the problems with the ids `rejected` are left out. Any other unknown id is an error.
    """

    path: Path
    rejected: frozenset[str] = frozenset()

    @property
    def identity(self) -> dict[str, Any]:
        if not self.path.is_file():
            raise UserError(f"--samples {self.path}: no such file")
        with self.path.open("rb") as file:
            return {"samples": str(self.path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def checked(self, loaded: LoadedProblems, k: int) -> tuple[SamplesFile, int]:
        """Read the whole file before any program is graded, and log what a reader of the results must know.

        Returns the source to use with these problems, and how many of its programs are left out.

        Raises:
            UserError: a row is unusable, no program is left, or no problem has `k` programs.
        """
        usable = {problem.task_id for problem in loaded.problems}
        rejected = {row.task_id for row in loaded.rejected if row.task_id is not None} - usable
        source = replace(self, rejected=frozenset(rejected))
        try:
            counts = Counter(problem.task_id for _, problem in read_programs(self.path, source._index(loaded.problems)))
        except UserError as error:
            raise UserError(f"{error}; every row of --samples must be a program for one of the --problems") from error
        num_left_out = sum(counts.pop(task_id, 0) for task_id in rejected)
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
        return source, num_left_out

    def resume_point(self, num_stored: int) -> int:
        return num_stored

    def programs(self, problems: tuple[Problem, ...], done: Counter[str]) -> Programs:
        rows = read_programs(self.path, self._index(problems))
        return islice((row for row in rows if row[1].task_id not in self.rejected), done.total(), None)

    def _index(self, problems: tuple[Problem, ...]) -> ProblemIndex:
        """The usable problems, and empty ones, never graded, in place of the rejected ones."""
        empty = (Problem(task_id, "rejected", "", ()) for task_id in sorted(self.rejected))
        return ProblemIndex((*empty, *problems))


def add_sampling_options(group: argparse._ArgumentGroup, *, num_samples: int, temperature: float) -> None:
    """Add the options that `model_source` reads, with a command's own defaults."""
    add = group.add_argument
    add("--num-samples", type=positive, default=num_samples, help="programs per problem (default: %(default)s)")
    add("--temperature", type=float, default=temperature, help="0 decodes greedily (default: %(default)s)")
    add("--top-p", type=float, default=0.95, help="probability mass of nucleus sampling (default: %(default)s)")
    add("--max-tokens", type=positive, default=512, help="longest completion (default: %(default)s)")
    add("--max-length", type=positive, help="longest prompt with its completion (default: the model's own limit)")
    add("--stop", nargs="+", metavar="TEXT", help="texts that end a completion, besides the model's own end tokens")
    add("--dtype", choices=[one.value for one in Dtype], help="type of the weights (default: auto)")
    add("--engine", choices=[one.value for one in Engine], help="inference backend (default: vllm)")
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


def model_source(options: argparse.Namespace) -> ProgramSource:
    """The model `options.model` with the options of `add_sampling_options`: a folder, a Hub id, or a server's address.

    Raises:
        UserError: the options contradict each other.
    """
    sampling = ("num_samples", "temperature", "top_p", "max_tokens", "seed")
    prompts = ("system_prompt", "prompt_template", "chat_template_kwargs")
    asked = {name: getattr(options, name) for name in (*sampling, "stop", *prompts)}
    # Imported late: a model brings torch and the engines, a server an HTTP client, and grading a file needs neither.
    if options.model.startswith(("http://", "https://")):
        for name in ("dtype", "engine", "max_length"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name.replace('_', '-')}: {options.model} decides this itself; remove the option")
        from evaluation.endpoint import ServedModel

        address, _, model = options.model.partition("#")
        return ServedModel(address=address, model=model or None, chat=options.chat_template == ChatTemplate.ON, **asked)
    from evaluation.model import SampledModel

    return SampledModel(
        name=options.model,
        max_length=options.max_length,
        dtype=_dtype(options.dtype),
        engine=Engine(options.engine or Engine.VLLM),
        chat_template=ChatTemplate(options.chat_template),
        **asked,
    )


def _dtype(asked: str | None) -> Dtype:
    """The type that this machine computes in."""
    if asked is not None and asked != Dtype.AUTO:
        return Dtype(asked)
    import torch  # late, as above

    return Dtype.BFLOAT16 if torch.cuda.is_available() else Dtype.of_this_cpu()
