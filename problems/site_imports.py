"""The imports that problem sites put before a function, and that programs written for them leave out.

The names are those of LeetCode's and of the APPS harness, less those that would hide a builtin (`pow`).
"""

from __future__ import annotations

import ast

from problems.scope import bound_names, used_names

_MODULES = (
    "bisect", "collections", "copy", "datetime", "fractions", "functools", "heapq", "itertools", "json", "math",
    "operator", "random", "re", "statistics", "string", "sys", "time", "typing",
)  # fmt: skip
_MAX_CHARACTERS = 1 << 16
_NAMES = {
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
# `bisect` is a module and its main function: sites have `from bisect import *` behind `import bisect`.
_IMPORTS = {name: f"import {name}" for name in _MODULES} | {
    name: f"from {module} import {name}" for module, names in _NAMES.items() for name in names.split()
}


def site_imports(program: str) -> str:
    """The imports of the names that a program uses and nowhere defines; empty for text that is not Python.

    Also empty for a program that is longer than any site takes: looking through it would take seconds.
    """
    if len(program) > _MAX_CHARACTERS:
        return ""
    try:
        module = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    missing = used_names(module) - {name for node in module.body for name in _defined(node)}
    return "".join(f"{line}\n" for name, line in _IMPORTS.items() if name in missing)


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement of a module binds there."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    return bound_names(node)
