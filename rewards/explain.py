"""What a reward says of programs from a file: as rows, and on the terminal.

Programs from a file have no sampled ids, so here, and here alone, a tokenizer splits them. Rewards are shown as the
method states them: with a zero baseline, and before damping or cutting off advantages, which need one.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.style import Style
from rich.table import Table
from rich.text import Text

from problems.token_spans import char_spans
from rewards.lines import line_starts
from rewards.scoring import score_group
from rewards.types import Category, Granularity, Sample, Scored
from sandbox.verdict import Verdict
from settings import RewardSettings, rewards_of

_LINE_PENALTY = Style(color="white", bgcolor="red3", bold=True)
_FINDING = Style(color="yellow", underline=True)
_NEGATIVE = Style(color="red")
_POSITIVE = Style(color="green")


@dataclass(frozen=True, slots=True)
class Explained:
    """One program of the file: `scored` is None where the grader itself failed."""

    sample: Sample
    scored: Scored | None


def explaining(preset: str) -> RewardSettings:
    """The settings of a preset with a zero baseline and advantages as they come."""
    return rewards_of(preset, baseline="none", negative_scale=1.0, failing_never_positive=False)


def split(code: str, tokenizer: Any) -> NDArray[np.int32]:
    """The characters of each token that a transformers tokenizer makes of `code`, int32 [T, 2].

    Raises ValueError where the tokenizer cannot give the program back character by character, TypeError where the
    text of its tokens is unknown.
    """
    return char_spans(tokenizer, tokenizer.encode(code, add_special_tokens=False), code)


def explain(
    code: str,
    spans: NDArray[np.int32],
    verdict: Verdict,
    settings: RewardSettings,
    *,
    max_tokens: int | None = None,
) -> Explained:
    """Score one program. With `max_tokens` tokens or more it counts as cut off at the length limit."""
    sample = Sample(
        task_id=verdict.task_id,
        completion_id=verdict.completion_id,
        verdict=verdict,
        char_spans=spans,
        text=code,
        program_start=0,
        program_end=len(code),
        truncated=max_tokens is not None and len(spans) >= max_tokens,
    )
    (scored,) = score_group([sample], settings).samples
    return Explained(sample, scored)


def explained_row(task_id: str | int, completion_id: str | int, explained: Explained) -> dict[str, Any]:
    """The row of the output file; the rewards of a program that the grader failed on are null."""
    verdict, scored = explained.sample.verdict, explained.scored
    row: dict[str, Any] = {
        "task_id": task_id,
        "completion_id": completion_id,
        "outcome": verdict.outcome.value,
        "error_type": verdict.error.type if verdict.error else None,
        "error_line": verdict.error.line if verdict.error else None,
    }
    if scored is None:
        return row | dict.fromkeys(("category", "rewards", "fine_span", "num_tokens", "token_weights"))
    total = scored.token_weights.sum(axis=0, dtype=np.float64)
    return row | {
        "category": scored.category.value if scored.category else None,
        "rewards": {"coarse": scored.coarse, "fine": scored.fine, "adaptive": round(scored.adaptive, 9)},
        "fine_span": list(scored.fine_span) if scored.fine_span else None,
        "num_tokens": scored.num_tokens,
        "token_weights": [round(float(weight), 7) for weight in total],
    }


def render(explained: Explained) -> Group:
    """The program with its tokens coloured by what rewards say of them, and the totals beneath."""
    sample, scored = explained.sample, explained.scored
    verdict = sample.verdict
    title = Text.assemble((f"{verdict.task_id} / {verdict.completion_id}", "bold"), f"  {verdict.outcome}")
    if verdict.error:
        where = f" on line {verdict.error.line}" if verdict.error.line is not None else ""
        title.append(f": {verdict.error.type}{where}")
    if scored is None:
        return Group(title, Text("the grader failed on this program: it is never scored"), Text())
    return Group(title, *_numbered_lines(sample, scored), _totals(sample, scored), Text())


def _numbered_lines(sample: Sample, scored: Scored) -> list[Text]:
    code = Text("".join(map(_visible, sample.text)))
    total = scored.token_weights.sum(axis=0)
    whole = scored.category is Category.GLOBAL
    for token, (start, end) in enumerate(sample.char_spans):
        if scored.token_weights[Granularity.FINE, token] and not whole:
            code.stylize(_LINE_PENALTY, start, end)
        elif scored.token_weights[Granularity.STATIC, token]:
            code.stylize(_FINDING, start, end)
        elif total[token]:
            code.stylize(_NEGATIVE if total[token] < 0 else _POSITIVE, start, end)
    error = sample.verdict.error
    lines = code.divide(line_starts(sample.text)[1:])
    faulty = error.line if error else None
    for line in lines:
        if line.plain.endswith("\n"):
            line.right_crop(1)
    return [
        Text.assemble((f"{'>' if number == faulty else ' '}{number:4d} | ", "dim"), line)
        for number, line in enumerate(lines, start=1)
    ]


def _visible(character: str) -> str:
    """Control characters as one visible character each: a program must not steer the terminal."""
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    return chr(0x2400 + ord(character)) if ord(character) < 0x20 else "\N{REPLACEMENT CHARACTER}"


def _totals(sample: Sample, scored: Scored) -> Table:
    table = Table("term", "reward", "on", "weight of a token", "sum", box=None, pad_edge=False)
    rewards = (scored.coarse, scored.fine, scored.adaptive, scored.static)
    for granularity, reward in zip(Granularity, rewards, strict=True):
        row = scored.token_weights[granularity]
        if granularity is Granularity.STATIC and not row.any():
            continue  # off, unless asked for
        weighted = row[row != 0]
        shares = f"{len(weighted)} of {len(row)} tokens"
        if granularity is Granularity.FINE and scored.category:
            shares += f" ({scored.category})"
        weight = f"{weighted[0]:+.4f}" if weighted.size else "0"
        table.add_row(granularity.name.lower(), f"{reward:+.4f}", shares, weight, f"{row.sum():+.4f}")
    total = scored.token_weights.sum()
    passed = f"{sample.verdict.pass_ratio:.0%} of tests passed"
    table.add_row("total", "", passed, "", f"{total:+.4f}", style="bold")
    return table
