"""HumanEval (Chen et al. 2021): a prompt to continue, and a function `check(candidate)` of asserts.

`check` is split into one test for each assert, so that each has its own verdict. An assert that uses names of the test
module (constants, helpers) is a `CheckTest` that carries them. What does not split (a loop over random inputs) is one
`CheckTest`, which carries the functions of the prompt as well, so that a program cannot redefine them. Asserts of a
constant, of which the data have 48, test nothing and are left out.
"""

from __future__ import annotations

import ast
import builtins
import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from problems.assertions import classes_in, split_assertion
from problems.checks import check_function, refuse_broken_module
from problems.errors import UnusableRowError
from problems.evalplus import refuse_evalplus
from problems.scope import Scope, WriteOut, bound_names, used_names
from problems.types import AssertTest, CheckTest, Problem, Test


def task_id_of(row: Any) -> str | None:
    """The row's `task_id` (`HumanEval/0`)."""
    value = row.get("task_id") if isinstance(row, dict) else None
    return value if isinstance(value, str) and value else None


def to_problem(row: Any) -> Problem:
    """A HumanEval row as a `Problem` whose completions continue `code_prefix`.

    Raises:
        UnusableRowError: a missing field, or a `test` without a function `check(candidate)`.
    """
    refuse_evalplus(row, "HumanEval+", "humaneval")
    task_id = task_id_of(row)
    if task_id is None:
        raise UnusableRowError("task_id: missing")
    for key in ("prompt", "entry_point", "test"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UnusableRowError(f"{key}: missing or empty")
    prompt, entry_point = row["prompt"], row["entry_point"]
    solution = row.get("canonical_solution")
    return Problem(
        task_id=task_id,
        benchmark="humaneval",
        statement=prompt,
        tests=split_check(row["test"], prompt, entry_point),
        references=(solution,) if isinstance(solution, str) and solution.strip() else (),
        entry_point=entry_point,
        code_prefix=prompt,
    )


def split_check(test: str, prompt: str, entry_point: str) -> tuple[Test, ...]:
    """The tests that `check(candidate)` makes of the function `entry_point`.

    Leading asserts become tests of their own, with local values written out where the data assign them first. From the
    first other statement on, the rest is one `CheckTest`.

    Raises:
        UnusableRowError: no such function, nothing in it that tests anything, or a module that no program could pass.
    """
    module, prompt_module = _parsed(test), _parsed(prompt)
    check = check_function(module)
    if check is None:
        raise UnusableRowError("test: expected a function check(candidate)")
    helpers = [node for node in prompt_module.body if not _defines(node, entry_point)]
    refuse_broken_module(ast.Module([*helpers, *module.body], []), entry_point)
    # What calls `check` is a harness's line.
    others = [node for node in module.body if node is not check and not _calls_check(node)]
    splitter = _Splitter(check.args.args[0].arg, entry_point, _Surroundings(check, helpers, others))
    for index, statement in enumerate(check.body):
        if not splitter.take(statement):
            rest = check.body[index:]
            if splitter.may_call_program(rest):
                splitter.tests.append(splitter.surroundings.check_test([*splitter.preamble, *rest], entry_point))
            break
    if not splitter.tests:
        raise UnusableRowError("test: check(candidate) tests nothing")
    return tuple(splitter.tests)


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableRowError(f"prompt or test is not Python: {error}") from error


def _defines(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == name


def _calls_check(node: ast.stmt) -> bool:
    is_definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    return not is_definition and "check" in used_names(node)


class _Surroundings:
    """What stands around the statements of `check`: the prompt's helpers, and the rest of the test module."""

    def __init__(self, check: ast.FunctionDef, helpers: list[ast.stmt], others: list[ast.stmt]) -> None:
        self._check = check
        self._helpers = helpers
        self._others = others
        imports = [node for node in others if isinstance(node, ast.Import | ast.ImportFrom)]
        self.imports = "\n".join(map(ast.unparse, imports))
        self.defined = {name for node in others if node not in imports for name in bound_names(node)}
        self.of_prompt = {name for node in helpers for name in bound_names(node)}

    def check_test(self, body: Sequence[ast.stmt], entry_point: str) -> CheckTest:
        """A test of these statements."""
        function = ast.FunctionDef("check", self._check.args, list(body), [], None, lineno=1, col_offset=0)
        module = ast.Module([*self._helpers, *self._others, function], [])
        return CheckTest(ast.unparse(ast.fix_missing_locations(module)), entry_point)


@dataclass
class _Splitter:
    """Takes statements of `check` one by one, for as long as they are asserts or plain values that asserts use."""

    candidate: str
    entry_point: str
    surroundings: _Surroundings
    tests: list[Test] = field(default_factory=list)
    preamble: list[ast.stmt] = field(default_factory=list)
    values: dict[str, ast.expr] = field(default_factory=dict)

    def take(self, statement: ast.stmt) -> bool:
        if isinstance(statement, ast.Assert):
            return self._take_assert(statement)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant | ast.Name):
            return True  # a bare name or string does nothing
        if isinstance(statement, ast.Assign) and self._is_value(statement):
            self.preamble.append(statement)
            self.values[ast.unparse(statement.targets[0])] = self._written_out(statement.value)
            return True
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self.preamble.append(statement)
            return True
        return False

    def may_call_program(self, statements: Iterable[ast.stmt]) -> bool:
        """Whether statements have a way to the program: the last `print("ok")` or `return` of a test has none."""
        names = {name for statement in statements for name in used_names(statement)}
        return bool(
            names & {self.candidate, self.entry_point, *self.surroundings.defined, *self.surroundings.of_prompt}
        )

    def _take_assert(self, statement: ast.Assert) -> bool:
        if bound_names(statement.test) & self.values.keys():
            return False  # one name for a local value and a comprehension's variable
        condition = self._written_out(statement.test)
        names = used_names(condition) - bound_names(condition)
        needs_module = bool(names & self.surroundings.defined)
        if self.entry_point not in names:
            return not needs_module  # a helper may call the function; all else is a constant
        imports = [node for node in self.preamble if isinstance(node, ast.Import | ast.ImportFrom)]
        setup = "\n".join([self.surroundings.imports, *map(ast.unparse, imports)]).strip()
        assertion = f"assert {ast.unparse(condition)}"
        self._refuse_unknown(names, setup, assertion)
        if needs_module:
            written_out = ast.Assert(self._replaced(statement.test, self.values))
            self.tests.append(self.surroundings.check_test([*imports, written_out], self.entry_point))
            return True
        scope = Scope.of(condition, setup, None)
        used = scope.imports_for(ast.Tuple([ast.Name(n, ast.Load()) for n in names - self.surroundings.of_prompt]))
        classes = classes_in(assertion, [f"def {self.entry_point}(): pass"])
        split_assertion(assertion, used, classes)
        self.tests.append(AssertTest(assertion, used, classes))
        return True

    def _refuse_unknown(self, names: set[str], setup: str, assertion: str) -> None:
        scope = Scope.of(ast.Constant(None), setup, None)
        found = {self.entry_point} | self.surroundings.of_prompt | self.surroundings.defined
        unknown = {name for name in names - found if scope.program_names(ast.Name(name, ast.Load()))}
        unknown -= vars(builtins).keys()
        if unknown:
            raise UnusableRowError(f"test uses a name that nothing defines: {', '.join(sorted(unknown))}: {assertion}")

    def _is_value(self, statement: ast.Assign) -> bool:
        """Whether the value can be written out wherever it is used: pure, and not from the program."""
        names = {node.id for node in ast.walk(statement.value) if isinstance(node, ast.Name)}
        attributes = any(isinstance(node, ast.Attribute) for node in ast.walk(statement.value))
        foreign = names & {self.candidate, self.entry_point, *self.surroundings.defined}
        is_name = len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)
        return is_name and not foreign and not attributes

    def _written_out(self, expression: ast.expr) -> ast.expr:
        replacements = {self.candidate: ast.Name(self.entry_point, ast.Load())} | self.values
        return self._replaced(expression, replacements)

    def _replaced(self, expression: ast.expr, replacements: dict[str, ast.expr]) -> ast.expr:
        replaced: ast.expr = WriteOut(replacements).visit(copy.deepcopy(expression))
        return ast.fix_missing_locations(replaced)
