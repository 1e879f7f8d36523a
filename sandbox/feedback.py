"""What a programmer reads about a program after a run on the examples, as text for the model that wrote it.

The text is a pure function of the program, the examples and the verdict on these alone, so nothing of another test can
be in it. What a program printed or raised is quoted: every line is indented, cut to a bounded length, free of control
characters, and not readable as a special token of a chat. A program cannot speak as the grader does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rltf.problems.types import AssertTest, CallTest, Checker, Problem, StdinTest, Test
from rltf.sandbox.examples import ExampleVerdict, ends_dialogue
from rltf.sandbox.sandbox import normalized
from rltf.sandbox.shown import short_repr
from rltf.sandbox.verdict import Outcome, ProgramError

MAX_LENGTH = 4000
"""Upper bound of the length of a feedback, in characters."""
_MAX_QUOTED = 600
_MAX_LINES = 20
_INDENT = "    "
# The marks of turns, thoughts and tools in the templates of chats.
_MARK = re.compile(
    r"<(?=[/|\uff5c]?[A-Za-z_|\uff5c][^<>]{0,60}>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG|BOS|EOS|PAD|SEP|CLS|UNK|g?MASK)\])"
)
# Where a module lies on the grader's machine: " (/usr/lib/python3.11/fractions.py)".
_PATH = re.compile(r" \(/[^()\n]*\)?$")
_NO_PROGRAM = "Your answer has no Python program."
_INVALID = "Your program is not valid Python, so it was not run."
_FAULTS = {
    Outcome.FAILED: "gives a wrong answer",
    Outcome.RUNTIME_ERROR: "stops with an error",
    Outcome.TIMEOUT: "takes too long",
    Outcome.SKIPPED: "takes too long",
    Outcome.MEMORY_LIMIT: "needs too much memory",
    Outcome.OUTPUT_LIMIT: "prints too much",
}


def feedback(problem: Problem, program: str, verdict: ExampleVerdict) -> str:
    """What the model that wrote `program` reads: the first example that fails, and how.

    Raises ValueError if the program passes, or the grader failed, so there is nothing to say, or if the verdict is not
    on the problem's examples.
    """
    if len(verdict.tests) != len(problem.examples):
        raise ValueError(f"a verdict on {len(verdict.tests)} tests, but there are {len(problem.examples)} examples")
    if ends_dialogue(verdict):
        raise ValueError("the program passes, or the grader failed: there is nothing to say about the program")
    if not program.strip():
        return _NO_PROGRAM
    if verdict.outcome is Outcome.SYNTAX_ERROR:
        parts = [_INVALID, *_error(verdict.error, program)]
    else:
        number = next(place for place, outcome in enumerate(verdict.tests) if outcome is not Outcome.PASSED)
        parts = [*_first_failure(problem, number, program, verdict)]
    return "\n".join(parts)


def _first_failure(problem: Problem, number: int, program: str, verdict: ExampleVerdict) -> Iterator[str]:
    test, outcome = problem.examples[number], verdict.tests[number]
    place = "the example" if len(problem.examples) == 1 else f"example {number + 1} of {len(problem.examples)}"
    yield f"Your program {_FAULTS[outcome]} on {place}."
    yield from _asked(test, has_more_answers=isinstance(problem.checker, Checker))
    if outcome is Outcome.FAILED:
        yield from _answered(test, verdict.actual)
    elif outcome is Outcome.RUNTIME_ERROR:
        yield from _error(verdict.error, program)


def _asked(test: Test, *, has_more_answers: bool) -> Iterator[str]:
    expected = "A right" if has_more_answers else "Expected"
    match test:
        case StdinTest(stdin, answer):
            yield from _quoted("Input", stdin)
            yield from _quoted(f"{expected} output", answer)
        case CallTest(function, arguments, answer):
            yield from _quoted("Call", f"{function}({', '.join(map(short_repr, arguments))})")
            yield from _quoted(f"{expected} value", short_repr(answer))
        case AssertTest(assertion):
            yield from _quoted("Test", assertion)


def _answered(test: Test, actual: str | None) -> Iterator[str]:
    what = "output" if isinstance(test, StdinTest) else "value"
    if actual is not None:
        yield from _quoted(f"The {what} of your program", actual)
    elif isinstance(test, CallTest):
        yield "Your program returned no plain value."


def _error(error: ProgramError | None, program: str) -> Iterator[str]:
    if error is None:
        return
    message = _PATH.sub("", error.message)
    yield from _quoted("Error", f"{error.type}: {message}" if message else error.type)
    lines = normalized(program).split("\n")
    if error.line is not None and error.line <= len(lines):
        yield from _quoted(f"Line {error.line} of your program", lines[error.line - 1].strip())


def _quoted(title: str, text: str) -> Iterator[str]:
    """A block that text cannot leave, whatever it contains."""
    if not text.strip():
        yield f"{title}: nothing"
        return
    lines = _cut(text.rstrip()).splitlines()
    if len(lines) > _MAX_LINES:
        half = _MAX_LINES // 2
        lines = [*lines[:half], f"... {len(lines) - 2 * half} lines left out ...", *lines[-half:]]
    yield f"{title}:"
    yield from (_INDENT + _harmless(line) for line in lines)


def _cut(text: str) -> str:
    if len(text) <= _MAX_QUOTED:
        return text
    half = _MAX_QUOTED // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _harmless(line: str) -> str:
    """A line without control characters, in which no template finds one of its marks."""
    shown = "".join(one if one.isprintable() or one == "\t" else "?" for one in line)
    return _MARK.sub(lambda found: f"{found[0]} ", shown)
