"""What stands on which line of a program, read off its source. The program need not compile and never runs.

The messages of syntax errors change from one Python version to the next; these facts do not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pyflakes.checker import Checker

from rltf.problems.syntax import syntax_tree
from rltf.rewards.types import ProgramTokens

logger = logging.getLogger(__name__)

# Sampled programs are a few kilobytes. A longer one is hostile or broken, and analysis time is not linear in length.
MAX_CHARACTERS = 50_000

# What ends a line for Python's compiler. `str.splitlines` splits at more (form feeds, U+2028, ...), which shifts lines.
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)?")
# Strings (closed or not) and comments are skipped whole; what matters in the rest is brackets and line ends.
_LEXEME = re.compile(
    r"""
      \#[^\n]*
    | (?P<triple>\"{3}|'{3}) (?:\\.|(?!(?P=triple)).)* (?P<closed>(?P=triple))?
    | "(?:\\.|[^"\\\n])*"?
    | '(?:\\.|[^'\\\n])*'?
    | (?P<open>[(\[{])
    | (?P<close>[)\]}])
    | \\\n
    | \n(?P<blanks>[ \t\f]*)
    """,
    re.VERBOSE | re.DOTALL,
)
# The prefix of a string that holds code: f-strings (and t-strings) raise errors on the lines of their fields.
_FORMATTED = re.compile(r"(?:[ft]r?|r[ft])\Z", re.IGNORECASE)
_TAB = 8  # columns, as CPython's tokenizer counts them


def line_starts(program: str) -> list[int]:
    """The offset in `program` at which each line begins, without the empty line after a final line end."""
    return [match.start() for match in _LINE.finditer(program) if match[0]]


def line_characters(program: str) -> NDArray[np.int64]:
    """The first and last non-blank character of each line (offsets in `program`, both included), int64 [L, 2].

    Row 0 is line 1. A blank line is (0, -1): its last character comes before its first.
    """
    bounds = []
    for match in _LINE.finditer(program):
        text = match[0].rstrip()
        blank = len(text) - len(text.lstrip())
        bounds.append((match.start() + blank, match.start() + len(text) - 1) if text else (0, -1))
    return np.array(bounds, dtype=np.int64)


def token_range(char_spans: NDArray[np.int32], first: int, last: int) -> tuple[int, int] | None:
    """The tokens (both included) from the one that holds character `first` to the one that holds `last`.

    `char_spans` [T, 2] are those of `ProgramTokens`. None if no token holds any of these characters, or if `first` is
    after `last`.
    """
    if first > last:
        return None
    first_token = int(np.searchsorted(char_spans[:, 1], first, side="right"))
    last_token = int(np.searchsorted(char_spans[:, 0], last, side="right")) - 1
    return (first_token, last_token) if first_token <= last_token else None


def tokens_of_lines(program: ProgramTokens, lines: Sequence[int]) -> list[tuple[int, int] | None]:
    """The tokens (both included) of each of `lines`, counted from 1; None if there is no such line or it is blank."""
    if not lines:
        return []
    characters = line_characters(program.text)
    return [
        token_range(program.char_spans, int(characters[line - 1, 0]), int(characters[line - 1, 1]))
        if 1 <= line <= len(characters)
        else None
        for line in lines
    ]


def unclosed_triple_quote_line(program: str) -> int | None:
    """The line (from 1) of a triple-quoted string that is never closed; None if there is none."""
    source = _with_newlines(program)
    for match in _LEXEME.finditer(source):
        if match["triple"] and not match["closed"]:
            return source.count("\n", 0, match.start()) + 1
    return None


def unmatched_dedent_line(program: str) -> int | None:
    """The first line (from 1) that dedents to a level no enclosing block has; None if there is none."""
    source = "\n" + _with_newlines(program)
    levels = [0]
    line = depth = 0
    for match in _LEXEME.finditer(source):
        line += match[0].count("\n")
        if match["open"]:
            depth += 1
        elif match["close"]:
            depth = max(0, depth - 1)
        elif (
            match["blanks"] is not None and depth == 0 and source[match.end() : match.end() + 1] not in ("", "\n", "#")
        ):
            column = _column(match["blanks"])
            while column < levels[-1]:
                levels.pop()
                if column > levels[-1]:
                    return line
            if column > levels[-1]:
                levels.append(column)
    return None


def code_lines(program: str) -> frozenset[int]:
    """The lines (from 1) that can raise an error: those with more than blanks, comments or the inside of a string.

    A string over several lines counts as code on its first line, an f-string on all of its lines.
    """
    source = _with_newlines(program)
    code, end = [], 0
    for match in _LEXEME.finditer(source):
        code.append(source[end : match.start()])
        end = match.end()
        if match[0].startswith("#"):
            continue
        if match["triple"] and not _FORMATTED.search(source, max(0, match.start() - 2), match.start()):
            code.append(match["triple"] + "\n" * match[0].count("\n"))
        else:
            code.append(match[0])
    code.append(source[end:])
    return frozenset(number for number, line in enumerate("".join(code).split("\n"), start=1) if line.strip())


def finding_lines(program: str) -> frozenset[int]:
    """The lines (from 1) that pyflakes reports: undefined names, unused variables and imports, and so on.

    Empty if the program does not parse (the fine term covers that), is longer than `MAX_CHARACTERS`, or nests too
    deeply to analyze.
    """
    if len(program) > MAX_CHARACTERS:
        return frozenset()
    try:
        checker = Checker(syntax_tree(program))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # ValueError: null bytes. RecursionError, MemoryError: nested deeper than the parser or the analyzer can follow.
        logger.debug("no static analysis: %s", type(error).__name__)
        return frozenset()
    return frozenset(message.lineno for message in checker.messages)


def _column(blanks: str) -> int:
    column = 0
    for blank in blanks:
        column = 0 if blank == "\f" else column + 1 if blank == " " else (column // _TAB + 1) * _TAB
    return column


def _with_newlines(program: str) -> str:
    """The program with line ends as the compiler sees them."""
    return program.replace("\r\n", "\n").replace("\r", "\n")
