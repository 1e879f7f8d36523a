"""Contamination: training problems that a benchmark contains as well.

Statements are compared by their 13-grams of words, as for GPT-3 (Brown et al. 2020). The overlap is the share of the
benchmark statement's words that are in a common 13-gram, as for Llama 2 (Touvron et al. 2023). A statement shorter than
13 words overlaps only with the same statement. 13-grams in more than 10 problems of the benchmarks are boilerplate
("the first line of the input contains ...") and do not count. Reference programs are compared as syntax trees, since
short statements of the same problem often differ.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from rltf.problems.python_source import QUOTED, SCOPES, parse
from rltf.problems.types import Problem

NUM_WORDS = 13
"""Length of an n-gram."""
MAX_PROBLEMS = 10
"""An n-gram in more problems of the benchmarks is boilerplate and does not count."""

_LATEX_COMMAND = re.compile(r"\\[a-z]+")
_WORD = re.compile(r"[^\W_]+")
_NOT_CODE = re.compile(rf"(?:\b[rbuf]{{1,2}})?(?:{QUOTED})", re.DOTALL | re.IGNORECASE)
_NAME = re.compile(r"\b[^\W\d]\w*")

Gram = tuple[str, ...]


class Match(StrEnum):
    """What a training problem and a problem of a benchmark have in common; the first that applies."""

    STATEMENT = "statement"
    """The whole statement."""
    NGRAMS = "ngrams"
    """13-grams that cover enough of the benchmark's statement."""
    REFERENCE = "reference"
    """A reference program."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training problem and the problem of a benchmark that it overlaps with.

    `benchmark` is the name of the benchmark, `overlap` the share of the words of its statement, in [0, 1], and `shared`
    the longest run of common words, or the common program without comments.
    """

    train: Problem
    benchmark: str
    problem: Problem
    match: Match
    overlap: float
    shared: str

    def __str__(self) -> str:
        like = f"{self.train.benchmark} {self.train.task_id} is like {self.problem.task_id} of {self.benchmark}"
        same = {Match.STATEMENT: "the same statement", Match.REFERENCE: "the same reference program"}
        return f"{like} ({same.get(self.match, f'{self.overlap:.0%} of the statement')})"

    def row(self) -> dict[str, Any]:
        """The row of a file of overlaps."""
        return {
            "task_id": self.train.task_id,
            "benchmark": self.benchmark,
            "benchmark_task_id": self.problem.task_id,
            "match": self.match.value,
            "overlap": round(self.overlap, 4),
            "shared": self.shared,
        }


def find_overlaps(
    train: Sequence[Problem], benchmarks: Mapping[str, Iterable[Problem]], min_overlap: float
) -> tuple[Overlap, ...]:
    """The pairs of a training problem and a benchmark's problem that overlap, in the order of `train`.

    They have the same statement, an overlap of at least `min_overlap`, or a reference program in common. With a
    `min_overlap` of 0, a single 13-gram is enough.
    """
    index = _Index(benchmarks)
    programs = _common_programs(train, [target.problem for target in index.targets])
    found: list[Overlap] = []
    for problem, solved in zip(train, programs, strict=True):
        words = words_of(problem.statement)
        grams = _grams(words)
        candidates = sorted({*index.candidates(words, grams, min_overlap), *solved})
        known = frozenset(grams) if candidates else frozenset()
        for number in candidates:
            target = index.targets[number]
            overlap, shared = index.overlap(target, known)
            if words == target.words:
                match, overlap, shared = Match.STATEMENT, 1.0, " ".join(words)
            elif shared and overlap >= min_overlap:
                match = Match.NGRAMS
            elif number in solved:
                match, shared = Match.REFERENCE, solved[number]
            else:
                continue
            found.append(Overlap(problem, target.benchmark, target.problem, match, overlap, shared))
    return tuple(found)


def words_of(statement: str) -> list[str]:
    """The words of a statement in lower case, without punctuation and LaTeX commands."""
    return _WORD.findall(_LATEX_COMMAND.sub(" ", statement.lower()))


