"""Training problems that a benchmark contains as well are found, others are not; `rltf decontaminate` writes both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.files import read_rows
from rltf.problems import Problem, StdinTest, load
from rltf.problems.command import main
from rltf.problems.contamination import MAX_PROBLEMS, Match, Overlap, find_overlaps, normalized_program, words_of
from tests.benchmark_files import benchmark, needs_data

PAIRS = "Given a list of integers and a target, return how many pairs of them add up to the target exactly once."
WORDS = st.lists(st.sampled_from(["a", "list", "of", "n", "integers", "is", "given"]), min_size=1)


def problem(task_id: str, statement: str, *references: str) -> Problem:
    return Problem(task_id, "jsonl", statement, (StdinTest("", "1"),), references)


def overlaps(train: str, benchmark: str, min_overlap: float = 0.8) -> list[Overlap]:
    return list(find_overlaps([problem("t", train)], {"bench": [problem("b", benchmark)]}, min_overlap))


def numbered(start: int, count: int) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


def test_thirteen_common_words_overlap_and_twelve_do_not() -> None:
    benchmark = numbered(0, 20)
    (found,) = overlaps(f"story {numbered(4, 13)} end", benchmark, min_overlap=0)
    assert (found.match, found.overlap, found.shared) == (Match.NGRAMS, 13 / 20, numbered(4, 13))
    assert found.row() == {
        "task_id": "t",
        "benchmark": "bench",
        "benchmark_task_id": "b",
        "match": "ngrams",
        "overlap": 0.65,
        "shared": numbered(4, 13),
    }
    assert not overlaps(f"story {numbered(4, 12)} end", benchmark, min_overlap=0)


def test_the_overlap_is_the_share_of_the_benchmarks_words() -> None:
    story = numbered(100, 200)
    assert overlaps(f"{story} {numbered(0, 16)}", numbered(0, 20))[0].overlap == 0.8
    assert not overlaps(f"{story} {numbered(0, 15)}", numbered(0, 20))
    (two_runs,) = overlaps(f"{numbered(0, 14)} {story} {numbered(15, 13)}", numbered(0, 30))
    assert (two_runs.overlap, two_runs.shared) == (27 / 30, numbered(0, 14))


def test_short_statements_overlap_only_if_they_are_the_same() -> None:
    assert overlaps("add two  numbers", "Add two numbers.")[0].match is Match.STATEMENT
    assert not overlaps("First add two numbers.", "Add two numbers.", min_overlap=0)
    assert not overlaps("Add three numbers.", "Add two numbers.", min_overlap=0)


def test_boilerplate_of_a_benchmark_does_not_count() -> None:
    """What more than 10 of its problems contain says nothing; a copy is still found, by the rest of its statement."""
    boilerplate = numbered(0, 40)
    many = [problem(f"b{n}", f"{boilerplate} {numbered(1000 * n, 15)}") for n in range(1, MAX_PROBLEMS + 2)]
    train = [problem("other", f"{boilerplate} and something else"), problem("copy", f"Hello! {many[3].statement}")]
    (found,) = find_overlaps(train, {"bench": many}, 0)
    assert (found.train.task_id, found.problem.task_id, found.overlap) == ("copy", "b4", 1.0)
    assert len(find_overlaps(train, {"bench": many[1:]}, 0)) == 2 * MAX_PROBLEMS
    same = [problem(f"b{n}", boilerplate) for n in range(MAX_PROBLEMS + 1)]
    assert len(find_overlaps([problem("t", boilerplate.upper())], {"bench": same}, 0.8)) == len(same)


def test_latex_is_blank() -> None:
    plain = "You get n numbers a_1, ..., a_n (1 ≤ n ≤ 10^5). Print the sum of all numbers that are even."
    latex = (
        r"You get $n$ numbers~$a_{1},\,\ldots\,, a_n$ ($1 \le n \leq 10^{5}$).\quad Print the *sum* of all numbers "
        "that are\n**even**."
    )
    assert overlaps(latex, plain)[0].match is Match.STATEMENT
    assert words_of(latex) == words_of(plain)


FORMATS: tuple[Callable[[str], str], ...] = (
    str.upper,
    str.title,
    lambda text: text.replace(" ", "\n  "),
    lambda text: text.replace(" ", ", ") + "!",
    lambda text: " ".join(f"**{word}**" for word in text.split()),
    lambda text: text.replace(" ", r" \, "),
    lambda text: f"\\begin {text} \\end",
)


@given(WORDS, WORDS, st.sampled_from(FORMATS), st.sampled_from(FORMATS), st.sampled_from((0, 0.5, 1)))
def test_formatting_changes_nothing(
    train: list[str], benchmark: list[str], one: Callable[[str], str], other: Callable[[str], str], min_overlap: float
) -> None:
    left, right = " ".join(train), " ".join(benchmark)
    expected = [(found.match, found.overlap) for found in overlaps(left, right, min_overlap)]
    formatted = overlaps(one(left), other(right), min_overlap)
    assert [(found.match, found.overlap) for found in formatted] == expected


@given(WORDS, WORDS, WORDS)
def test_a_statement_matches_itself_and_what_contains_it(words: list[str], before: list[str], after: list[str]) -> None:
    statement = " ".join(words)
    (itself,) = overlaps(statement, statement, min_overlap=1)
    assert (itself.match, itself.overlap, itself.shared) == (Match.STATEMENT, 1.0, statement)
    if len(words) >= 13:
        assert overlaps(" ".join([*before, *words, *after]), statement, min_overlap=1)[0].overlap == 1.0


@given(WORDS, WORDS)
def test_a_lower_threshold_finds_no_fewer(train: list[str], benchmark: list[str]) -> None:
    found = [bool(overlaps(" ".join(train), " ".join(benchmark), share)) for share in (1, 0.8, 0.3, 0)]
    assert found == sorted(found)


HARMONIC = """def harmonic_sum(n):
    '''The sum of 1 / i.'''
    if n < 2: return 1  # the end
    return (1 / n + harmonic_sum(n - 1))
