"""HumanEval (Chen et al. 2021): a prompt to continue, and a function `check(candidate)` of asserts.

`check` is split into one test per assert, so that each gets its own verdict. An assert that uses names of the test
module (constants, helpers) becomes a `CheckTest` that carries them. Code that does not split (a loop over random
inputs) becomes one `CheckTest`, which also carries the prompt's functions, so that a program cannot redefine them.
Asserts of a constant test nothing and are left out; the data contain 48 of them.
"""

from __future__ import annotations

import ast
import builtins
import textwrap
from typing import Any

from rltf.problems.assertions import classes_in, split_assertion
from rltf.problems.checks import check_function, refuse_broken_module
from rltf.problems.examples import examples_of
from rltf.problems.fields import text_of
from rltf.problems.scope import Scope, bound_names, parse_module, replaced, used_names
from rltf.problems.syntax import syntax_tree
from rltf.problems.types import AssertTest, CheckTest, Problem, Test, UnusableRowError


def task_id_of(row: Any) -> str | None:
    """The row's `task_id` (`HumanEval/0`)."""
    value = row.get("task_id") if isinstance(row, dict) else None
    return value if isinstance(value, str) and value else None


def to_problem(row: Any) -> Problem:
    """A HumanEval row as a `Problem` whose completions continue `code_prefix`.

    Raises UnusableRowError for a missing field, or if `split_check` cannot use the tests.
    """
    task_id = task_id_of(row)
    if task_id is None:
        raise UnusableRowError("task_id: missing")
    prompt, entry_point, test = (text_of(row, key) for key in ("prompt", "entry_point", "test"))
    solution = row.get("canonical_solution")
    tests = split_check(test, prompt, entry_point)
    return Problem(
        task_id=task_id,
        benchmark="humaneval",
        statement=prompt,
        tests=tests,
        references=(solution,) if isinstance(solution, str) and solution.strip() else (),
        entry_point=entry_point,
        code_prefix=prompt,
        examples=examples_of(prompt, tests, function=entry_point),
    )


def to_row(problem: Problem) -> dict[str, Any]:
    """The HumanEval row of a problem, with all its tests in one `check(candidate)`."""
    before: list[ast.stmt] = []
    body: list[ast.stmt] = []
    candidate = "candidate"
    in_prompt = {ast.unparse(node) for node in syntax_tree(problem.code_prefix).body}
    # A test function that does not split goes last: everything after it would become part of it.
    for test in sorted(problem.tests, key=_does_not_split):
        if isinstance(test, AssertTest):
            before += syntax_tree(test.setup).body
            body += syntax_tree(test.assertion).body
        elif isinstance(test, CheckTest):
            *helpers, check = syntax_tree(test.source).body
            assert isinstance(check, ast.FunctionDef)
            candidate = check.args.args[0].arg
            before += [node for node in helpers if ast.unparse(node) not in in_prompt]
            body += check.body
    entry_point = problem.entry_point or ""
    module = replaced(ast.Module(body, []), {entry_point: ast.Name(candidate, ast.Load())})
    lines = dict.fromkeys(map(ast.unparse, before))
    test_module = [*lines, f"def check({candidate}):\n{textwrap.indent(ast.unparse(module), '    ')}"]
    return {
        "task_id": problem.task_id,
        "prompt": problem.code_prefix,
        "entry_point": entry_point,
        "canonical_solution": problem.references[0] if problem.references else "",
        "test": ast.unparse(syntax_tree("\n".join(test_module))) + "\n",
    }


def _does_not_split(test: Test) -> bool:
    """Whether it is a test function that did not split, rather than one assert with the names it uses."""
    if not isinstance(test, CheckTest):
        return False
    check = syntax_tree(test.source).body[-1]
    assert isinstance(check, ast.FunctionDef)
    return not all(isinstance(node, ast.Assert | ast.Import | ast.ImportFrom) for node in check.body)


def split_check(test: str, prompt: str, entry_point: str) -> tuple[Test, ...]:
    """The tests in `check(candidate)` of the function `entry_point`.

    Leading asserts become separate tests, in which local variables are replaced with their values. From the first other
    statement on, the rest is one `CheckTest`.

    Raises UnusableRowError if `test` does not define `check`, if it tests nothing, or if no program could pass it.
    """
    module, prompt_module = parse_module(test, "test"), parse_module(prompt, "prompt")
    check = check_function(module)
    if check is None:
        raise UnusableRowError("test: expected a function check(candidate)")
    helpers = [
        node for node in prompt_module.body if not (isinstance(node, ast.FunctionDef) and node.name == entry_point)
    ]
    refuse_broken_module(ast.Module([*helpers, *module.body], []), entry_point)
    # Statements that call `check` come from a harness.
    others = [node for node in module.body if node is not check and not _calls_check(node)]
    splitter = _Splitter(check, entry_point, helpers, others)
    for index, statement in enumerate(check.body):
        if not splitter.take(statement):
            splitter.take_rest(check.body[index:])
            break
    if not splitter.tests:
        raise UnusableRowError("test: check(candidate) tests nothing")
    return tuple(splitter.tests)


