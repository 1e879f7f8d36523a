"""Python source as it is graded: the source that goes before a program, layout repairs, and the syntax tree.

This module only uses the parser. It never compiles or runs any part of a program.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Container, Iterator, Sequence

from rltf.problems.scope import SITE_IMPORTS, bound_names, parse_module, used_names
from rltf.problems.syntax import syntax_tree
from rltf.problems.types import AssertTest, CallTest, CheckTest, Problem, UnusableRowError

LINE_END = re.compile(r"\r\n|\r|\n")
"""A line end as the parser counts lines."""
_INDENT = re.compile(r"[ \t]*")
_FIRST_INDENT = re.compile(r"(?:[ \t]*\r?\n)*([ \t]*)(?=[^\s])")
QUOTED = (
    r'"""(?:[^"\\]|\\.|"(?!""))*+"""' + r"|'''(?:[^'\\]|\\.|'(?!''))*+'''"
    r'|"(?:[^"\\\n]|\\.)*+"' + r"|'(?:[^'\\\n]|\\.)*+'|#[^\n]*"
)
"""A pattern of strings and comments; it needs `re.DOTALL`."""
# Strings and comments keep their characters. Elsewhere, special blanks from web pages and documents become spaces.
_QUOTED_OR_BLANK = re.compile(rf"({QUOTED})|[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]", re.DOTALL)
_ODD_BLANK = re.compile(r"[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_TRIPLE_QUOTE = re.compile(r"'''|\"\"\"")
_MAX_SITE_CHARACTERS = 1 << 16
_SOLUTION = re.compile(r"^class Solution\b", re.MULTILINE)
_TYPING_NAME = re.compile(
    r"\b(" + "|".join(name for name, line in SITE_IMPORTS.items() if line.startswith("from typing ")) + r")\b"
)
_FUTURE_IMPORT = re.compile(r"^from __future__ import", re.MULTILINE)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
"""The statements with a scope of their own."""
IMPORTS = (ast.Import, ast.ImportFrom)
BLOCK_FIELDS = ("body", "orelse", "finalbody", "handlers", "cases")
"""The fields of a compound statement that hold statements or clauses."""


def parse(source: str) -> ast.Module | int:
    """The tree of `source`, or the line (from 1) of its first error. A `return` outside a function is an error."""
    try:
        with warnings.catch_warnings():  # of escapes such as "\d"
            warnings.simplefilter("ignore")
            tree = syntax_tree(source)
    except SyntaxError as error:
        return max(1, error.lineno or 1)
    except ValueError:  # null bytes, lone surrogates
        return 1 + len(LINE_END.findall(source.partition("\0")[0])) if "\0" in source else 1
    except (RecursionError, MemoryError):  # the parser raises these if brackets are nested too deeply
        return 1
    for node in outer_statements(tree.body):
        if isinstance(node, ast.Return):
            return node.lineno
    return tree


def outer_statements(body: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    """The statements in `body` and in its blocks, but not those inside functions and classes."""
    pending: list[ast.AST] = list(reversed(body))
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, SCOPES):
            for field in BLOCK_FIELDS:
                pending.extend(reversed(getattr(node, field, None) or []))


def required_name(problem: Problem) -> str | None:
    """The name that a program must define; None if programs read and print, or if the tests name no function."""
    if problem.entry_point:
        return problem.entry_point
    test = problem.tests[0]
    if isinstance(test, CallTest):
        return test.function
    return test.entry_point if isinstance(test, CheckTest) else None


def defines(tree: ast.Module, name: str) -> bool:
    """Whether a module defines a function, class or variable `name` at its top level."""
    return any(
        node.name == name
        if isinstance(node, SCOPES)
        else isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
        for node in outer_statements(tree.body)
    )


def source_before(problem: Problem, program: str) -> str:
    """The source that goes before a submitted program when it runs; empty if the program stands alone.

    A problem's `preamble` comes first. A program may continue the problem's `code_prefix`, or define the whole function
    again after it and use its imports and helper functions. Call-based problems come from sites that import what their
    programs use (`List`), so names that the program uses but does not define are imported for it. The same goes for a
    class `Solution` that asserts test. In custom problems, a program gets the names of `typing` that the problem itself
    uses. A program with `__future__` imports always stands alone, because these must come first.
    """
    prefix = problem.preamble + problem.code_prefix
    if _has_future_import(prefix, program):
        return ""
    if prefix:
        return prefix
    test = problem.tests[0]
    if isinstance(test, CallTest) or (isinstance(test, AssertTest) and _SOLUTION.search(program)):
        return site_imports(program)
    shown = _typing_names(problem)
    return site_imports(program, shown) if shown else ""


def _typing_names(problem: Problem) -> frozenset[str]:
    """The names of `typing` in what a custom problem with assert tests shows and runs; none for other problems.

    A statement or a starter code with `List[int]` invites programs that use `List` as if it were there.
    """
    if problem.benchmark != "jsonl" or not isinstance(problem.tests[0], AssertTest):
        return frozenset()
    tests = [f"{test.setup}\n{test.assertion}" for test in problem.tests if isinstance(test, AssertTest)]
    text = "\n".join([problem.statement, problem.starter_code, *tests])
    return frozenset(_TYPING_NAME.findall(text))


def site_imports(program: str, names: Container[str] = SITE_IMPORTS) -> str:
    """The imports for those of `names` that a program uses but does not define; empty if it is not Python.

    Also empty for a program longer than any site accepts, because searching it would take seconds.
    """
    if len(program) > _MAX_SITE_CHARACTERS:
        return ""
    try:
        module = parse_module(program, "program")
    except UnusableRowError:
        return ""
    defined = ({node.name} if isinstance(node, SCOPES) else bound_names(node) for node in module.body)
    missing = used_names(module).difference(*defined)
    return "".join(f"{line}\n" for name, line in SITE_IMPORTS.items() if name in missing and name in names)


def _has_future_import(prefix: str, program: str) -> bool:
    if "__future__" not in program:
        return False
    for source in (program, prefix + program):
        tree = parse(source)
        if isinstance(tree, ast.Module):
            return any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    return bool(_FUTURE_IMPORT.search(program))


def as_run(problem: Problem, program: str) -> tuple[str, str]:
    """The source before a submitted program, and the program, with its layout repaired if that makes it Python.

    The repairs keep every line in its place and change only its blanks (see `layouts`). A program that already is
    Python, or that no repair helps, stays as it is.
    """
    variants = layouts(problem, program)
    first = next(variants)
    rest = list(variants)
    if not rest or isinstance(parse("".join(first)), ast.Module):
        return first
    return next((variant for variant in rest if isinstance(parse("".join(variant)), ast.Module)), first)


def layouts(problem: Problem, program: str) -> Iterator[tuple[str, str]]:
    """The ways to read a program, each as the source before it and its text. The first one that parses is run.

    The program as it is; with plain spaces instead of blanks that Python does not accept; without the indentation of
    the first line or of all lines (a code block in a list); if it continues a function, with the indentation of that
    function's body (a tokenizer may have dropped it from the first line, a chat model from all lines).
    """
    prefix = source_before(problem, program)
    found = _FIRST_INDENT.match(program)
    own = found[1] if found else ""
    name = required_name(problem)
    if problem.code_prefix and prefix and own and name and name in program:
        # If the whole function came again, indented like the body, it would become a function inside the function.
        whole = _reindented(program, own, "")
        if whole is not None and isinstance(tree := parse(whole), ast.Module) and defines(tree, name):
            yield prefix, whole
    yield prefix, program
    if _ODD_BLANK.search(program):
        program = _QUOTED_OR_BLANK.sub(lambda match: match[1] or " ", program)
        found = _FIRST_INDENT.match(program)
        own = found[1] if found else ""
        yield prefix, program
    if found is None:
        return
    targets = [_body_indent(prefix)] if problem.code_prefix and prefix else []
    for target in dict.fromkeys([*targets, ""]):
        if target != own:
            shifted = _reindented(program, own, target)
            if shifted is not None:
                yield prefix, shifted
            yield prefix, program[: found.start(1)] + target + program[found.end(1) :]


def shift_of(program: str, run: str, line: int) -> int:
    """How many characters further right text is on a line (from 1) of a program than in its repaired form."""
    if program == run:
        return 0
    mine, its = LINE_END.split(program), LINE_END.split(run)
    return len(mine[line - 1]) - len(its[line - 1]) if line <= min(len(mine), len(its)) else 0


def _reindented(program: str, own: str, target: str) -> str | None:
    """The program with the indentation `own` of all its lines replaced by `target`; None if a line lacks `own`.

    Lines inside strings move along, as in a code block in a list, but never to the right.
    """
    if len(target) > len(own) and _TRIPLE_QUOTE.search(program):
        return None
    lines = program.splitlines(keepends=True) if "\f" not in program else program.split("\n")
    if any(line.strip() and not line.startswith(own) for line in lines):
        return None
    moved = [target + line[len(own) :] if line.strip() else line for line in lines]
    return ("\n" if "\f" in program else "").join(moved)


def _body_indent(prefix: str) -> str:
    """The indentation of the statements that continue the function at the end of `prefix`."""
    tree = parse(prefix)
    if isinstance(tree, ast.Module) and tree.body:
        first, node = None, tree.body[-1]
        while isinstance(node, SCOPES):
            first, node = node.body[0], node.body[-1]
        line = LINE_END.split(prefix)[first.lineno - 1] if first else ""
        return (_INDENT.match(line) or [""])[0]
    last = prefix.rstrip().rpartition("\n")[2]
    return (_INDENT.match(last) or [""])[0] + "    " * last.endswith(":")
