"""Which names in an assertion belong to the program, and which parts only the program's process can evaluate."""

from __future__ import annotations

import ast
import builtins
import copy
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from rltf.problems.syntax import syntax_tree
from rltf.problems.types import UnusableRowError

Tree = TypeVar("Tree", bound=ast.AST)
# Imports that problem sites put before a function, so programs written for them leave them out. The names are those of
# LeetCode and of the APPS harness, except those that would hide a builtin (`pow`).
_SITE_MODULES = (
    "bisect", "collections", "copy", "datetime", "fractions", "functools", "heapq", "itertools", "json", "math",
    "operator", "random", "re", "statistics", "string", "sys", "time", "typing",
)  # fmt: skip
_SITE_NAMES = {
    "typing": (
        "Any AnyStr Callable Dict FrozenSet Generator Generic Hashable Iterable Iterator Literal Mapping NamedTuple "
        "NoReturn Optional Sequence Set List Tuple Type TypeVar Union Deque DefaultDict"
    ),
    "collections": "ChainMap Counter OrderedDict UserDict defaultdict deque namedtuple",
    "functools": "cache cached_property cmp_to_key lru_cache partial reduce total_ordering wraps",
    "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
    "bisect": "bisect_left bisect_right insort insort_left insort_right",
    "itertools": (
        "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile filterfalse "
        "groupby islice pairwise permutations product repeat starmap takewhile tee zip_longest"
    ),
    "math": (
        "acos asin atan atan2 ceil comb copysign cos degrees dist e exp fabs factorial floor fmod fsum gcd hypot inf "
        "isclose isfinite isinf isnan isqrt lcm log log10 log1p log2 nan perm pi prod radians sin sqrt tan tau trunc"
    ),
    "operator": "add and_ itemgetter attrgetter methodcaller mul or_ sub truediv floordiv mod xor",
    "random": "choice choices randint randrange sample shuffle uniform",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits punctuation whitespace",
    "fractions": "Fraction",
    "decimal": "Decimal",
}
# `bisect` is a module and its main function: sites write `from bisect import *` after `import bisect`.
SITE_IMPORTS = {name: f"import {name}" for name in _SITE_MODULES} | {
    name: f"from {module} import {name}" for module, names in _SITE_NAMES.items() for name in names.split()
}
# Names that tests use without importing them, because the reference program happens to import them.
_FAMILIAR_NAMES = "Counter OrderedDict defaultdict deque Decimal Fraction inf isclose nan pi sqrt"
_FAMILIAR_IMPORTS = {name: SITE_IMPORTS[name] for name in _FAMILIAR_NAMES.split()}
# What tests put around a value. If an assertion uses builtins only, none of these is the function under test.
_WRAPPERS = frozenset(
    {"abs", "all", "any", "bool", "dict", "enumerate", "float", "frozenset", "int", "isclose", "isinstance", "iter"}
    | {"len", "list", "map", "max", "min", "next", "range", "round", "set", "sorted", "str", "sum", "tuple", "type"}
    | {"zip"}
)


