"""Shows what the rewards do to programs from a file, as rows or on the terminal.

Programs from a file have no sampled token ids, so here, and only here, a tokenizer splits them. Rewards are shown as
the method states them: with a zero baseline, and before advantages are damped or cut off, since that needs a baseline.
Only if wrong answers are localized, the programs of a problem are each other's baseline.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group
from rich.style import Style
from rich.table import Table
from rich.text import Text

from rltf.problems.token_spans import char_spans
from rltf.rewards.lines import line_characters, line_starts
from rltf.rewards.scoring import score_group
from rltf.rewards.types import Category, Granularity, ProgramTokens, ScoredSample
from rltf.sandbox.grading import ProgramRow
from rltf.sandbox.verdict import Verdict
from rltf.settings import Baseline, Localize, RewardSettings, ScaleRewards, rewards_of

_LINE_PENALTY = Style(color="white", bgcolor="red3", bold=True)
_BLAMED = Style(color="black", bgcolor="dark_orange")
_FINDING = Style(color="yellow", underline=True)
_NEGATIVE = Style(color="red")
_POSITIVE = Style(color="green")
_OFF_BY_DEFAULT = (Granularity.STATIC, Granularity.STRUCTURE, Granularity.CUSTOM)


def explain_settings(preset: str, localize: str = Localize.OFF, function: str | None = None) -> RewardSettings:
    """The settings of a preset, but with a zero baseline and unchanged advantages, and a `function` of the user if any.

    With `localize`, the baseline is the mean of the problem's other programs: what moves to the lines to blame is a
    negative advantage, and without a baseline a wrong answer that passes most tests has a positive one.
    """
    baseline = Baseline.NONE if localize == Localize.OFF else Baseline.LEAVE_ONE_OUT
    return rewards_of(
        preset,
        baseline=baseline,
        scale_rewards=ScaleRewards.NONE,
        negative_scale=1.0,
        failing_never_positive=False,
        localize=localize,
        function=function,
    )


def split(code: str, tokenizer: Any, *, max_tokens: int | None = None) -> ProgramTokens:
    """Split a program with a transformers tokenizer. From `max_tokens` tokens on it counts as truncated.

    Raises:
        ValueError: the tokenizer cannot reproduce the program character by character.
        TypeError: it is unknown which text the tokenizer's tokens stand for.
    """
    spans = char_spans(tokenizer, tokenizer.encode(code, add_special_tokens=False), code)
    return ProgramTokens(code, spans, truncated=max_tokens is not None and len(spans) >= max_tokens)


def score_by_problem(
    programs: Sequence[ProgramTokens],
    verdicts: Sequence[Verdict],
    settings: RewardSettings,
    *,
    references: Mapping[str, Sequence[str]] | None = None,
    max_tokens: int | None = None,
) -> list[ScoredSample | None]:
    """The scores of `programs`, in their order. The programs of a problem are scored together, as one rollout.

    `references` are reference programs by task id. `max_tokens` is the length limit that programs were sampled with.
    """
    groups: dict[str, list[int]] = {}
    for place, verdict in enumerate(verdicts):
        groups.setdefault(verdict.task_id, []).append(place)
    scores: dict[int, ScoredSample | None] = {}
    for task_id, places in groups.items():
        group = score_group(
            [programs[i] for i in places],
            [verdicts[i] for i in places],
            settings,
            max_tokens=max_tokens,
            references=(references or {}).get(task_id, ()),
        )
        scores.update(zip(places, group.samples, strict=True))
    return [scores[place] for place in range(len(programs))]


def explained_row(
    program: ProgramRow, verdict: Verdict, scored: ScoredSample | None, settings: RewardSettings
) -> dict[str, Any]:
    """The program's row in the output file; its rewards are null if it could not be graded.

    It has the lines to blame and the reward of the user's function only if `settings` ask for them.
    """
    row: dict[str, Any] = {
        "task_id": program.task_id,
        "completion_id": program.completion_id,
        "outcome": verdict.outcome.value,
        "error_type": verdict.error.type if verdict.error else None,
        "error_line": verdict.error.line if verdict.error else None,
    }
    if scored is None:
        row |= dict.fromkeys(("category", "rewards", "fine_span", "num_tokens", "token_weights"))
    else:
        total = scored.token_weights.sum(axis=0, dtype=np.float64)
        row |= {
            "category": scored.category.value if scored.category else None,
            "rewards": {"coarse": scored.coarse, "fine": scored.fine, "adaptive": round(scored.adaptive, 9)},
            "fine_span": list(scored.fine_span) if scored.fine_span else None,
            "num_tokens": scored.num_tokens,
            "token_weights": [round(float(weight), 7) for weight in total],
        }
    if scored is not None and settings.function is not None:
        row["rewards"]["custom"] = scored.custom
    if settings.localize is not Localize.OFF:
        row["blamed"] = list(scored.blamed) if scored else None
    return row


def render(program: ProgramTokens, verdict: Verdict, scored: ScoredSample | None) -> Group:
    """The program with its tokens in the color of their weights, and the totals below."""
    title = Text.assemble((f"{verdict.task_id} / {verdict.completion_id}", "bold"), f"  {verdict.outcome}")
    if verdict.error:
        line = f" on line {verdict.error.line}" if verdict.error.line is not None else ""
        title.append(f": {verdict.error.type}{line}")
    if scored is None:
        return Group(title, Text("the grader failed on this program, so it is not scored"), Text())
    return Group(title, *_numbered_lines(program, scored), _totals(scored), Text())


def _numbered_lines(program: ProgramTokens, scored: ScoredSample) -> list[Text]:
    code = Text("".join(map(_visible, program.text)))
    total = scored.token_weights.sum(axis=0)
    is_global = scored.category is Category.GLOBAL
    for token, (start, end) in enumerate(program.char_spans):
        if scored.token_weights[Granularity.FINE, token] and not is_global:
            code.stylize(_LINE_PENALTY, start, end)
        elif scored.token_weights[Granularity.STATIC, token]:
            code.stylize(_FINDING, start, end)
        elif total[token]:
            code.stylize(_NEGATIVE if total[token] < 0 else _POSITIVE, start, end)
    characters = line_characters(program.text)
    for blamed in scored.blamed:
        first, last = characters[blamed - 1].tolist()
        code.stylize(_BLAMED, first, last + 1)
    error = scored.verdict.error
    faulty = error.line if error else None
    lines = code.divide(line_starts(program.text)[1:])
    for line in lines:
        if line.plain.endswith("\n"):
            line.right_crop(1)
    return [
        Text.assemble((f"{'>' if number == faulty else ' '}{number:4d} | ", "dim"), line)
        for number, line in enumerate(lines, start=1)
    ]


def _visible(character: str) -> str:
    """Replace a control character with a visible one, so that a program cannot control the terminal."""
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    return chr(0x2400 + ord(character)) if ord(character) < 0x20 else "\N{REPLACEMENT CHARACTER}"


def _totals(scored: ScoredSample) -> Table:
    table = Table("term", "reward", "on", "weight of a token", "sum", box=None, pad_edge=False)
    rewards = (scored.coarse, scored.fine, scored.adaptive, scored.static, scored.structure, scored.custom)
    for granularity, reward in zip(Granularity, rewards, strict=True):
        row = scored.token_weights[granularity]
        if granularity in _OFF_BY_DEFAULT and not row.any() and not reward:
            continue
        weighted = row[row != 0]
        shares = f"{len(weighted)} of {len(row)} tokens"
        if granularity is Granularity.FINE and scored.category:
            shares += f" ({scored.category})"
        bounds = (weighted.min(), weighted.max()) if weighted.size else ()
        weight = " to ".join(dict.fromkeys(f"{bound:+.4f}" for bound in bounds)) or "0"
        table.add_row(granularity.name.lower(), f"{reward:+.4f}", shares, weight, f"{row.sum():+.4f}")
    total = scored.token_weights.sum()
    passed = f"{scored.verdict.pass_ratio:.0%} of tests passed"
    table.add_row("total", "", passed, "", f"{total:+.4f}", style="bold")
    return table
