"""Critic sampling (Le et al. 2022, CodeRL): a problem is sampled, judged on its examples, and sampled again.

`evaluation/rounds.py` has both rounds of a problem. They see its examples alone: the tests that grade the programs run
after both, and decide nothing in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from rltf.actors.engine import SamplingRequest
from rltf.actors.prompting import Prompter
from rltf.errors import UserError
from rltf.evaluation.candidates import CandidateCounts
from rltf.evaluation.model import SampledModel
from rltf.evaluation.rounds import Rounds, Task
from rltf.evaluation.sampler import Sampler
from rltf.evaluation.sources import PreparedPrograms, StoredRows
from rltf.evaluation.turns import Examiner, check_examples
from rltf.learner.critic import ErrorCritic
from rltf.learner.critic_folder import check_critic, critic_fingerprint
from rltf.problems import LoadedProblems, Problem
from rltf.sandbox.grading import ProgramRow


@dataclass(frozen=True, kw_only=True)
class CriticSampling:
    """Programs of `model`, refined with the `critic` in a folder, repaired by the model `repair`, or both.

    Of a problem whose programs all fail its examples, the `num_repaired` best are repaired; without a critic, the
    first. With `at_budget`, plain sampling gets the tokens of the second round as well.
    """

    model: SampledModel
    critic: Path | None
    repair: SampledModel | None
    num_repaired: int = 1
    at_budget: bool = False

    def __post_init__(self) -> None:
        if self.model.temperature == 0:
            raise UserError(f"{self._option}: there is only one program at --temperature 0; give a higher one")

    @property
    def _option(self) -> str:
        return " and ".join(["--critic"] * (self.critic is not None) + ["--repair"] * (self.repair is not None))

    @property
    def identity(self) -> dict[str, Any]:
        second: dict[str, Any] = {"at_budget": self.at_budget}
        if self.critic is not None:
            check_critic(self.critic, self.model.folder, self.model.tokenizer, "--critic")
            second["critic"] = critic_fingerprint(self.critic)
        if self.repair is not None:
            theirs = self.repair.identity
            second |= {"repair": theirs["model"], "repair_files": theirs["model_files"]}
            second |= {"repair_max_length": theirs["max_length"], "num_repaired": self.num_repaired}
        return self.model.identity | {"critic_sampling": second}

    @cached_property
    def _loaded_critic(self) -> ErrorCritic | None:
        """Loaded once for all problems. Raises UserError if it does not read as many tokens as the model writes."""
        if self.critic is None:
            return None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        critic = ErrorCritic.frozen(self.critic, compute_dtype=self.model.dtype, device=device)
        critic.check_length(self.model.settings.max_model_len, "--critic", "--max-length")
        return critic

    def prepare(self, loaded: LoadedProblems, k: int) -> PreparedPrograms:
        """Raises UserError if no problem has examples, if the critic's context is too short, and as the model."""
        problems = loaded.problems
        check_examples(loaded, self._option, "plain sampling alone")
        prompter = self.model.prompter(problems)
        requests = self.model.requests(prompter, problems)
        repair_prompter = None if self.repair is None else self.repair.prompter(problems)
        critic = self._loaded_critic
        return PreparedPrograms(
            len(problems) * self.model.num_samples,
            partial(self.model.left, prompter, problems, requests),
            examined=partial(self._examined, problems, prompter, requests, critic, repair_prompter),
            history=partial(
                CandidateCounts,
                problems,
                has_critic=critic is not None,
                has_repair=self.repair is not None,
                at_budget=self.at_budget,
            ),
        )

    def close(self) -> None:
        self.model.close()
        if self.repair is not None:
            self.repair.close()

    def _examined(
        self,
        problems: Sequence[Problem],
        prompter: Prompter,
        requests: Mapping[str, SamplingRequest | None],
        critic: ErrorCritic | None,
        repair_prompter: Prompter | None,
        stored: StoredRows,
        examiner: Examiner,
    ) -> Generator[tuple[ProgramRow, Problem] | None]:
        """Raises UserError, before the first program, if a model cannot be sampled.

        A problem whose rows are stored in part goes through both rounds again, and gives only the rows that are left.
        """
        counts = Counter(str(row["task_id"]) for row in stored)
        tasks = [
            Task(problem, requests[problem.task_id], counts[problem.task_id])
            for problem in problems
            if counts[problem.task_id] < self.model.num_samples
        ]
        if not tasks:
            return
        repair = Sampler(self.repair, repair_prompter) if self.repair and repair_prompter else None
        rounds = Rounds(
            policy=Sampler(self.model, prompter),
            examiner=examiner,
            critic=critic,
            repair=repair,
            num_repaired=self.num_repaired,
            at_budget=self.at_budget,
        )
        yield from rounds.run(tasks)