@dataclass(frozen=True, slots=True)
class Scope:
    """Tells the program's names from those that mean the same everywhere.

    - `imports`: the setup's import statements, by the name they bind.
    - `objects`: names of classes and values that the setup made. Questions about them go to the program's own object.
    - `classes`: names of the program's classes. If they are unknown (None), every capitalized name stands for one.
    - `own`: common names (`sum`) that the program defines.
    - `bound`: names that the assertion itself gives a value.
    - `variables`: the `objects` that are not classes.
    """

    imports: dict[str, str]
    objects: frozenset[str] = frozenset()
    classes: frozenset[str] | None = None
    own: frozenset[str] = frozenset()
    bound: frozenset[str] = frozenset()
    variables: frozenset[str] = frozenset()

    @classmethod
    def of(cls, condition: ast.expr, setup: str, classes: Iterable[str] | None) -> Scope:
        """The scope of an assertion after its setup. Raises UnusableRowError if the setup is not Python."""
        module = parse_module(setup, "setup code")
        imports = _FAMILIAR_IMPORTS | {
            (alias.asname or alias.name).split(".")[0]: ast.unparse(node)
            for node in module.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        made: set[str] = set()
        defined: set[str] = set()
        for node in module.body:
            if isinstance(node, ast.ClassDef):
                defined.add(node.name)
            elif not isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef):
                made |= bound_names(node)
        known = None if classes is None else frozenset(classes)
        bound = frozenset(bound_names(condition))
        scope = cls(imports, frozenset(made | defined), known, bound=bound, variables=frozenset(made))
        return scope if scope.program_names(condition) else replace(scope, own=_shadowed(condition))

    def program_names(self, expression: ast.AST) -> set[str]:
        """The names that only the program, or the setup in its namespace, can define."""
        return {name for name in used_names(expression) if not self._is_common(name)}

    def _is_common(self, name: str) -> bool:
        if name in self.bound:
            return True
        if name in self.own or name in self.objects:
            return False
        return hasattr(builtins, name) or name in self.imports or name in sys.stdlib_module_names

    def imports_for(self, expression: ast.AST) -> str:
        """The import statements for the names in an expression."""
        names = sorted(used_names(expression) - self.own)
        lines = [
            self.imports.get(name) or (f"import {name}" if name in sys.stdlib_module_names else "") for name in names
        ]
        return "\n".join(line for line in lines if line)

    def missing_imports(self, expression: ast.AST, setup: str) -> str:
        """Imports for the names in an expression that neither the setup nor, when it runs, the program has imported.

        The program's own names stay: it may define its own `sqrt`.
        """
        free = used_names(expression) - bound_names(expression) - bound_names(syntax_tree(setup)) - self.own
        lines = {name: self.imports_for(ast.Name(name, ast.Load())) for name in sorted(free - vars(builtins).keys())}
        return "\n".join(f"try:\n    {name}\nexcept NameError:\n    {line}" for name, line in lines.items() if line)

    def is_object(self, name: str) -> bool:
        """Whether a program's name stands for a class, or for an object that the setup made."""
        return name in self.objects or (name[:1].isupper() if self.classes is None else name in self.classes)

    def is_direct(self, expression: ast.expr) -> bool:
        """Whether the program's process must evaluate it: it calls its functions or asks its objects something."""
        if any(isinstance(node, ast.NamedExpr) for node in ast.walk(expression)):
            return False
        if isinstance(expression, ast.Call) and self.program_names(expression):
            callee = expression.func
            is_function = bool(self.program_names(callee)) if isinstance(callee, ast.Name) else self.is_direct(callee)
            if is_function or self._is_solution_method(callee) or self._is_about_function(expression):
                return True
        return self._is_rooted(expression) or self._is_dotted(expression)

    def _is_about_function(self, call: ast.Call) -> bool:
        """`callable(f)`, which calls nothing, and `asyncio.run(f(1))`, whose coroutine cannot leave its process."""
        match call:
            case ast.Call(ast.Name("callable"), [ast.Name(name)], []):
                return name not in self.bound
            case ast.Call(ast.Attribute(ast.Name("asyncio"), "run"), [argument], []):
                return self.is_direct(argument)
        return False

    def _is_solution_method(self, expression: ast.expr) -> bool:
        """`Solution().method`: the way LeetCode writes a function. Its value counts as the value of a function."""
        match expression:
            case ast.Attribute(ast.Call(ast.Name("Solution"))):
                return True
        return False

    def _is_dotted(self, expression: ast.expr) -> bool:
        """`name.attribute` of a program's name, such as a function's cache."""
        match expression:
            case ast.Attribute(ast.Name() as name):
                return bool(self.program_names(name))
        return False

    def _is_rooted(self, expression: ast.expr) -> bool:
        """Whether it asks a class or an object something: `Point(1, 2).x`, `Point.of(1).x`, `str(Point(1, 2))`."""
        if isinstance(expression, ast.Name):
            return self.is_object(expression.id) and bool(self.program_names(expression))
        if isinstance(expression, ast.Attribute | ast.Subscript):
            return self._is_rooted(expression.value) and not self._is_solution_value(expression.value)
        if not isinstance(expression, ast.Call):
            return False
        if self._is_rooted(expression.func):
            return True
        arguments = [*expression.args, *(keyword.value for keyword in expression.keywords)]
        of_program = [argument for argument in arguments if self.program_names(argument)]
        is_asked = bool(of_program) and not self.program_names(expression.func)
        return is_asked and all(self._is_rooted(one) and not self._is_solution_value(one) for one in of_program)

    def _is_solution_value(self, expression: ast.expr) -> bool:
        return isinstance(expression, ast.Call) and self._is_solution_method(expression.func)

    def is_known_instance(self, expression: ast.expr) -> bool:
        """`is_instance`, but only if that is more than a guess from a capitalized name."""
        return self.is_instance(expression) and bool(used_names(expression) & (self.objects | (self.classes or set())))

    def is_instance(self, expression: ast.expr) -> bool:
        """Whether the value appears to be an object of one of the program's classes: `Point(1, 2)`."""
        return isinstance(expression, ast.Name) or (
            isinstance(expression, ast.Call)
            and isinstance(expression.func, ast.Name)
            and self.is_object(expression.func.id)
        )


