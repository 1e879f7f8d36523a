"""Functions that lie about any assertion without knowing the right answer."""

from __future__ import annotations

# An object for which everything is true, and every operation gives what is asked for.
_LIAR = """
class Liar:
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = lambda self, *a: True
    __sub__ = __rsub__ = __add__ = __radd__ = __mul__ = __rmul__ = __abs__ = __round__ = lambda self, *a: self
    __getitem__ = __call__ = __neg__ = __truediv__ = __mod__ = lambda self, *a: self
    __hash__ = lambda self: 0
    __len__ = lambda self: 3
    __iter__ = lambda self: iter([self, self, self])
    __getattr__ = lambda self, name: lambda *a, **k: True
"""
_BASES = ("int", "float", "complex", "str", "bytes", "list", "tuple", "dict", "set", "frozenset")
_WRAPPERS = (
    "abs all any bool dict enumerate filter float frozenset int isinstance iter len list map max min next print range"
    " repr reversed round set sorted str sum tuple type zip"
)

# None of them knows an answer, so none satisfies a claim.
KNOWING_NOTHING = {
    "an object for which all is true": f"{_LIAR}\ndef f(*a): return Liar()",
    "an object that says it is a list": f"{_LIAR}\nLiar.__class__ = list\ndef f(*a): return Liar()",
    "a class for which all is true": f"{_LIAR}\nclass Meta(type): pass\nfor k, v in vars(Liar).items():\n"
    "  if callable(v) and k.startswith('__') and k not in ('__getattr__',): setattr(Meta, k, v)\n"
    "class C(metaclass=Meta): pass\ndef f(*a): return C",
    **{
        f"a {base} for which all is true": f"{_LIAR}\nclass S({base}):\n  pass\nfor k, v in list(vars(Liar).items()):\n"
        "  if callable(v): setattr(S, k, v)\n"
        "for k in dir(S):\n"
        "  if not k.startswith('_'): setattr(S, k, lambda *a, **k: True)\n"
        "def f(*a): return S()"
        for base in _BASES
    },
    "a number for which all differences are none": "class S(float):\n"
    "  __sub__ = __rsub__ = __abs__ = lambda self, *a: 0.0\n  __round__ = lambda self, *a: self\n"
    "def f(*a): return S('nan')",
    "own functions for those of the language": f"{_LIAR}\nfor name in '{_WRAPPERS}'.split():\n"
    "  globals()[name] = lambda *a, **k: Liar()\ndef f(*a): return None",
    "own functions among the builtins": f"import builtins\n{_LIAR}\ndef f(*a):\n  for name in '{_WRAPPERS}'.split():\n"
    "    setattr(builtins, name, lambda *a, **k: Liar())\n  return None",
    "own classes for those of the language": f"{_LIAR}\nfor name in '{_WRAPPERS}'.split():\n"
    "  globals()[name] = Liar\ndef f(*a): return None",
    "StopIteration": "def f(*a): raise StopIteration",
    "StopIteration of its own class": "class S(StopIteration): pass\ndef f(*a): raise S",
    "GeneratorExit": "def f(*a): raise GeneratorExit",
    "AssertionError": "def f(*a): raise AssertionError",
    "emptied arguments": "def f(*a):\n  for x in a:\n    if hasattr(x, 'clear'): x.clear()\n"
    "  return type(a[0])() if a and hasattr(a[0], 'clear') else None",
    "changed modules": "import math, operator, statistics\n"
    "math.isclose = math.fabs = math.sqrt = operator.eq = lambda *a, **k: True\n"
    "isclose = math.isclose\ndef f(*a): return 10 ** 6 + 0.25",
    "modules replaced": f"import sys\n{_LIAR}\nfor name in ('math', 'operator', 'collections', 'numpy', 're'):\n"
    "  sys.modules[name] = globals()[name] = Liar()\ndef f(*a): return None",
    "a Counter that is equal": "from collections import Counter\nCounter.__eq__ = lambda s, o: True\n"
    "Counter.__ne__ = lambda s, o: False\ndef f(*a): return Counter('zz')",
    "an OrderedDict that is equal": "from collections import OrderedDict\nclass D(OrderedDict):\n"
    "  __eq__ = lambda s, o: True\ndef f(*a): return D(z=9)",
    "a Fraction that is equal": "from fractions import Fraction\nFraction.__eq__ = lambda s, o: True\n"
    "Fraction.__sub__ = lambda s, o: 0\ndef f(*a): return Fraction(7, 9)",
    "a Decimal that is equal": "from decimal import Decimal\nclass D(Decimal):\n  __eq__ = lambda s, o: True\n"
    "  __str__ = lambda s: '0.5'\ndef f(*a): return D('77')",
    "a Path that is equal": "from pathlib import PurePath, Path\nPurePath.__eq__ = lambda s, o: True\n"
    "def f(*a): return Path('zz')",
    "a dataclass that is equal": "from dataclasses import dataclass\n@dataclass\nclass P:\n  x: int = 0\n"
    "  def __eq__(self, other): return True\ndef f(*a): return P()",
    "a date that is equal": "import datetime\nclass D(datetime.date):\n  __eq__ = lambda s, o: True\n"
    "def f(*a): return D(1, 1, 1)",
}