def normalized_program(source: str) -> str | None:
    """A program without comments, docstrings and layout; None if it is not Python."""
    tree = parse(source)
    if not isinstance(tree, ast.Module):
        return None
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, *SCOPES)) and ast.get_docstring(node, clean=False) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]
    try:
        return ast.unparse(tree)
    except RecursionError:
        return None


@dataclass(slots=True)
class _Target:
    """A problem of a benchmark. `num_telling` words of its statement are in n-grams that tell problems apart."""

    benchmark: str
    problem: Problem
    words: list[str]
    num_telling: int = 0


class _Index:
    """The problems of benchmarks, by their statements and by the n-grams that tell problems apart."""

    def __init__(self, benchmarks: Mapping[str, Iterable[Problem]]) -> None:
        self.targets = [
            _Target(name, problem, words_of(problem.statement))
            for name, problems in benchmarks.items()
            for problem in problems
        ]
        self._by_statement: defaultdict[Gram, list[int]] = defaultdict(list)
        owners: defaultdict[int, list[int]] = defaultdict(list)
        for number, target in enumerate(self.targets):
            self._by_statement[tuple(target.words)].append(number)
            for key in set(map(hash, _grams(target.words))):
                owners[key].append(number)
        self._owners = {key: numbers for key, numbers in owners.items() if len(numbers) <= MAX_PROBLEMS}
        for target in self.targets:
            target.num_telling = sum(self._covered(target.words, None))

    def candidates(self, words: Sequence[str], grams: Sequence[Gram], min_overlap: float) -> Iterator[int]:
        """The targets that a statement may overlap with, by their numbers."""
        yield from self._by_statement.get(tuple(words), ())
        keys = self._owners.keys() & set(map(hash, grams))
        for number, count in Counter(chain.from_iterable(self._owners[key] for key in keys)).items():
            if NUM_WORDS * count >= min_overlap * self.targets[number].num_telling:
                yield number

    def overlap(self, target: _Target, grams: Collection[Gram]) -> tuple[float, str]:
        """The overlap of a statement that has these n-grams with the target's, and the longest run of common words."""
        covered = self._covered(target.words, grams)
        runs = groupby(zip(covered, target.words, strict=True), itemgetter(0))
        shared = max(([word for _, word in run] for is_shared, run in runs if is_shared), key=len, default=[])
        return sum(covered) / max(target.num_telling, 1), " ".join(shared)

    def _covered(self, words: Sequence[str], grams: Collection[Gram] | None) -> list[bool]:
        """For each word, whether it is in an n-gram that tells problems apart and is one of `grams` (None: any)."""
        covered = [False] * len(words)
        for start, gram in enumerate(_grams(words)):
            if (grams is None or gram in grams) and hash(gram) in self._owners:
                covered[start : start + len(gram)] = [True] * len(gram)
        return covered


def _grams(words: Sequence[str]) -> list[Gram]:
    """All n-grams; of fewer words, all of them as one."""
    grams = list(zip(*(words[start:] for start in range(NUM_WORDS)), strict=False))
    return grams or ([tuple(words)] if words else [])


def _common_programs(train: Sequence[Problem], targets: Sequence[Problem]) -> list[dict[int, str]]:
    """For each training problem: its normalized references that are also a target's, by the target's number.

    Only programs that use the same names are parsed, because parsing takes milliseconds.
    """
    of_train, of_targets = list(_programs(train)), list(_programs(targets))
    common = {key for _, key, _ in of_train} & {key for _, key, _ in of_targets}
    solved: defaultdict[str, list[int]] = defaultdict(list)
    for number, key, source in of_targets:
        if key in common and (text := normalized_program(source)) is not None:
            solved[text].append(number)
    found: list[dict[int, str]] = [{} for _ in train]
    for number, key, source in of_train:
        if key in common and (text := normalized_program(source)) is not None:
            found[number] |= dict.fromkeys(solved.get(text, ()), text)
    return found


def _programs(problems: Sequence[Problem]) -> Iterator[tuple[int, int, str]]:
    """The references of all problems, each with the number of its problem and a hash of the names it uses."""
    for number, problem in enumerate(problems):
        for reference in problem.references:
            source = problem.code_prefix + reference
            names = frozenset(_NAME.findall(_NOT_CODE.sub(" ", source))).difference(keyword.kwlist)
            yield number, hash(names), source