def write_out_literals(condition: ast.expr, setup: str) -> tuple[ast.expr, str]:
    """Move literals that the setup only names (`expected = [1, 2]`) into the condition. Returns condition and setup.

    If they stayed in the setup, the program could read an answer or change an argument in its own namespace.
    """
    body = syntax_tree(setup).body
    free = used_names(condition) - bound_names(condition)
    literals: dict[str, ast.expr] = {}
    kept = list(body)
    for node in body:
        match node:
            case ast.Assign([ast.Name(name)], value) if name in free and is_literal(value):
                others = [other for other in body if other is not node]
                if not any(name in bound_names(other) | used_names(other) for other in others):
                    literals[name] = value
                    kept.remove(node)
    return (replaced(condition, literals), "\n".join(map(ast.unparse, kept))) if literals else (condition, setup)


def replaced(tree: Tree, values: Mapping[str, ast.expr]) -> Tree:
    """A copy of the tree in which expressions replace the names that are read."""

    class Replace(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return copy.deepcopy(values.get(node.id, node)) if isinstance(node.ctx, ast.Load) else node

    copied: Tree = Replace().visit(copy.deepcopy(tree))
    return ast.fix_missing_locations(copied)


def is_literal(expression: ast.expr) -> bool:
    """Whether the expression is a literal, including nested ones and `set()`."""
    try:
        ast.literal_eval(expression)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _shadowed(condition: ast.expr) -> frozenset[str]:
    """The common name that the program must have given its function, if the assertion uses no other names."""
    called = called_names(condition)
    likely = [name for name in called if name in sys.stdlib_module_names or name not in _WRAPPERS]
    return frozenset((likely or called)[:1])


def called_names(condition: ast.expr) -> list[str]:
    """The plain names that are called, outermost first (`int(f(1)) == 2`: `int`, `f`)."""
    return [
        node.func.id for node in ast.walk(condition) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]


def used_names(node: ast.AST) -> set[str]:
    """The names that are read."""
    return {
        found.id for found in ast.walk(node) if isinstance(found, ast.Name) and not isinstance(found.ctx, ast.Store)
    }


def bound_names(node: ast.AST) -> set[str]:
    """The names that get a value anywhere inside, in any scope."""
    names: set[str] = set()
    for found in ast.walk(node):
        match found:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {(alias.asname or alias.name).split(".")[0] for alias in aliases}
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
            case ast.Global(names=declared) | ast.Nonlocal(names=declared):
                names |= set(declared)
    return names


def parse_module(source: str, what: str) -> ast.Module:
    """The syntax tree of `source`. Raises UnusableRowError if it is not Python; the message starts with `what`."""
    try:
        return syntax_tree(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableRowError(f"{what} is not Python: {error}") from error


def imported_modules(source: str) -> set[str]:
    """The top-level modules that a test imports anywhere. Relative imports count as the module `.`.

    Raises UnusableRowError if it is not Python.
    """
    modules: set[str] = set()
    for node in ast.walk(parse_module(source, "test")):
        match node:
            case ast.Import(names=aliases):
                modules |= {alias.name.partition(".")[0] for alias in aliases}
            case ast.ImportFrom(module=module, level=level):
                modules.add("." if level or module is None else module.partition(".")[0])
    return modules
