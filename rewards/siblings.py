"""Which lines of a wrong answer to blame: those that differ from the nearest program that passes the same problem.

Nothing runs, and nothing that a program says about itself counts: the sources of a rollout and its outcomes decide. The
rule is silent (it blames nothing) whenever it has too little to go by.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rltf.problems.python_source import BLOCK_FIELDS, IMPORTS, SCOPES, parse
from rltf.rewards.lines import MAX_CHARACTERS, line_characters, token_range
from rltf.rewards.types import Granularity, ProgramTokens, ScoredSample
from rltf.sandbox.verdict import Outcome
from rltf.settings import RewardSettings

logger = logging.getLogger(__name__)

# Sampled programs have a few dozen statements. Comparing two programs takes time quadratic in their number.
MAX_STATEMENTS = 200

_WHOLE_ROWS = [Granularity.COARSE, Granularity.ADAPTIVE]
# Clauses of compound statements have conditions of their own, so they count as statements.
_STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)
# These declare or enclose. What is wrong with a program is what it does inside them.
_NEVER_BLAMED = (*SCOPES, *IMPORTS, ast.Global, ast.Nonlocal, ast.Try, ast.TryStar)
# What holds the name of a variable, and in which field.
_Named = ast.Name | ast.arg | ast.ExceptHandler | ast.MatchAs | ast.MatchStar
_NAME_FIELDS = {ast.Name: "id", ast.arg: "arg", ast.ExceptHandler: "name", ast.MatchAs: "name", ast.MatchStar: "name"}


class Statement(NamedTuple):
    """A simple statement, or the header of a compound one, on lines `first` to `last` (from 1, both included).

    Statements that differ only in the names of variables have the same `key`.
    """

    key: str
    first: int
    last: int
    can_be_blamed: bool


def localized(
    programs: Sequence[ProgramTokens], samples: Sequence[ScoredSample | None], settings: RewardSettings
) -> list[ScoredSample | None]:
    """The scores of a rollout, with negative weight of its wrong answers moved to the lines to blame.

    `samples[i]` is the score of `programs[i]`. Weight moves within the coarse and the adaptive row, and only between
    the tokens of a program, so their sums and signs stay.
    """
    passing = [
        program.text
        for program, scored in zip(programs, samples, strict=True)
        if scored is not None and scored.verdict.passed
    ]
    wrong = {place: scored for place, scored in enumerate(samples) if scored is not None and _is_penalized(scored)}
    blamed = blamed_lines([programs[place].text for place in wrong], passing, settings.localize_distance)
    moved = list(samples)
    for (place, scored), lines in zip(wrong.items(), blamed, strict=True):
        moved[place] = _moved(programs[place], scored, lines, settings)
    return moved


def blamed_lines(wrong: Sequence[str], passing: Sequence[str], max_distance: float) -> list[tuple[int, ...]]:
    """The lines (from 1) to blame in each `wrong` program, given those programs of its rollout that are `passing`.

    Empty for a program without a sibling within `max_distance`: the share of statements, in both programs, that have no
    counterpart in the other one. Every program is parsed once.
    """
    if not wrong or not passing:
        return [()] * len(wrong)
    found = {program: statements(program) for program in {*wrong, *passing}}
    siblings = dict.fromkeys(tuple(statement.key for statement in found[program]) for program in passing)
    return [_differing_lines(found[program], list(siblings), max_distance) for program in wrong]


def blame_factors(is_blamed: NDArray[np.bool_], share: float, cap: float) -> NDArray[np.float64]:
    """What to multiply the weight of each program token [T] by. The sum of all factors is T.

    `share` of the weight moves to the blamed tokens (some, but not all), unless their factor would exceed `cap`.
    """
    num_tokens, num_blamed = len(is_blamed), int(is_blamed.sum())
    inside = min(1 - share + share * num_tokens / num_blamed, cap)
    outside = max(0.0, (num_tokens - num_blamed * inside) / (num_tokens - num_blamed))  # rounding may turn its sign
    return np.where(is_blamed, inside, outside)


def statements(program: str) -> tuple[Statement, ...]:
    """The statements of a program in the order of its source, without docstrings.

    Empty if the program does not parse, is too long, or nests too deeply.
    """
    if len(program) > MAX_CHARACTERS:
        return ()
    try:
        return tuple(_statements(program))
    except (ValueError, RecursionError, MemoryError) as error:
        # ValueError: some f-strings and numbers cannot be written back.
        logger.debug("no statements: %s", type(error).__name__)
        return ()


def _is_penalized(scored: ScoredSample) -> bool:
    """Whether it is a wrong answer with a negative weight on every token."""
    total = scored.token_weights[_WHOLE_ROWS].sum(axis=0).round(6)  # only rounding keeps some totals from 0
    return scored.verdict.outcome is Outcome.FAILED and len(total) > 0 and bool((total < 0).all())


def _moved(
    program: ProgramTokens, scored: ScoredSample, lines: tuple[int, ...], settings: RewardSettings
) -> ScoredSample:
    """The score of a program with weight moved to `lines`, unless they hold none of its tokens, or all."""
    is_blamed = np.zeros(len(program.char_spans), dtype=np.bool_)
    characters = line_characters(program.text)
    for line in lines:
        if tokens := token_range(program.char_spans, *characters[line - 1].tolist()):
            is_blamed[tokens[0] : tokens[1] + 1] = True
    whole = token_range(program.char_spans, 0, len(program.text) - 1)
    own = slice(0, 0) if whole is None else slice(whole[0], whole[1] + 1)
    if not is_blamed[own].any() or is_blamed[own].all():
        return scored
    weights = scored.token_weights.copy()
    weights[_WHOLE_ROWS, own] *= blame_factors(is_blamed[own], settings.localize_share, settings.localize_cap)
    return replace(scored, token_weights=weights, blamed=lines)


def _statements(program: str) -> Iterator[Statement]:
    # A completion may be the body of a function that began in the prompt. That line counts, as in a whole function.
    for before in ("", "def prompt():\n"):
        tree = parse(before + program)
        if isinstance(tree, ast.Module):
            yield from _in_order(tree, before.count("\n"))
            return


def _in_order(tree: ast.Module, lines_before: int) -> Iterator[Statement]:
    found = (node for node in ast.walk(tree) if isinstance(node, _STATEMENTS) and not _is_bare_string(node))
    nodes = sorted(found, key=_position)
    if len(nodes) > MAX_STATEMENTS:
        return
    _rename_variables(tree)
    for node in nodes:
        blocks = [name for name in BLOCK_FIELDS if hasattr(node, name)]
        for name in blocks:
            setattr(node, name, [])  # what is left is the header
        first = _position(node)[0]
        last = _last_line(node, first) if blocks else getattr(node, "end_lineno", first)
        can_be_blamed = not isinstance(node, _NEVER_BLAMED)
        yield Statement(ast.unparse(node), first - lines_before, last - lines_before, can_be_blamed)


def _is_bare_string(node: ast.AST) -> bool:
    """Whether it is a docstring or another string that nothing is done with."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _position(node: ast.stmt | ast.ExceptHandler | ast.match_case) -> tuple[int, int]:
    placed = node.pattern if isinstance(node, ast.match_case) else node
    return placed.lineno, placed.col_offset


