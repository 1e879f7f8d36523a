"""Pairs of programs with the values that CodeBLEU's own code gives them (the package codebleu 0.7.0)."""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """Two programs and how much of the reference's structure the candidate has."""

    reference: str
    candidate: str
    ast: float
    dataflow: float


_ADD = "def f(a):\n    b = a + 1\n    return b\n"
_PRINT = "x = 1\ny = x\nprint(y)\n"
_TOTAL = """\
def total(values):
    result = 0
    for value in values:
        result += value
    return result
"""

PAIRS = {
    "shorter": Pair(_ADD, "def f(a):\n    return a + 1\n", 1 / 4, 2 / 5),
    "other names and operator": Pair(_ADD, "def g(x):\n    y = x - 1\n    return y\n", 1, 1),
    "almost nothing": Pair(_PRINT, "print(1)\n", 0, 0),
    "no bracket": Pair(_PRINT, "x = 1\ny = x\nprint(y\n", 1 / 2, 1),
    "no last line": Pair(_PRINT, "x = 1\ny = x\n", 1 / 2, 4 / 5),
    "no data flow": Pair("print(1)\n", "print(1)\n", 1, 0),
    "branches": Pair(
        """\
def sign(n):
    if n > 0:
        s = 1
    elif n < 0:
        s = -1
    else:
        s = 0
    return s
""",
        """\
def sign(n):
    s = 0
    if n > 0:
        s = 1
    if n < 0:
        s = -1
    return s
""",
        7 / 10,
        4 / 5,
    ),
    "for and while": Pair(
        _TOTAL,
        """\
def total(values):
    result = 0
    i = 0
    while i < len(values):
        result += values[i]
        i += 1
    return result
""",
        4 / 11,
        3 / 4,
    ),
    "for and no loop": Pair(_TOTAL, "def total(values):\n    return sum(values)\n", 1 / 11, 1 / 4),
    "comprehension": Pair(
        "def evens(xs):\n    return [x for x in xs if x % 2 == 0]\n",
        """\
def evens(xs):
    out = []
    for x in xs:
        if x % 2 == 0:
            out.append(x)
    return out
""",
        3 / 10,
        4 / 5,
    ),
    "swap": Pair(
        "a, b = 1, 2\na, b = b, a\nprint(a, b)\n", "a = 1\nb = 2\nt = a\na = b\nb = t\nprint(a, b)\n", 0.25, 0.9
    ),
    "unpacking": Pair("a, b = f(x)\nprint(a, b)\n", "a, b = f(x), x\nprint(a, b)\n", 2 / 3, 1 / 2),
    "default": Pair(
        "def power(base, exponent=2):\n    return base ** exponent\n",
        "def power(base, exponent):\n    return base ** exponent\n",
        3 / 7,
        3 / 5,
    ),
    "comments": Pair(
        'def f(a):\n    """Adds one."""\n    # really\n    return a + 1\n', "def f(b):\n    return b + 1\n", 1, 1
    ),
    "attributes": Pair(
        """\
class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)
""",
        """\
class Stack:
    def __init__(self, items=()):
        self.items = list(items)

    def push(self, item):
        self.items += [item]
""",
        2 / 9,
        2 / 7,
    ),
    "no colon": Pair(
        "def f(n):\n    while n > 1:\n        n = n // 2\n    return n\n",
        "def f(n):\n    while n > 1\n        n = n // 2\n    return n\n",
        1 / 11,
        2 / 3,
    ),
    "no bracket of a comprehension": Pair(
        "def f(n):\n    return [n for n in range(n)]\n", "def f(n):\n    return [n for n in range(n)\n", 4 / 9, 1
    ),
    "with and except": Pair(
        """\
try:
    with open(path) as file:
        text = file.read()
except OSError as error:
    text = str(error)
print(text)
""",
        "text = open(path).read()\nprint(text)\n",
        8 / 27,
        1 / 3,
    ),
    "lambda": Pair(
        "key = lambda pair: pair[1]\nprint(sorted(pairs, key=key))\n",
        "def key(pair):\n    return pair[1]\n\nprint(sorted(pairs, key=key))\n",
        7 / 12,
        1 / 2,
    ),
    "missing bracket": Pair("def f():\n    pass\n", "def f(:\n    pass\n", 2 / 5, 0),
    "else": Pair(
        "def f(x):\n    if c:\n        x = 1\n    return x\n",
        "def f(x):\n    if c:\n        x = 1\n    else:\n        x = 2\n    return x\n",
        5 / 9,
        1 / 4,
    ),
    "separate branches": Pair(
        "if a:\n    y = 1\nelif b:\n    x = 2\nelse:\n    z = x\n",
        "if a:\n    y = 1\nelif b:\n    x = 2\nz = x\n",
        9 / 13,
        5 / 6,
    ),
    "while and no loop": Pair("while c:\n    a = b\n    b = c\n", "a = b\nb = c\n", 4 / 7, 1 / 5),
    "second round of while": Pair(
        "while c:\n    a = b\n    b = 1\n", "for c in d:\n    a = b\n    b = 1\n", 5 / 7, 1 / 5
    ),
    "second round of for": Pair("for c in d:\n    a = b\n    b = 1\n", "a = b\nb = 1\n", 4 / 7, 1 / 6),
    "string": Pair("x = 'a b'\ny = x\n", "x = 1\ny = x\n", 1 / 3, 1),
}
