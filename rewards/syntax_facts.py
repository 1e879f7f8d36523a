"""Facts about a program, read off its source; it need not compile.

Messages of syntax errors change from one version of Python to the next; these facts do not.
"""

from __future__ import annotations

import re

# Strings (closed or not) and comments are skipped as wholes; what is left of interest is brackets and line ends.
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
# What makes a string one that holds code, at its end: f-strings (and t-strings) raise on the lines of their fields.
_FORMATTED = re.compile(r"(?:[ft]r?|r[ft])\Z", re.IGNORECASE)
_TAB = 8  # columns, as CPython's tokenizer counts them


def unclosed_triple_quote_line(program: str) -> int | None:
    """The line (from 1) of the triple-quoted string that runs off the end of `program`; None where none does."""
    source = _with_newlines(program)
    for match in _LEXEME.finditer(source):
        if match["triple"] and not match["closed"]:
            return source.count("\n", 0, match.start()) + 1
    return None


def unmatched_dedent_line(program: str) -> int | None:
    """The first line (from 1) whose indentation goes back to a level that no enclosing block has; None without one."""
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
    """The lines (from 1) on which an error can be raised: those with more than blanks, comments and text of a string.

    Of a string over several lines that counts as its first line, but an f-string has code on all of them.
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


def _column(blanks: str) -> int:
    column = 0
    for blank in blanks:
        column = 0 if blank == "\f" else column + 1 if blank == " " else (column // _TAB + 1) * _TAB
    return column


def _with_newlines(program: str) -> str:
    """Line ends as the compiler sees them."""
    return program.replace("\r\n", "\n").replace("\r", "\n")
