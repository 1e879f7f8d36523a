"""Critic sampling (Le et al. 2022, CodeRL): the programs of both rounds, and what each way of using them is worth.

| population | programs of a problem |
|---|---|
| `plain` | those of the first round |
| `filtered` | those of them that pass the examples |
| `refine` | those of the second round if some passed the examples, else `plain` |
| `repair` | those of the second round if none passed the examples, else `plain` |
| `both` | those of the second round |
| `union` | those of both rounds |
| `plain_at_budget`, `filtered_at_budget` | `plain` and `filtered` with as many more as the second round's tokens buy |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from rltf.evaluation.history import HistoryRow
from rltf.evaluation.passes import ALL, Tally, bootstrap_interval
from rltf.evaluation.turns import count_text
from rltf.learner.error_classes import ERROR_CLASSES, error_class
from rltf.problems import Problem
from rltf.sandbox.verdict import Outcome


class Origin(StrEnum):
    """Where a program comes from."""

    PLAIN = "plain"
    """The first round."""
    REFINE = "refine"
    """The second round: a new end of a program that passes the examples."""
    REPAIR = "repair"
    """The second round: a correction of a program that fails them."""


class Candidate(BaseModel):
    """A program of plain sampling.

    `examples` is the outcome on the examples; None if the problem has none. `predicted` is the class that the critic
    expects, and `score` the probability that it gives to `passed`; None without a critic. `outcome` is that of all
    tests; None before they have run.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    code: str = ""
    completion: str = ""
    examples: Outcome | None = None
    predicted: str | None = None
    score: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcome: Outcome | None = None


class CandidateRow(HistoryRow):
    """A program of critic sampling, and the plain programs that stand beside it.

    The program was made from the plain one with the number `made_from`, and begins with `prefix_tokens` tokens of it.
    Its tokens are those that were read and sampled to make it; none if it is a plain one itself. Of the `plain`
    programs, the first is from the first round; the others were sampled for the budget of the second.
    """

    origin: Origin = Origin.PLAIN
    made_from: int | None = None
    prefix_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    plain: tuple[Candidate, ...]

    def graded(self, outcome: Outcome, grade: Callable[[str], Outcome]) -> dict[str, Any]:
        first, *others = self.plain
        outcomes = [outcome if self.origin is Origin.PLAIN else grade(first.code), *(grade(one.code) for one in others)]
        plain = [one.model_copy(update={"outcome": found}) for one, found in zip(self.plain, outcomes, strict=True)]
        whole = self.model_copy(update={"plain": tuple(plain)})
        return whole.model_dump(mode="json", exclude={"task_id", "completion_id", "code", "completion"})


@dataclass(slots=True)
class _Population:
    """Scored programs, and the tokens of the models that wrote them and of the critic that read them."""

    tally: Tally
    prompt_tokens: int = 0
    completion_tokens: int = 0
    critic_tokens: int = 0

    def spend(self, one: Candidate | CandidateRow) -> None:
        self.prompt_tokens += one.prompt_tokens
        self.completion_tokens += one.completion_tokens


