"""Which part of a model's answer is its program. Training and evaluation both use this, on the answer as sampled.

A program is one span of characters, so that rewards for lines and spans can be put on the tokens of these characters.
"""

from __future__ import annotations

import ast
import bisect
import re
from collections.abc import Iterator

from rltf.problems.continuation import last_needed_line, new_statements
from rltf.problems.fences import Block, blocks_of, closes_thought, spoken, text_before_fences
from rltf.problems.prompts import QUESTION
from rltf.problems.python_source import IMPORTS, LINE_END, SCOPES, layouts, outer_statements, parse, required_name
from rltf.problems.types import Problem, StdinTest

_MAX_PARSES = 120  # per answer; a text that needs more is not an answer
_MAX_CUTS = 12
_MAX_STARTS = 6
_TOP_LEVEL = re.compile(r"^(?=[^\s)\]}])(?!(?:else|elif|except|finally)\b)", re.MULTILINE)
_FIRST_LINE = re.compile(
    r"^(?:(?:async )?def \w|class \w+[ ]?[:(]|import \w|from [\w.]+ import\b|@\w)"
    r"|^\w[\w, ]* = |^(?:for|while|with|if|try)\b.*:[ \t\r]*$|^print\(",
    re.MULTILINE,
)
_PROSE = re.compile(r"[*#>\d.\s-]*[A-Z][\w'`]*(?: [\w'`,.-]+){2}")
_BOXED = re.compile(r"\\boxed\{")
_READING = frozenset({"input", "open", "stdin", "fileinput", "read"})
_WRITING = frozenset({"print", "stdout", "write", "writelines"})

# How close a span is to a program. Among equal spans, the last one in the answer wins.
_NOTHING, _EMPTY, _TEXT, _STATEMENTS, _DEFINITIONS, _BROKEN, _PARTIAL, _PROGRAM = range(8)


def extract_program(problem: Problem, text: str, *, in_thought: bool = False) -> tuple[int, int]:
    """The span of characters [start, end) of a completion that is its program.

    This is the last Python code block that defines what the tests use or, if the tests give input, that reads and
    prints. Without such a block it is the text itself, from its first line of Python up to the first line that is not
    Python or that the program does not need. Thoughts (`<think>`) and text after an end token are skipped: an answer
    that never stopped thinking has an empty program at its end. If nothing is a program, the last block that comes
    close is graded, or else the whole text. The answer to a `QUESTION` is used as it is. `in_thought` says that the
    text begins inside a thought (see `end_of_thought`).
    """
    if problem.benchmark == QUESTION:
        return 0, len(text)
    if in_thought and not closes_thought(text):
        return len(text), len(text)
    return _Search(problem, text).span()


