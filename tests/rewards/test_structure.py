"""The structure match: the values of CodeBLEU, rules, and hostile programs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rltf.rewards import dataflow, structure
from rltf.rewards.lines import MAX_CHARACTERS
from rltf.rewards.structure import MAX_DEPTH, MAX_REFERENCES, StructureMatch, ast_match, dataflow_match, structure_match
from tests.rewards.structure_pairs import PAIRS, Pair

ROOT = Path(__file__).parents[2]
N = MAX_CHARACTERS - 1_000
PROGRAMS = sorted({program for pair in PAIRS.values() for program in (pair.reference, pair.candidate)})
WITHOUT_FLOW = ["print(1)\n", "def f():\n    pass\n", "def f(:\n    pass\n"]

# {0} to {3} are names of the program's own.
TEMPLATES = [
    "def {0}({1}, {2}=1):\n    {3} = {1} + {2} + {1}\n    return {3}\n",
    "{0} = 1\nfor {1} in range({0}):\n    {0}, {2} = {2}, {0} + {1}\nelse:\n    {3} = {2}\nprint({3})\n",
    "if {0}:\n    {1} = {0}\nelif {2}:\n    {1} = {2}\n{3} = [{1} for {1} in {2} if {0}]\nprint({3}, {1})\n",
    "while {0}:\n    {1}[{2}] += {3}.{0}\n    {0} = {1}, {2}, {3}\n",
]
NAMES = ["a", "zeta", "identifier", "integer", "block", "var_0", "_", "é", "string", "L1"]


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_values_of_codebleu(pair: Pair) -> None:
    assert ast_match(pair.candidate, pair.reference) == pytest.approx(pair.ast)
    assert dataflow_match(pair.candidate, pair.reference) == pytest.approx(pair.dataflow)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_matches_itself(program: str) -> None:
    assert ast_match(program, program) == 1
    assert dataflow_match(program, program) == (0 if program in WITHOUT_FLOW else 1)


@given(st.sampled_from(TEMPLATES), st.permutations(NAMES))
def test_renaming_variables_changes_nothing(template: str, names: list[str]) -> None:
    original, renamed = template.format("p", "q", "r", "s"), template.format(*names)
    assert structure_match(renamed, [original]) == StructureMatch(1, 1)
    assert dataflow_match(original, renamed) == 1


PIECES = [
    "x = 1\n",
    "é",
    "\0",
    "\ud800",
    "\n",
    "'",
    "(",
    "[",
    "if",
    "else",
    "for",
    "in",
    "lambda",
    "=",
    ":",
    "not",
    "a",
    "b",
]


@given(st.lists(st.sampled_from(PIECES)), st.sampled_from(PROGRAMS))
@settings(deadline=None)
def test_any_text_has_a_match(pieces: list[str], program: str) -> None:
    text = " ".join(pieces)
    for match in (structure_match(text, [program]), structure_match(program, [text])):
        assert 0 <= match.ast <= 1
        assert 0 <= match.dataflow <= 1
    assert ast_match(text, text) == 1


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        # The name in the second branch and the one before the `if` can both be what is printed.
        ("x = 1\nif c:\n    x = 2\nprint(x)\n", "x = 1\nif c:\n    x = 2\nelse:\n    x = 3\nprint(x)\n", 5 / 5),
        # The body of a loop's `else` is code like any other.
        ("for x in xs:\n    pass\nelse:\n    y = x\nprint(y)\n", "for x in xs:\n    y = x\nprint(y)\n", 1),
        # Names and literals are data, keywords and operators are not.
        ("x = not None and a\n", "x = None or a\n", 1),
        # A backslash at the end of a line is not part of the program.
        ("x = a + \\\n    b\nprint(x)\n", "x = a + b\nprint(x)\n", 1),
    ],
)
def test_data_flow(reference: str, candidate: str, expected: float) -> None:
    assert dataflow_match(candidate, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ("x = a + \\\n    b\n", "x = a + b\n"),
        ("def f():\n\tif a:  # why\n\t\treturn 1\n", "def f():\n    if a:\n        return 1\n"),
        ('"""Doc."""\nx = 1\n"""More."""\n', "x = 2\n"),
        ("x = 'ä'\n", 'x = "a"  # é\n'),
    ],
)
def test_layout_comments_and_strings_are_no_syntax(reference: str, candidate: str) -> None:
    assert ast_match(candidate, reference) == ast_match(reference, candidate) == 1


def test_the_best_of_the_first_references_counts() -> None:
    pair, other = PAIRS["shorter"], PAIRS["with and except"].reference
    best = structure_match(pair.candidate, [other, pair.reference, other])
    assert best == StructureMatch(pair.ast, pair.dataflow)
    assert best.total == pytest.approx(pair.ast + pair.dataflow)
    assert structure_match(other, [pair.reference] * MAX_REFERENCES + [other]).total < 2
    assert structure_match(other, []) == StructureMatch(0, 0)


@pytest.mark.slow
def test_the_hash_seed_does_not_matter() -> None:
    """Sets order names by their hash; with one, values of such pairs would differ from seed to seed."""
    code = (
        "from rltf.rewards.structure import structure_match\n"
        "from tests.rewards.test_structure import PROGRAMS, TEMPLATES\n"
        "programs = PROGRAMS + [t.format('one', 'two', 'three', 'four') for t in TEMPLATES]\n"
        "print([structure_match(a, [b]) for a in programs for b in programs])\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


LONG = {
    "statements": "x = 1\n" * (N // 6),
    "elif": "if x: pass\n" + "elif x: pass\n" * (N // 13),
    "tuple": "a," * (N // 2),
    "format": "x = '" + "{:" * 5_000 + "}" * 5_000 + "'.format(1)",
    "unknown characters": "?" * N,
    "null bytes": "x\0" * (N // 2),
    "surrogates": "x = '\ud800'\n" * (N // 9),
    "open": "(" * N,
    "closed": ")]}" * (N // 3),
    "comprehensions": "x for x in " * (N // 11),
}
TOO_COMPLEX = {
    "characters": "x" * (MAX_CHARACTERS + 1),
    "signs": "-" * N + "1",
    "attributes": "a" + ".a" * (N // 2),
    "sum": "+".join(["x"] * (N // 2)),
    "lambda": "lambda x:" * (N // 9) + "1",
    "blocks": "".join(" " * level + "if x:\n" for level in range(300)),
    "for": "".join(" " * level + "for x in y:\n" for level in range(30)) + " " * 30 + "x = y\n",
    "while": "".join(" " * level + "while x:\n" for level in range(30)) + " " * 30 + "x = y\n",
    "many from many": ",".join(["a"] * 12_000) + "=" + ",".join(["b"] * 12_001),
    "many names in branches": "".join(f"if x: v{n} = 1\n" for n in range(3_000)),
    "many branches with a name": "if x: v = 1\n" * 2_000 + "v;" * 12_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("program", LONG.values(), ids=LONG)
def test_long_programs_match_themselves(program: str) -> None:
    match = structure_match(program, [program])
    assert match.ast == 1
    assert match.dataflow in (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("program", TOO_COMPLEX.values(), ids=TOO_COMPLEX)
def test_what_is_too_complex_matches_nothing(program: str) -> None:
    assert structure_match(program, [program]) == StructureMatch(0, 0)


@pytest.mark.parametrize("form", ["a = ", "not ", "lambda x: ", "- "])
def test_the_depth_limit_fits_on_the_stack(form: str) -> None:
    """300 calls below the test, the deepest programs still work."""

    def below(calls: int, program: str) -> float:
        return below(calls - 1, program) if calls else ast_match(program, program)

    assert below(300, form * (MAX_DEPTH - 10) + "1\n") == 1
    assert below(300, form * (MAX_DEPTH + 10) + "1\n") == 0


def test_references_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    def count(root: dataflow.SyntaxNode, tokens: list[bytes]) -> Counter[dataflow.Edge]:
        parsed.append(root)
        return dataflow.data_flow(root, tokens)

    monkeypatch.setattr(structure, "data_flow", count)
    for candidate in ("a = 1\n", "b = 2\n", "c = 3\n"):
        structure_match(candidate, ["only_this_test = 1\n"])
    assert len(parsed) == 4