def _calls_check(node: ast.stmt) -> bool:
    is_definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    return not is_definition and "check" in used_names(node)


class _Splitter:
    """Takes the statements of `check` one by one, as long as they are asserts or plain values for asserts.

    `helpers` are the prompt's other functions, `others` the rest of the test module.
    """

    def __init__(
        self, check: ast.FunctionDef, entry_point: str, helpers: list[ast.stmt], others: list[ast.stmt]
    ) -> None:
        self.tests: list[Test] = []
        self._check = check
        self._entry_point = entry_point
        self._surroundings = [*helpers, *others]
        self._preamble: list[ast.stmt] = []
        self._values: dict[str, ast.expr] = {}
        self._imports = [node for node in others if isinstance(node, ast.Import | ast.ImportFrom)]
        self._defined = {name for node in others if node not in self._imports for name in bound_names(node)}
        self._in_prompt = {name for node in helpers for name in bound_names(node)}
        self._program = {check.args.args[0].arg, entry_point, *self._defined}

    def take(self, statement: ast.stmt) -> bool:
        """Take a statement; False if nothing can be split off from here on."""
        match statement:
            case ast.Assert():
                return self._take_assert(statement)
            case ast.Expr(ast.Constant() | ast.Name()):
                return True  # a bare name or string does nothing
            case ast.Assign([ast.Name(name)], value) if self._is_value(value):
                self._values[name] = self._written_out(value)
            case ast.Import() | ast.ImportFrom():
                pass
            case _:
                return False
        self._preamble.append(statement)
        return True

    def take_rest(self, statements: list[ast.stmt]) -> None:
        """Make one test of statements, unless they cannot call the program (`print("ok")` at the end of a test)."""
        if used_names(ast.Module(statements, [])) & (self._program | self._in_prompt):
            self.tests.append(self._check_test([*self._preamble, *statements]))

    def _check_test(self, body: list[ast.stmt]) -> CheckTest:
        function = ast.FunctionDef("check", self._check.args, body, [], None, lineno=1, col_offset=0)
        module = ast.Module([*self._surroundings, function], [])
        return CheckTest(ast.unparse(ast.fix_missing_locations(module)), self._entry_point)

    def _take_assert(self, statement: ast.Assert) -> bool:
        if bound_names(statement.test) & self._values.keys():
            return False  # a local value and a comprehension's variable share a name
        condition = self._written_out(statement.test)
        names = used_names(condition) - bound_names(condition)
        needs_module = bool(names & self._defined)
        if self._entry_point not in names:
            return not needs_module  # a helper may call the function; anything else is a constant
        imports = [node for node in self._preamble if isinstance(node, ast.Import | ast.ImportFrom)]
        setup = "\n".join(map(ast.unparse, [*self._imports, *imports]))
        assertion = f"assert {ast.unparse(condition)}"
        self._refuse_unknown(names, setup, assertion)
        if needs_module:
            self.tests.append(self._check_test([*imports, ast.Assert(replaced(statement.test, self._values))]))
            return True
        scope = Scope.of(condition, setup, None)
        used = scope.imports_for(ast.Tuple([ast.Name(n, ast.Load()) for n in names - self._in_prompt]))
        classes = classes_in(assertion, [f"def {self._entry_point}(): pass"])
        split_assertion(assertion, used, classes)
        self.tests.append(AssertTest(assertion, used, classes))
        return True

    def _refuse_unknown(self, names: set[str], setup: str, assertion: str) -> None:
        scope = Scope.of(ast.Constant(None), setup, None)
        names = names - self._program - self._in_prompt - vars(builtins).keys()
        unknown = {name for name in names if scope.program_names(ast.Name(name, ast.Load()))}
        if unknown:
            raise UnusableRowError(f"test uses a name that nothing defines: {', '.join(sorted(unknown))}: {assertion}")

    def _is_value(self, value: ast.expr) -> bool:
        """Whether the value can replace its name everywhere: it is pure and does not come from the program."""
        return not any(
            isinstance(node, ast.Attribute) or (isinstance(node, ast.Name) and node.id in self._program)
            for node in ast.walk(value)
        )

    def _written_out(self, expression: ast.expr) -> ast.expr:
        candidate = self._check.args.args[0].arg
        return replaced(expression, {candidate: ast.Name(self._entry_point, ast.Load())} | self._values)
