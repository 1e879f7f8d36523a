"""HumanEval (Chen et al. 2021): a prompt to continue, and a function `check(candidate)` of asserts.

`check` is split into one test per assert, so that each gets its own verdict. An assert that uses names of the test
module (constants, helpers) becomes a `CheckTest` that carries them. Code that does not split (a loop over random
inputs) becomes one `CheckTest`, which also carries the prompt's functions, so that a program cannot redefine them.
Asserts of a constant test nothing and are left out; the data contain 48 of them.
"""

from __future__ import annotations

import ast
import builtins
import copy
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from problems.assertions import classes_in, split_assertion
from problems.checks import check_function, refuse_broken_module
from problems.scope import Scope, WriteOut, bound_names, parse_module, used_names
from problems.types import AssertTest, CheckTest, Problem, Test, UnusableRowError


def task_id_of(row: Any) -> str | None:
    """The row's `task_id` (`HumanEval/0`)."""
    value = row.get("task_id") if isinstance(row, dict) else None
    return value if isinstance(value, str) and value else None


def to_problem(row: Any) -> Problem:
    """A HumanEval row as a `Problem` whose completions continue `code_prefix`.

    Raises:
        UnusableRowError: a missing field, or `split_check` cannot use the tests.
    """
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


def to_row(problem: Problem) -> dict[str, Any]:
    """The HumanEval row of a problem, with all its tests in one `check(candidate)`."""
    before: list[ast.stmt] = []
    body: list[ast.stmt] = []
    candidate = "candidate"
    in_prompt = {ast.unparse(node) for node in ast.parse(problem.code_prefix).body}
    # A test function that does not split goes last: everything behind it would become part of it.
    for test in sorted(problem.tests, key=_does_not_split):
        if isinstance(test, AssertTest):
            before += ast.parse(test.setup).body
            body += ast.parse(test.assertion).body
        elif isinstance(test, CheckTest):
            *helpers, check = ast.parse(test.source).body
            assert isinstance(check, ast.FunctionDef)
            candidate = check.args.args[0].arg
            before += [node for node in helpers if ast.unparse(node) not in in_prompt]
            body += check.body
    entry_point, module = problem.entry_point or "", ast.Module(body, [])
    WriteOut({entry_point: ast.Name(candidate, ast.Load())}).visit(module)
    lines = dict.fromkeys(map(ast.unparse, before))
    test_module = [*lines, f"def check({candidate}):\n{textwrap.indent(ast.unparse(module), '    ')}"]
    return {
        "task_id": problem.task_id,
        "prompt": problem.code_prefix,
        "entry_point": entry_point,
        "canonical_solution": problem.references[0] if problem.references else "",
        "test": ast.unparse(ast.parse("\n".join(test_module))) + "\n",
    }


def _does_not_split(test: Test) -> bool:
    """Whether it is a test function that did not split, rather than one assert with the names it uses."""
    if not isinstance(test, CheckTest):
        return False
    check = ast.parse(test.source).body[-1]
    assert isinstance(check, ast.FunctionDef)
    return not all(isinstance(node, ast.Assert | ast.Import | ast.ImportFrom) for node in check.body)


def split_check(test: str, prompt: str, entry_point: str) -> tuple[Test, ...]:
    """The tests in `check(candidate)` of the function `entry_point`.

    Leading asserts become separate tests, in which local variables are replaced with their values. From the first other
    statement on, the rest is one `CheckTest`.

    Raises:
        UnusableRowError: there is no such function, it tests nothing, or no program could pass the module.
    """
    module, prompt_module = parse_module(test, "test"), parse_module(prompt, "prompt")
    check = check_function(module)
    if check is None:
        raise UnusableRowError("test: expected a function check(candidate)")
    helpers = [node for node in prompt_module.body if not _defines(node, entry_point)]
    refuse_broken_module(ast.Module([*helpers, *module.body], []), entry_point)
    # Statements that call `check` come from a harness.
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


def _defines(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == name


def _calls_check(node: ast.stmt) -> bool:
    is_definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    return not is_definition and "check" in used_names(node)


class _Surroundings:
    """What surrounds the statements of `check`: the prompt's helpers, and the rest of the test module."""

    def __init__(self, check: ast.FunctionDef, helpers: list[ast.stmt], others: list[ast.stmt]) -> None:
        self._check = check
        self._helpers = helpers
        self._others = others
        imports = [node for node in others if isinstance(node, ast.Import | ast.ImportFrom)]
        self.imports = "\n".join(map(ast.unparse, imports))
        self.defined = {name for node in others if node not in imports for name in bound_names(node)}
        self.of_prompt = {name for node in helpers for name in bound_names(node)}

    def check_test(self, body: Sequence[ast.stmt], entry_point: str) -> CheckTest:
        """A test with these statements."""
        function = ast.FunctionDef("check", self._check.args, list(body), [], None, lineno=1, col_offset=0)
        module = ast.Module([*self._helpers, *self._others, function], [])
        return CheckTest(ast.unparse(ast.fix_missing_locations(module)), entry_point)


@dataclass
class _Splitter:
    """Takes the statements of `check` one by one, as long as they are asserts or plain values for asserts."""

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
        """Whether statements can call the program. The `print("ok")` or `return` at the end of a test cannot."""
        names = {name for statement in statements for name in used_names(statement)}
        return bool(
            names & {self.candidate, self.entry_point, *self.surroundings.defined, *self.surroundings.of_prompt}
        )

    def _take_assert(self, statement: ast.Assert) -> bool:
        if bound_names(statement.test) & self.values.keys():
            return False  # a local value and a comprehension's variable share a name
        condition = self._written_out(statement.test)
        names = used_names(condition) - bound_names(condition)
        needs_module = bool(names & self.surroundings.defined)
        if self.entry_point not in names:
            return not needs_module  # a helper may call the function; anything else is a constant
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
        """Whether the value can replace its name everywhere: it is pure and does not come from the program."""
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