class CandidateCounts:
    """pass@k of each population, with its tokens, and how often the critic is right about plain programs."""

    key = "critic_sampling"
    row = CandidateRow

    def __init__(self, problems: Sequence[Problem], *, has_critic: bool, has_repair: bool, at_budget: bool) -> None:
        second = ["refine"] * has_critic + ["repair"] * has_repair + ["both"] * (has_critic and has_repair)
        budget = ["plain_at_budget", "filtered_at_budget"] * at_budget
        names = ["plain", "filtered", *second, "union", *budget]
        self._populations = {name: _Population(Tally(problems)) for name in names}
        self._tally = Tally(problems)
        self._origins: dict[str, Origin] = {}
        self._right: Counter[str] = Counter()
        self._judged: Counter[str] = Counter()

    def add(self, task_id: str, row: Mapping[str, Any]) -> None:
        """Count one stored row."""
        found, outcome = CandidateRow.model_validate(row), Outcome(row["outcome"])
        first = found.plain[0]
        first_outcome = _outcome(first)
        self._tally.add(task_id, first_outcome)
        self._origins[task_id] = found.origin
        self._judge_critic(first, first_outcome)
        for name, population in self._populations.items():
            is_filtered = name.startswith("filtered")
            plain = found.plain if name.endswith("_at_budget") else (first,)
            is_made = name in (found.origin, "both", "union") and found.origin is not Origin.PLAIN
            if not is_made or name == "union":
                for one in plain:
                    if not is_filtered or _passes_examples(one):
                        population.tally.add(task_id, _outcome(one))
            for one in plain:
                population.spend(one)
            if is_made:
                population.tally.add(task_id, outcome)
                population.spend(found)
                population.critic_tokens += _read_by_critic(first, found.origin)

    def _judge_critic(self, plain: Candidate, outcome: Outcome) -> None:
        if plain.predicted is not None and outcome is not Outcome.INFRASTRUCTURE_ERROR:
            true = ERROR_CLASSES[error_class(outcome)]
            self._judged[true] += 1
            self._right[true] += plain.predicted == true

    def results(self, ks: Sequence[int]) -> dict[str, Any]:
        """What `results.json` holds."""
        counts = Counter(self._origins.values())
        return {
            **{name: self._results_of(name, ks) for name in self._populations},
            "problems": {origin.value: counts[origin] for origin in Origin},
            **({"critic": self._accuracy()} if self._judged else {}),
        }

    def _results_of(self, name: str, ks: Sequence[int]) -> dict[str, Any]:
        population = self._populations[name]
        tally = population.tally
        values: dict[str, dict[str, float]] = {}
        intervals: dict[str, dict[str, list[float]]] = {}
        for k in sorted(set(ks)):
            passes, bounds = values.setdefault(f"pass@{k}", {}), intervals.setdefault(f"pass@{k}", {})
            for group, task_ids in self._tally.groups().items():
                rates = [
                    _rate(tally, task_id, k)
                    for task_id in task_ids
                    if name.startswith("filtered") or tally.num_samples[task_id] >= k
                ]
                if rates:
                    passes[group] = float(np.mean(rates))
                    bounds[group] = list(bootstrap_interval(np.array(rates)))
        return {
            **values,
            "intervals": intervals,
            "num_samples": tally.num_samples.total(),
            "prompt_tokens": population.prompt_tokens,
            "completion_tokens": population.completion_tokens,
            "critic_tokens": population.critic_tokens,
        }

    def _accuracy(self) -> dict[str, Any]:
        """As `rltf critic` says it of held-out programs."""
        return {
            "accuracy": self._right.total() / self._judged.total(),
            "num_programs": self._judged.total(),
            "by_class": {
                name: {
                    "accuracy": self._right[name] / self._judged[name] if self._judged[name] else None,
                    "num_programs": self._judged[name],
                }
                for name in ERROR_CLASSES
            },
        }


def _outcome(one: Candidate) -> Outcome:
    return one.outcome or Outcome.INFRASTRUCTURE_ERROR


def _passes_examples(one: Candidate) -> bool:
    """Whether a filter keeps the program. Without examples, it keeps all."""
    return one.examples in (None, Outcome.PASSED)


def _read_by_critic(first: Candidate, origin: Origin) -> int:
    """The tokens of a plain program that the critic had to read to choose what to refine or to repair."""
    if first.score is None or (origin is Origin.REFINE) != (first.examples is Outcome.PASSED):
        return 0
    return first.prompt_tokens + first.completion_tokens


def _rate(tally: Tally, task_id: str, k: int) -> float:
    """pass@k of a problem. If fewer than k programs are left, all of them are drawn; none never passes."""
    num_samples = tally.num_samples[task_id]
    return tally.pass_at_k(task_id, min(k, num_samples)) if num_samples else 0.0


def candidate_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the printed table, one for each population and one for the critic."""
    populations = {name: one for name, one in found.items() if name not in ("problems", "critic")}
    width = max(map(len, populations), default=0)
    for name, one in populations.items():
        shown = []
        for k in (key for key in one if key.startswith("pass@") and ALL in one[key]):
            low, high = one["intervals"][k][ALL]
            shown.append(f"{k} {one[k][ALL]:7.2%} [{low:.2%}, {high:.2%}]")
        tokens = f"{count_text(one['prompt_tokens'])} + {count_text(one['completion_tokens'])} tokens"
        yield f"{name:<{width}}: {'   '.join(shown)}   {one['num_samples']:,} programs, {tokens}"
    if "problems" in found:
        num = found["problems"]
        yield f"second round: {num['refine']} problems refined, {num['repair']} repaired, {num['plain']} had none"
    if "critic" in found:
        classes = [
            f"{name} {row['accuracy']:.2%} of {row['num_programs']:,}"
            for name, row in found["critic"]["by_class"].items()
            if row["num_programs"]
        ]
        yield f"critic: right about {found['critic']['accuracy']:.2%} of the plain programs ({', '.join(classes)})"