def _last_line(header: ast.AST, first: int) -> int:
    """The line where the last expression of a header ends."""
    ends = (getattr(node, "end_lineno", first) for node in ast.walk(header) if node is not header)
    return max(ends, default=first)


def _rename_variables(tree: ast.Module) -> None:
    """Call the variables and parameters of a program v0, v1, ... in the order in which they first get a value."""
    named = [(node, _NAME_FIELDS[type(node)]) for node in ast.walk(tree) if isinstance(node, _Named)]
    bound = sorted(
        (node.lineno, node.col_offset, name)
        for node, field in named
        if (name := getattr(node, field)) and isinstance(getattr(node, "ctx", ast.Store()), ast.Store)
    )
    names = dict.fromkeys(name for *_, name in bound)
    renamed = {name: f"v{number}" for number, name in enumerate(names)}
    for node, field in named:
        name = getattr(node, field)
        setattr(node, field, renamed.get(name, name))


def _differing_lines(
    wrong: Sequence[Statement], siblings: Sequence[tuple[str, ...]], max_distance: float
) -> tuple[int, ...]:
    """The lines of the statements that the nearest sibling lacks, or else of those where it has one more."""
    least_ratio = round(1 - max_distance, 9)
    keys = [statement.key for statement in wrong]
    matchers = (SequenceMatcher(None, keys, sibling, autojunk=False) for sibling in siblings)
    # The quick ratio is an upper bound, and most siblings fail it.
    near = [matcher for matcher in matchers if matcher.quick_ratio() >= least_ratio]
    nearest = max(near, key=SequenceMatcher.ratio, default=None)  # the first of equally near ones
    if nearest is None or nearest.ratio() < least_ratio:
        return ()
    edits = [(begin, end) for tag, begin, end, *_ in nearest.get_opcodes() if tag != "equal"]
    changed = [statement for begin, end in edits for statement in wrong[begin:end]]
    beside = [statement for begin, end in edits if begin == end for statement in wrong[max(begin - 1, 0) : begin + 1]]
    suspects = {statement for statement in wrong if statement.can_be_blamed}
    blamed = suspects.intersection(changed) or suspects.intersection(beside)
    if blamed == suspects:
        return ()
    return tuple(sorted({line for statement in blamed for line in range(statement.first, statement.last + 1)}))