class _Search:
    """One search. It parses every span at most once, in each of the ways in `layouts`."""

    def __init__(self, problem: Problem, text: str) -> None:
        self._problem = problem
        self._text = text
        self._name = required_name(problem)
        self._is_script = isinstance(problem.tests[0], StdinTest)
        self._has_input = any(isinstance(test, StdinTest) and test.stdin.strip() for test in problem.tests)
        self._parses_left = _MAX_PARSES
        self._read: dict[tuple[int, int], ast.Module | int] = {}
        self._ranks: dict[tuple[int, int], int] = {}
        self._lines_before: dict[tuple[int, int], int] = {}

    def span(self) -> tuple[int, int]:
        whole = (0, len(self._text))
        is_free_of_fences = text_before_fences(self._text, *whole) == len(self._text)
        if is_free_of_fences and "\n[" not in self._text and self._rank(whole) >= _PARTIAL:
            return self._without_rest(whole)
        said = [part for part in spoken(self._text, self.read) if self._text[part[0] : part[1]].strip()]
        best, best_rank = (said[-1] if said else (len(self._text), len(self._text))), _NOTHING
        for part in reversed(said):
            for span, rank in self._candidates(part):
                if rank > best_rank:
                    best, best_rank = span, rank
                if rank == _PROGRAM:
                    return best
        return best

    def read(self, start: int, end: int) -> ast.Module | int:
        """The syntax tree of a span as it would be graded, or the line of the span where it stops being Python."""
        if (start, end) not in self._read:
            self._read[start, end] = self._parse(start, end)
        return self._read[start, end]

    def _parse(self, start: int, end: int) -> ast.Module | int:
        furthest = 1
        for prefix, program in layouts(self._problem, self._text[start:end]):
            if self._parses_left <= 0:
                break
            self._parses_left -= 1
            lines_before = prefix.count("\n")
            found = parse(prefix + program)
            if isinstance(found, ast.Module):
                self._lines_before[start, end] = lines_before
                return found
            furthest = max(furthest, found - lines_before)
        return furthest

    def _candidates(self, part: tuple[int, int]) -> Iterator[tuple[tuple[int, int], int]]:
        """Spans in a part of the answer that may be the program, with their ranks. The first of each rank counts."""
        blocks = list(blocks_of(self._text, *part, self.read))
        head = (part[0], blocks[0].fence_start if blocks else part[1])
        longer = text_before_fences(self._text, *part)
        if longer > head[1] and self._bare((part[0], longer), num_starts=_MAX_STARTS)[1] == _PROGRAM:
            # The first fences belong to a docstring.
            head = (part[0], longer)
            blocks = list(blocks_of(self._text, longer, part[1], self.read))
        first = self._text[head[0] : head[1]].lstrip("\r\n")[:1]
        goes_on = bool(self._problem.code_prefix) and first.isspace()
        if blocks and (goes_on or (self._is_script and not blocks[0].has_tag)):
            # A base model continues its prompt, closes the prompt's code block, and goes on with something else.
            span, rank = self._bare(head, num_starts=0)
            if rank == _PROGRAM:
                yield span, rank
        for block in reversed(blocks):
            span, rank = (block.start, block.end), self._rank_of_block(block)
            if rank == _BROKEN and block.end == part[1]:
                cut = self._cut(span)
                if _PROSE.match(self._text, cut[1]) and self._rank(cut) == _PROGRAM:
                    span, rank = cut, _PROGRAM
            yield span, rank
        for found in _BOXED.finditer(self._text, *part):
            span = (found.end(), _matching_brace(self._text, found.end(), part[1]))
            yield span, self._rank(span)
            break
        span, rank = self._bare(head, num_starts=_MAX_STARTS)
        yield span, rank if rank >= _PARTIAL else _BROKEN if goes_on else _TEXT if not blocks else _NOTHING

    def _rank_of_block(self, block: Block) -> int:
        inside = self._text[block.start : block.end]
        if not block.is_python:
            return _NOTHING
        if not inside.strip() or inside.lstrip().startswith(">>>"):
            return _EMPTY
        rank = self._rank((block.start, block.end))
        if rank != _NOTHING:
            return rank
        words = {self._name} if self._name else {"input", "stdin"} if self._is_script else {"def", "class"}
        if any(re.search(rf"\b{re.escape(word)}\b", inside) for word in words):
            return _BROKEN
        return _STATEMENTS if block.has_tag else _TEXT

    def _rank(self, span: tuple[int, int]) -> int:
        """How close a span is to a program, judged by its tree; `_NOTHING` if it does not parse."""
        if span not in self._ranks:
            self._ranks[span] = self._rank_of(span)
        return self._ranks[span]

    def _rank_of(self, span: tuple[int, int]) -> int:
        tree = self.read(*span)
        if not isinstance(tree, ast.Module):
            return _NOTHING
        statements = list(new_statements(tree, self._lines_before[span]))
        if self._is_script:
            return self._rank_of_script(statements)
        nodes = list(outer_statements(statements))
        if self._name:
            found = max((_definition_rank(node, self._name, deep=True) for node in nodes), default=_NOTHING)
            if found:
                return found
        if any(isinstance(node, SCOPES) for node in nodes):
            return _DEFINITIONS if self._name else _PROGRAM
        return _STATEMENTS if any(not isinstance(node, ast.Expr) for node in nodes) else _TEXT

    def _rank_of_script(self, statements: list[ast.stmt]) -> int:
        words: set[str] = set()
        for node in ast.walk(ast.Module(statements, [])):
            match node:
                case ast.Name(id=word) | ast.Attribute(attr=word):
                    words.add(word)
                case ast.alias(name):
                    words.update(name.split("."))
        if words & _WRITING and (words & _READING or not self._has_input):
            return _PROGRAM
        does = any(
            not isinstance(node, ast.Expr) or isinstance(node.value, (ast.Call, ast.Await)) for node in statements
        )
        return _PARTIAL if does else _TEXT

    def _bare(self, span: tuple[int, int], num_starts: int) -> tuple[tuple[int, int], int]:
        """The program in a text without fences, and its rank; the text itself if there is no program."""
        starts = [span[0]]
        for found in _FIRST_LINE.finditer(self._text, *span):
            if len(starts) > num_starts:
                break
            if found.start() > span[0]:
                starts.append(found.start())
        best, best_rank = span, _NOTHING
        for start in starts:
            cut = self._cut((start, span[1]))
            rank = self._rank(cut)
            if rank == _PROGRAM:
                return self._without_rest(cut), rank
            if rank > best_rank:
                best, best_rank = cut, rank
            if cut == (start, span[1]) and rank:
                break
        return (best, best_rank) if best_rank >= _PARTIAL else (span, best_rank)

    def _cut(self, span: tuple[int, int]) -> tuple[int, int]:
        """A span up to the top-level statement in which it stops being Python."""
        start, end = span
        tops = [found.start() for found in _TOP_LEVEL.finditer(self._text, start, end)]
        line_starts = [start, *(found.end() for found in LINE_END.finditer(self._text, start, end))]
        for _ in range(_MAX_CUTS):
            found = self.read(start, end)
            if isinstance(found, ast.Module):
                return start, end
            at = line_starts[min(found, len(line_starts)) - 1]
            place = bisect.bisect_right(tops, min(at, end - 1)) - 1
            if place < 0 or not self._text[start : tops[place]].strip():
                break
            end = tops[place]
        return span

    def _without_rest(self, span: tuple[int, int]) -> tuple[int, int]:
        """A span that defines a function, without what follows but is not needed: prints, asserts, other functions.

        A script stays as it is, because all of it runs.
        """
        tree = self.read(*span)
        if self._is_script or not self._name or not isinstance(tree, ast.Module):
            return span
        before = self._lines_before[span]
        last = last_needed_line(tree, self._name, before)
        if last is None:
            return span
        start, end = span
        line_starts = [start, *(found.end() for found in LINE_END.finditer(self._text, start, end)), end]
        place = min(last - before, len(line_starts) - 1)
        while place < len(line_starts) - 1 and not self._text[line_starts[place] : line_starts[place + 1]].strip():
            place += 1
        return start, line_starts[place]


def _definition_rank(node: ast.AST, name: str, *, deep: bool) -> int:
    """`_PROGRAM` if a statement binds `name`, `_PARTIAL` if it imports it or defines it without a body, else 0."""
    if isinstance(node, SCOPES) and node.name == name:
        fillers = [isinstance(inner, ast.Pass) or _is_constant(inner) for inner in node.body]
        return _PARTIAL if all(fillers) else _PROGRAM
    if isinstance(node, ast.ClassDef) and deep:
        return max((_definition_rank(inner, name, deep=False) for inner in node.body), default=_NOTHING)
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return _PROGRAM if any(isinstance(one, ast.Name) and one.id == name for one in targets) else _NOTHING
    is_imported = isinstance(node, IMPORTS) and any((alias.asname or alias.name) == name for alias in node.names)
    return _PARTIAL if is_imported else _NOTHING


def _is_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _matching_brace(text: str, start: int, end: int) -> int:
    """The position of the brace that closes the one before `start`; `end` if there is none."""
    depth = 1
    for found in re.finditer(r"[{}]", text[start:end]):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return start + found.start()
    return end