"""
SAME = 'def harmonic_sum( n ):\n    if n<2:\n        return 1\n\n    "another"\n    return 1/n+harmonic_sum(n-1)'


def test_the_same_reference_program_overlaps() -> None:
    train = [problem("t", "One.", "print(1)", SAME.replace('    "another"\n', "")), problem("u", "Two.", "x = (")]
    bench = {
        "bench": [problem("a", "Three.", "print(2)"), problem("b", "Four.", HARMONIC), problem("c", "5.", "x = (")]
    }
    (found,) = find_overlaps(train, bench, 0.8)
    assert (found.train.task_id, found.problem.task_id, found.match) == ("t", "b", Match.REFERENCE)
    assert found.shared == normalized_program(HARMONIC)
    assert "is like b of bench (the same reference program)" in str(found)
    assert not find_overlaps([problem("t", "One.", HARMONIC.replace("1 / n", "2 / n"))], bench, 0.8)


def test_references_that_continue_a_prompt_are_compared_as_whole_programs() -> None:
    prompt = 'def double(x):\n    """Double x."""\n'
    continued = Problem("b", "humaneval", prompt, (), ("    return 2 * x\n",), code_prefix=prompt)
    whole = problem("t", "Return twice the number.", "def double(x):\n    return 2*x")
    (found,) = find_overlaps([whole], {"bench": [continued]}, 0.8)
    assert found.match is Match.REFERENCE


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    ("train", "against", "num_train", "some"),
    [
        # 704 and 248 have the same statement; 653 and 174 differ in blanks and one bracket.
        (
            "mbpp:{}/mbpp/mbpp.jsonl?split=train",
            "mbpp:{}/mbpp/mbpp.jsonl?split=test",
            7,
            {("704", "248"), ("653", "174")},
        ),
        ("mbpp:{}/mbpp/mbpp.jsonl", "humaneval:{}/humaneval/HumanEval.jsonl.gz", 0, set()),
        ("apps:{}/apps/train", "apps:{}/apps/test", 7, {("2000", "2000"), ("2012", "2012")}),
    ],
)
def test_overlaps_of_benchmarks(train: str, against: str, num_train: int, some: set[tuple[str, str]]) -> None:
    found = find_overlaps(benchmark(train).problems, {"bench": benchmark(against).problems}, 0.8)
    assert len({overlap.train.task_id for overlap in found}) == num_train
    assert {(overlap.train.task_id, overlap.problem.task_id) for overlap in found} >= some


def write(path: Path, **statements: str) -> str:
    rows = [
        {"task_id": task_id, "statement": statement, "tests": [{"stdin": "1", "expected": "2"}]}
        for task_id, statement in statements.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def run(tmp_path: Path, train: list[str], against: list[str], *options: str) -> int:
    arguments = ["--problems", *train, "--against", *against, "--output", str(tmp_path / "found.jsonl")]
    return main([*arguments, *options])


def test_the_command_writes_overlaps_and_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = [
        write(tmp_path / "a.jsonl", seen=PAIRS, new="Add numbers."),
        write(tmp_path / "b.jsonl", more="Sort them."),
    ]
    bench = write(tmp_path / "bench.jsonl", x=PAIRS.lower(), y="Something else.")
    kept = tmp_path / "kept.jsonl"
    assert run(tmp_path, train, [bench, f"{bench}[1:]"], "--kept", str(kept)) == 0
    said = capsys.readouterr().out
    assert "1 of 3 training problems overlap" in said
    assert f"1 with 1 of the 2 problems of {bench}\n" in said
    assert f"0 with 0 of the 1 problems of {bench}[1:]" in said
    (row,) = read_rows(tmp_path / "found.jsonl")
    assert (row["task_id"], row["benchmark"], row["benchmark_task_id"]) == ("seen", bench, "x")
    assert (row["match"], row["overlap"]) == ("statement", 1.0)
    assert [one.task_id for one in load(f"jsonl:{kept}").problems] == ["new", "more"]


def test_the_command_takes_a_threshold(tmp_path: Path) -> None:
    train, bench = write(tmp_path / "a.jsonl", t=numbered(0, 15)), write(tmp_path / "b.jsonl", b=numbered(0, 30))
    counts: list[Any] = []
    for share in ("0.6", "0.5"):
        assert run(tmp_path, [train], [bench], "--min-overlap", share) == 0
        counts.append(len(read_rows(tmp_path / "found.jsonl")))
    assert counts == [0, 1]


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (["jsonl:/nowhere.jsonl"], [], "no such file"),
        (["{a}", "{a}"], [], "task_id t is in two SPECs"),
        (["{a}"], ["--kept", "{folder}/kept.jsonl"], "every training problem overlaps"),
        (["{c}", "starter:train[:3]"], ["--kept", "{folder}/kept.jsonl"], "rows of one KIND"),
        (["starter:train[:3]"], ["--kept", "{folder}/kept.jsonl"], "starter problems have no row format"),
    ],
)
def test_unusable_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], train: list[str], options: list[str], message: str
) -> None:
    names = {
        "folder": str(tmp_path),
        "a": write(tmp_path / "a.jsonl", t=PAIRS),
        "c": write(tmp_path / "c.jsonl", u="Add numbers."),
    }
    filled = [[word.format(**names) for word in words] for words in (train, options)]
    assert run(tmp_path, filled[0], [names["a"]], *filled[1]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "found.jsonl").exists()


def test_a_threshold_is_a_share(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--min-overlap", "80"])
    assert "expected a number from 0 to 1, got '80'" in capsys.readouterr().err
