"""The shapes of assertions, and assertions that are refused."""

from __future__ import annotations

import pytest

from rltf.problems.assertions import Closeness, Relation, Truth, classes_in, parse_assertion, split_assertion
from rltf.problems.checks import Check
from rltf.problems.types import UnusableRowError


def test_the_four_shapes() -> None:
    assert split_assertion("assert f(1) == 2") == Relation("f(1)", "==", "2", "")
    assert split_assertion("assert not f(1)") == Truth("f(1)", wanted=False)
    assert split_assertion("assert abs(f(1) - 2.0 / 4) < 0.1") == Closeness("f(1)", 0.5, 0.1, 0.0, strict=True)
    assert isinstance(split_assertion("assert f(1) + 1 == 3"), Check)


def test_answers_get_the_imports_they_need() -> None:
    shape = split_assertion("assert f(1) == sys.getsizeof(ss.mean([1, sqrt(4)]))", "import statistics as ss")
    assert isinstance(shape, Relation)
    assert set(shape.imports.split("\n")) == {"import sys", "import statistics as ss", "from math import sqrt"}


def test_names_bound_inside_do_not_belong_to_the_program() -> None:
    shape = split_assertion("assert f(3) == [i for i in range(3)]")
    assert shape == Relation("f(3)", "==", "[i for i in range(3)]", "")
    assert isinstance(split_assertion("assert f(3) == sorted([2, 1], key=lambda x: x)"), Relation)


@pytest.mark.parametrize(
    ("assertion", "reason"),
    [
        ("f(1) == 2", "single assert"),
        ("assert f(1) == 1; assert f(2) == 2", "single assert"),
        ("assert f(1 == 2", "not Python"),
        ("assert True", "calls nothing"),
        ("assert x == 2", "calls nothing"),
        ("assert f(1) == Node(2)", r"`Node\(2\)`, an object of the program"),
        ("assert Node(1) == Node(1)", "an object of the program"),
        ("assert isinstance(f(1), Node)", "an object of the program"),
        ("assert f(1).val == 2", "for `.val`, which no plain value has"),
        ("assert f('a1').group() == '1'", "for `.group`"),
        ("assert f(1).next.val == 2", "for `.(next|val)`"),
        ("assert all(p.x for p in f(1))", "for `.x`"),
        ("assert f('\0')", "not Python"),
    ],
)
def test_refused_assertions(assertion: str, reason: str) -> None:
    with pytest.raises(UnusableRowError, match=reason):
        split_assertion(assertion)


def test_setup_that_cannot_run_is_refused() -> None:
    with pytest.raises(UnusableRowError, match="setup code"):
        split_assertion("assert f(1) == 2", "root = ")


def test_the_setup_runs_with_the_program() -> None:
    shape = split_assertion("assert f(root) + 1 == 3", "root = Node(1)")
    assert isinstance(shape, Check)
    assert shape.entry_point == "_value0\nroot = Node(1)\n_value0 = lambda : f(root)\n"
    assert "root" not in shape.source


@pytest.mark.parametrize(
    ("assertion", "classes", "kind"),
    [
        ("assert Point(1, 2).x == 1", None, Relation),
        ("assert str(Point(1, 2)) == '1,2'", None, Relation),
        ("assert len(Stack()) == 0", None, Relation),
        ("assert isinstance(Point(1, 2), Point)", None, Truth),
        ("assert Solution().add(1, 2) == 3", None, Relation),
        ("assert Solution().add(1, 2)[0] == 3", None, Check),
        ("assert Solution().find('a').startswith('b')", None, Check),
        ("assert f(Point(1, 2)) == 3", None, Relation),
        ("assert f(1)(2) == 3", None, Relation),
        ("assert Extract('a').startswith('b')", (), Check),
        ("assert stack(1).top() == 2", ("stack",), Relation),
        ("assert stack(1).startswith('b')", (), Check),
        ("assert sum([1, 2]) == 4", None, Relation),
        ("assert math(1) == 2", None, Relation),
    ],
)
def test_only_classes_are_asked_in_the_programs_process(
    assertion: str, classes: tuple[str, ...] | None, kind: type
) -> None:
    assert type(split_assertion(assertion, "", classes)) is kind


def test_classes_are_known_from_reference_programs() -> None:
    assert classes_in("assert Extract(1) == 2", ["def Extract(x): ..."]) == ()
    assert classes_in("assert stack(1) == 2", ["class stack: ..."]) == ("stack",)
    assert classes_in("assert Stack(1) == 2", ["class Stack: ..."]) is None
    assert classes_in("assert Extract(1) == 2", []) is None
    assert classes_in("assert f(1) == 2", ["not python"]) is None


def test_a_condition_comes_back_parsed() -> None:
    assert parse_assertion("assert f(1), 'message'\n").lineno == 1
