"""A4: an assertion asks the program's own object, or the program's own names, for the truth.

Every claim is an assertion with programs that satisfy it and programs that only lie about it. MBPP's loader reads each
claim as a row, and HumanEval's loader reads it as part of a loop. A loader may refuse a claim. If it accepts the claim,
the verdicts must tell honest programs from liars, by Python's meaning of the assertion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rltf.problems import humaneval, mbpp
from rltf.problems.types import Problem


@dataclass(frozen=True, slots=True)
class Claim:
    """An assertion about `f`. `honest` programs satisfy it; `lies` do not, but pretend to.

    For `only_asserted` programs, Python's meaning does not carry over to a loop's second process (a generator, say).
    `true_of` names programs that know nothing and still satisfy it.
    """

    assertion: str
    honest: tuple[str, ...]
    lies: tuple[str, ...] = ()
    setup: str = ""
    only_asserted: tuple[str, ...] = ()
    true_of: tuple[str, ...] = ()

    def as_mbpp(self) -> Problem:
        """The assertion as a statement in an MBPP row."""
        row = {"task_id": 1, "text": "f", "code": self.honest[0], "test_list": [f"assert {self.assertion}"]}
        return mbpp.to_problem({**row, "test_setup_code": self.setup})

    def as_humaneval(self) -> Problem:
        """The assertion in a loop in a HumanEval row, which cannot be split into asserts."""
        condition = re.sub(r"\bf\b", "candidate", self.assertion)
        test = f"{self.setup}\ndef check(candidate):\n    for _ in range(2):\n        assert {condition}\n"
        prompt = 'def f(*x):\n    """Documented."""\n'
        return humaneval.to_problem({"task_id": "HumanEval/0", "prompt": prompt, "entry_point": "f", "test": test})


_RETURNS = "def f(*a): return "
CLAIMS = (
    Claim(
        "f(5).startswith('ab')",
        (_RETURNS + "'abc'",),
        ("class S(str):\n  startswith = lambda *a: True\n" + _RETURNS + "S('zz')",),
    ),
    Claim("f(5).__eq__(25)", (_RETURNS + "25",), (_RETURNS + "object()", _RETURNS + "'25'")),
    Claim(
        "f(5).isdigit() == True",
        (_RETURNS + "'25'",),
        ("class S(str):\n  isdigit = lambda s: True\n" + _RETURNS + "S('zz')",),
    ),
    Claim(
        "f(5).upper() == 'AB'",
        (_RETURNS + "'ab'",),
        ("class S(str):\n  upper = lambda s: 'AB'\n" + _RETURNS + "S('zz')",),
    ),
    Claim(
        "f(5).count(1) == 2",
        (_RETURNS + "[1, 3, 1]",),
        ("class S(list):\n  count = lambda *a: 2\n" + _RETURNS + "S()",),
    ),
    Claim("f(5).get(1) == 2", (_RETURNS + "{1: 2}",), ("class S(dict):\n  get = lambda *a: 2\n" + _RETURNS + "S()",)),
    Claim(
        "f(5)[0] == 7",
        (_RETURNS + "[7, 8]",),
        ("class S(list):\n  __getitem__ = lambda *a: 7\n" + _RETURNS + "S([1])",),
    ),
    Claim("f(5).real == 7", (_RETURNS + "7",), ("class S(int):\n  real = 7\n" + _RETURNS + "S(1)",)),
    Claim(
        "len(f(5)) == 4",
        (
            _RETURNS + "[1, 2, 3, 4]",
            _RETURNS + "'abcd'",
            "def helper(x): return len(x)\n" + _RETURNS + "'a' * helper([0] * 4)",
        ),
        (
            "class S:\n  __len__ = lambda s: 4\n" + _RETURNS + "S()",
            "class S(list):\n  __len__ = lambda s: 4\n" + _RETURNS + "S()",
            "len = lambda x: 4\n" + _RETURNS + "[]",
            "import builtins\ndef f(*a):\n  builtins.len = lambda x: 4\n  return []",
        ),
    ),
    Claim(
        "sorted(f([3, 1, 2])) == [1, 2, 3]",
        ("def f(x): return x[::-1]", "def f(x): return sorted(x)", "def f(x): return set(x)"),
        (
            "sorted = lambda *a, **k: [1, 2, 3]\n" + _RETURNS + "[]",
            "import builtins\nbuiltins.sorted = lambda *a, **k: [1, 2, 3]\n" + _RETURNS + "[]",
            "class S(list):\n  __iter__ = lambda s: iter([1, 2, 3])\n" + _RETURNS + "S([9])",
            "def f(x):\n  global sorted\n  sorted = lambda y: [1, 2, 3]\n  return 0",
        ),
        only_asserted=("def f(x): yield from x",),
    ),
    Claim(
        "set(f([1, 1, 2])) == {1, 2}",
        ("def f(x): return x", "def f(x): return tuple(x)", "def f(x): return dict.fromkeys(x)"),
        (
            "_set = set\nset = lambda *a: _set((1, 2))\n" + _RETURNS + "0",
            "class set(set):\n  def __init__(self, *a): super().__init__((1, 2))\n" + _RETURNS + "[]",
            "import builtins\nkept = set\nbuiltins.set = lambda *a: kept((1, 2))\n" + _RETURNS + "[]",
            _RETURNS + "[1, 2, 3]",
        ),
    ),
    Claim("set(f([1, 1, 2])) == set((1, 2))", ("def f(x): return x",), ("set = frozenset\n" + _RETURNS + "[1]",)),
    Claim("tuple(f(3)) == (0, 1)", (_RETURNS + "[0, 1]",), ("tuple = lambda x: (0, 1)\n" + _RETURNS + "0",)),
    Claim(
        "list(f(3)) == [0, 1, 2]",
        ("def f(n): return list(range(n))", "def f(n): return range(n)"),
        ("list = lambda x: [0, 1, 2]\n" + _RETURNS + "0",),
        only_asserted=("def f(n): yield from range(n)", "def f(n): return iter([0, 1, 2])"),
    ),
    Claim("sum(f(3)) == 6", (_RETURNS + "[1, 2, 3]",), ("sum = lambda x: 6\n" + _RETURNS + "0",)),
    Claim("max(f(3)) == 6", (_RETURNS + "[1, 6, 3]",), ("max = lambda x: 6\n" + _RETURNS + "0",)),
    Claim(
        "round(f(3), 2) == 1.57",
        (_RETURNS + "1.5708",),
        (
            "class S(float):\n  __round__ = lambda *a: 1.57\n" + _RETURNS + "S()",
            "round = lambda *a: 1.57\n" + _RETURNS + "0",
        ),
    ),
    Claim(
        "int(f(3)) == 3",
        (_RETURNS + "3.7", _RETURNS + "'3'"),
        ("class S:\n  __int__ = lambda s: 3\n" + _RETURNS + "S()",),
    ),
    Claim(
        "str(f(3)) == '[1, 2]'",
        (_RETURNS + "[1, 2]",),
        (
            "class S:\n  __str__ = lambda s: '[1, 2]'\n" + _RETURNS + "S()",
            "str = lambda x: '[1, 2]'\n" + _RETURNS + "0",
        ),
    ),
    Claim(
        "repr(f(3)) == \"'ab'\"",
        (_RETURNS + "'ab'",),
        ("class S:\n  __repr__ = lambda s: \"'ab'\"\n" + _RETURNS + "S()",),
    ),
    Claim(
        "type(f(3)) == list",
        (_RETURNS + "[1]",),
        (
            _RETURNS + "(1,)",
            "type = lambda x: list\n" + _RETURNS + "(1,)",
        ),
        # An instance of a class that the program defines crosses as the plain value that it holds.
        true_of=("a list for which all is true",),
    ),
    Claim(
        "type(f(3)) is int",
        (_RETURNS + "3",),
        (_RETURNS + "True", "type = lambda x: int\n" + _RETURNS + "3.5"),
        true_of=("a int for which all is true",),
    ),
    Claim(
        "isinstance(f(3), list)",
        (_RETURNS + "[1]",),
        (
            "class S:\n  __class__ = list\n" + _RETURNS + "S()",
            "isinstance = lambda *a: True\n" + _RETURNS + "0",
            _RETURNS + "(1,)",
        ),
        true_of=("a list for which all is true",),
    ),
    Claim(
        "abs(f(2) - 0.5) < 1e-6",
        (_RETURNS + "0.5",),
        ("abs = lambda x: 0\n" + _RETURNS + "3", "class S:\n  __sub__ = lambda *a: 0\n" + _RETURNS + "S()"),
    ),
    Claim(
        "math.isclose(f(2), 0.5, rel_tol=1e-6)",
        (_RETURNS + "0.5",),
        ("import math\nmath.isclose = lambda *a, **k: True\n" + _RETURNS + "3",),
        "import math",
    ),
    Claim(
        "isclose(f(2), 0.5)",
        (_RETURNS + "0.5",),
        ("isclose = lambda *a, **k: True\n" + _RETURNS + "3",),
        "from math import isclose",
    ),
    Claim(
        "all(f(x) > 10 ** 9 for x in (1, 2, 3))",
        (_RETURNS + "10 ** 10",),
        ("class S(int):\n  __gt__ = lambda *a: True\n" + _RETURNS + "S(1)", "all = lambda x: True\n" + _RETURNS + "0"),
    ),
    Claim(
        "all(x == y for x, y in zip(map(f, [1, 2]), [1, 4]))",
        ("def f(x): return x * x",),
        ("zip = lambda *a: []\n" + _RETURNS + "0",),
    ),
    Claim(
        "all(map(lambda x: f(x) == x * x, [1, 2]))",
        ("def f(x): return x * x",),
        ("map = lambda *a: []\n" + _RETURNS + "0",),
    ),
    Claim(
        "list(map(f, [1, 2])) == [1, 4]", ("def f(x): return x * x",), ("map = lambda *a: [1, 4]\n" + _RETURNS + "0",)
    ),
    Claim("[f(x) for x in (1, 2)] == [1, 4]", ("def f(x): return x * x",)),
    Claim(
        "next(f(x) == 4 for x in (2, 3))", ("def f(x): return x * x",), ("next = lambda *a: True\n" + _RETURNS + "0",)
    ),
    Claim(
        "not any(f(x) != x * x for x in (1, 2))",
        ("def f(x): return x * x",),
        ("any = lambda *a: False\n" + _RETURNS + "0",),
    ),
    Claim(
        "f(1) + f(2) == 3", ("def f(x): return x",), ("class S(int):\n  __add__ = lambda *a: 3\n" + _RETURNS + "S()",)
    ),
    Claim("f(1) == [1, 2] and f(2) == [2, 3]", ("def f(x): return [x, x + 1]",)),
    Claim(
        "7 in f(1)",
        (_RETURNS + "[7]",),
        (
            "class S(list):\n  __contains__ = lambda *a: True\n" + _RETURNS + "S()",
            "class S:\n  __contains__ = lambda *a: True\n" + _RETURNS + "S()",
        ),
    ),
    Claim(
        "f(1) in (7, 8)",
        (_RETURNS + "7",),
        ("class S(int):\n  __eq__ = lambda *a: True\n  __hash__ = lambda s: 7\n" + _RETURNS + "S(1)",),
    ),
    Claim("f(1) is True", (_RETURNS + "True",), (_RETURNS + "1", "class S(int): pass\n" + _RETURNS + "S(1)")),
    Claim(
        "f(1) > 10 ** 9", (_RETURNS + "10 ** 10",), ("class S(int):\n  __gt__ = lambda *a: True\n" + _RETURNS + "S(1)",)
    ),
    Claim(
        "''.join(f('ab')) == 'ba'",
        ("def f(x): return x[::-1]",),
        ("class S(str):\n  __iter__ = lambda s: iter('ba')\n" + _RETURNS + "S('zz')",),
    ),
    # What equals what, by Python's rules for these types.
    Claim(
        "f(1) == OrderedDict([(1, 2), (3, 4)])",
        (
            "from collections import OrderedDict\n" + _RETURNS + "OrderedDict([(1, 2), (3, 4)])",
            _RETURNS + "{3: 4, 1: 2}",
        ),
        ("from collections import OrderedDict\n" + _RETURNS + "OrderedDict([(3, 4), (1, 2)])",),
        "from collections import OrderedDict",
    ),
    Claim(
        "f('aab') == Counter({'a': 2, 'b': 1})",
        ("from collections import Counter\n" + _RETURNS + "Counter('aab')", _RETURNS + "{'a': 2, 'b': 1}"),
        (_RETURNS + "[('a', 2), ('b', 1)]",),
        "from collections import Counter",
    ),
    Claim(
        "f([1, 2]) == deque([1, 2])",
        ("from collections import deque\n" + _RETURNS + "deque([1, 2])",),
        (_RETURNS + "[1, 2]", _RETURNS + "(1, 2)"),
        "from collections import deque",
    ),
    Claim(
        "f({1: 2}) == {1: 2}.keys()",
        ("def f(x): return x.keys()", _RETURNS + "{1}"),
        (_RETURNS + "[1]", "def f(x): return list(x)"),
    ),
    Claim("f({1: 2}) == {1: 2}.items()", ("def f(x): return x.items()",), (_RETURNS + "[(1, 2)]", _RETURNS + "{1: 2}")),
    Claim(
        "f(1) == [2]",
        (_RETURNS + "[2]",),
        (
            "from collections import deque\n" + _RETURNS + "deque([2])",
            _RETURNS + "(2,)",
            _RETURNS + "{2}",
            _RETURNS + "{2: 2}.keys()",
            "def f(x): yield 2",
        ),
    ),
    Claim(
        "f(1) == (1, 2)",
        (_RETURNS + "(1, 2)", "from collections import namedtuple\n" + _RETURNS + "namedtuple('P', 'x y')(1, 2)"),
        (_RETURNS + "[1, 2]",),
    ),
    Claim(
        "f(1) == {1: [2]}",
        (
            "from collections import defaultdict\nd = defaultdict(list)\nd[1].append(2)\n" + _RETURNS + "d",
            _RETURNS + "{1: [2]}",
        ),
        (_RETURNS + "[(1, [2])]",),
    ),
    Claim("f(1) == range(3)", (_RETURNS + "range(3)",), (_RETURNS + "[0, 1, 2]",)),
    Claim(
        "f(1, 2) == Fraction(1, 2)",
        ("from fractions import Fraction\n" + _RETURNS + "Fraction(1, 2)", _RETURNS + "0.5"),
        ("from fractions import Fraction\nclass F(Fraction): pass\n" + _RETURNS + "F(1, 3)", _RETURNS + "'1/2'"),
        "from fractions import Fraction",
    ),
    Claim(
        "f(1) == Decimal('0.1')",
        ("from decimal import Decimal\n" + _RETURNS + "Decimal('0.10')",),
        (_RETURNS + "0.1", _RETURNS + "'0.1'"),
        "from decimal import Decimal",
    ),
    Claim(
        "f('a') == Path('a')",
        ("from pathlib import Path\n" + _RETURNS + "Path('a')",),
        (_RETURNS + "'a'",),
        "from pathlib import Path",
    ),
    Claim(
        "f(1) == datetime.date(2024, 2, 29)",
        ("import datetime\n" + _RETURNS + "datetime.date(2024, 2, 29)",),
        ("import datetime\n" + _RETURNS + "datetime.datetime(2024, 2, 29)", _RETURNS + "'2024-02-29'"),
        "import datetime",
    ),
    Claim(
        "f(1, 2) == Point(1, 2)",
        (
            "from dataclasses import dataclass\n@dataclass\nclass Point:\n  x: int\n  y: int\n"
            "def f(x, y): return Point(x, y)",
        ),
        ("class Point:\n  def __init__(self, *a): pass\n  __eq__ = lambda *a: True\ndef f(x, y): return 0",),
    ),
    Claim(
        "f(1) == f(1).__class__((3, 4))",
        (_RETURNS + "[3, 4]",),
        ("class S(list):\n  __eq__ = lambda *a: True\n" + _RETURNS + "S()",),
    ),
)

# Test functions whose expected value depends on an argument that the program may change.
_CHECKS = {
    "the sorted argument": (
        "xs = [3, 1, 2]",
        "candidate(xs) == sorted(xs)",
        "def f(x): return sorted(x)",
        ("def f(x):\n  x.clear()\n  return []", "def f(x):\n  x[:] = [0]\n  return [0]"),
    ),
    "the argument's length": (
        "xs = [3, 1, 2]",
        "candidate(xs) == len(xs)",
        "def f(x): return len(x)",
        ("def f(x):\n  x.clear()\n  return 0",),
    ),
    "the argument's sum": (
        "xs = [3, 1, 2]",
        "candidate(xs) == sum(xs)",
        "def f(x): return sum(x)",
        ("def f(x):\n  x.clear()\n  return 0",),
    ),
    "the dict's keys": (
        "xs = {1: 2}",
        "candidate(xs) == sorted(xs)",
        "def f(x): return sorted(x)",
        ("def f(x):\n  x.clear()\n  return []",),
    ),
    "what is in the set": (
        "xs = {1, 2}",
        "all(x in candidate(xs) for x in xs)",
        "def f(x): return list(x)",
        ("def f(x):\n  x.clear()\n  return []",),
    ),
    "nested arguments": (
        "xs = [[3, 1], [2]]",
        "candidate(xs) == [sorted(x) for x in xs]",
        "def f(x): return [sorted(y) for y in x]",
        ("def f(x):\n  x.clear()\n  return []", "def f(x):\n  for y in x: y.clear()\n  return [[], []]"),
    ),
    "the other argument": (
        "xs = [3, 1]\n        ys = [1, 3]",
        "candidate(xs, ys) == (xs == ys)",
        "def f(x, y): return x == y",
        ("def f(x, y):\n  x.clear()\n  y.clear()\n  return True",),
    ),
}
SHARED_ARGUMENTS = tuple(
    (
        name,
        humaneval.to_problem(
            {
                "task_id": "HumanEval/0",
                "prompt": 'def f(*x):\n    """Documented."""\n',
                "entry_point": "f",
                "test": f"def check(candidate):\n    for _ in range(2):\n        {values}\n"
                f"        assert {condition}\n",
            }
        ),
        honest,
        lies,
    )
    for name, (values, condition, honest, lies) in _CHECKS.items()
)
