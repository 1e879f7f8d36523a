"""SPECs, rows of every kind, and how unusable rows are reported."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rltf.errors import UserError
from rltf.problems import AssertTest, CallTest, Problem, StdinTest, describe_rejected, load
from rltf.problems.spec import parse_spec

MBPP_ROW = {"task_id": 601, "text": "Add.", "code": "def f(x):\r\n  return x", "test_list": ["assert f(1) == 1"]}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def mbpp_rows(num: int, first: int = 601) -> list[dict[str, Any]]:
    return [MBPP_ROW | {"task_id": first + i} for i in range(num)]


def ids(problems: tuple[Problem, ...]) -> list[str]:
    return [problem.task_id for problem in problems]


def write_apps(folder: Path, cases: Any, **files: str) -> None:
    folder.mkdir(parents=True)
    (folder / "question.txt").write_text("What?")
    (folder / "input_output.json").write_text(cases if isinstance(cases, str) else json.dumps(cases))
    for name, text in files.items():
        (folder / name.replace("_json", ".json").replace("_py", ".py")).write_text(text)


def test_specs_are_taken_apart() -> None:
    spec = parse_spec("apps:some/folder[1:2]?difficulty=interview[:-3]")
    assert (spec.kind, spec.path) == ("apps", "some/folder")
    assert spec.selections == (slice(1, 2), ("difficulty", "interview"), slice(None, -3))
    assert spec.value_of("difficulty") == "interview"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("starter:test", "starter-test"),
        ("mbpp:data/mbpp.jsonl?split=test[0:10]", "mbpp-test-0..10"),
        ("mbpp:google-research-datasets/mbpp", "mbpp"),
        ("mbpp:sanitized-mbpp.json", "mbpp-sanitized-mbpp"),
        ("humaneval:/data/HumanEval.jsonl.gz[:5]", "humaneval-0..5"),
        ("apps:APPS/test/?difficulty=interview[-3:]", "apps-test-interview--3..end"),
        ("taco:data/train-00000-of-00009.parquet[0:5]", "taco-train-00000-of-00009-0..5"),
        ("livecodebench:some/lite?version=release_v5&from=2024-08-01", "livecodebench-lite-release_v5-2024-08-01"),
        ("jsonl:../my problems?difficulty=a/../b", "jsonl-my_problems-a_.._b"),
    ],
)
def test_specs_have_names_for_folders(text: str, name: str) -> None:
    assert parse_spec(text).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mbp:x", "did you mean mbpp"),
        ("x.jsonl", "expected KIND:PATH"),
        ("mbpp:", "no PATH"),
        ("mbpp:x?dificulty=a", "did you mean difficulty"),
        ("mbpp:x?difficulty", "expected .difficulty=NAME"),
        ("starter:dev", "starter:pitfalls-train or starter:pitfalls-test"),
        ("mbpp:/nowhere/x.jsonl", "no such file"),
        ("apps:codeparrot/apps", "split=train"),
        ("starter:test?config=sanitized", "for data sets on the Hub"),
    ],
)
def test_unusable_specs(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(text)


def test_an_unreachable_hub_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"Hub cannot be reached|on the Hub"):
        load("humaneval:nobody/no-such-set-of-problems")


def test_hub_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses what `datasets` returns for MBPP, since tests cannot reach the Hub."""
    import datasets

    sanitized = {"task_id": 602, "prompt": "Add.", "code": "def f(x): return x", "test_imports": ["import math"]}
    rows = {
        None: {"train": [MBPP_ROW], "test": [MBPP_ROW | {"task_id": 11}]},
        "sanitized": {"train": [sanitized | {"test_list": ["assert math.isclose(f(1), 1)"]}]},
    }
    monkeypatch.setattr("rltf.problems.sources._check_hub", lambda hub_id: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, config: rows[config])
    assert ids(load("mbpp:some/mbpp").problems) == ["601", "11"]
    assert ids(load("mbpp:some/mbpp?split=test").problems) == ["11"]
    (problem,) = load("mbpp:some/mbpp?config=sanitized&split=train").problems
    assert (problem.statement, problem.tests[0]) == ("Add.", AssertTest("assert math.isclose(f(1), 1)", "import math"))


def test_slices_and_splits_apply_in_order(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "mbpp.jsonl", mbpp_rows(3, first=509) + mbpp_rows(3))
    assert ids(load(f"mbpp:{file}").problems) == ["509", "510", "511", "601", "602", "603"]
    assert ids(load(f"mbpp:{file}[1:4]").problems) == ["510", "511", "601"]
    assert ids(load(f"mbpp:{file}?split=train[1:]").problems) == ["602", "603"]
    assert ids(load(f"mbpp:{file}[3:5]?split=train").problems) == ["601", "602"]
    assert ids(load(f"mbpp:{file}?split=test").problems) == ["509", "510"]
    with pytest.raises(UserError, match="selects none of 6"):
        load(f"mbpp:{file}[6:]")
    with pytest.raises(UserError, match="did you mean train"):
        load(f"mbpp:{file}?split=trian")


def test_unusable_rows_are_reported_and_skipped(tmp_path: Path) -> None:
    rows = [
        MBPP_ROW,
        "{broken",
        "",
        MBPP_ROW,
        MBPP_ROW | {"task_id": 2, "test_list": []},
        MBPP_ROW | {"task_id": 3, "test_list": ["print(1)"]},
        MBPP_ROW | {"task_id": "x"},
        [1],
    ]
    file = write_lines(tmp_path / "mbpp.jsonl", rows)
    loaded = load(f"mbpp:{file}")
    assert ids(loaded.problems) == ["601"]
    assert [(row.line, row.task_id) for row in loaded.rejected] == [
        (2, None),
        (4, "601"),
        (5, "2"),
        (6, "3"),
        (7, None),
        (8, None),
    ]
    text = describe_rejected(loaded.rejected, limit=3)
    assert f"{file}:2: not JSON" in text
    assert "already" in text
    assert "test_list: no tests" in text
    assert "and 3 more" in text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"text": "two\tcolumns"}', "not JSON: Invalid control character at column 14"),
        ('{"text": "open', "not JSON: Unterminated string starting at column 10"),
        (r'{"text": "\d"}', r"not JSON: Invalid \escape at column 11"),
        ("{broken", "not JSON: Expecting property name enclosed in double quotes at column 2"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_what_is_wrong_and_where(row: str, said: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"mbpp{suffix}"
    listed = suffix == ".json"
    file.write_text(f"[{json.dumps(MBPP_ROW)},\n{row}]" if listed else f"{json.dumps(MBPP_ROW)}\n{row}")
    (rejected,) = load(f"mbpp:{file}").rejected
    assert rejected.line == 2
    assert rejected.reason == (said.replace(":", ", so the rest of the file is lost:") if listed else said)


def test_a_file_without_a_usable_row_is_an_error(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "mbpp.jsonl", ["{", "[]"])
    with pytest.raises(UserError, match=r"none of its 2 rows.*mbpp.jsonl:1: not JSON"):
        load(f"mbpp:{file}")
    with pytest.raises(UserError, match="none of its 0 rows"):
        load(f"mbpp:{write_lines(tmp_path / 'empty.jsonl', [])}")
    with pytest.raises(UserError, match=r"\.jsonl"):
        load(f"mbpp:{write_lines(tmp_path / 'rows.csv', [])}")
    (tmp_path / "bad.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match="cannot be read"):
        load(f"mbpp:{tmp_path / 'bad.jsonl.gz'}")


def test_compressed_lines_and_lists_are_read(tmp_path: Path) -> None:
    file = tmp_path / "mbpp.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(MBPP_ROW).encode()))
    assert load(f"mbpp:{file}").problems[0].references == ("def f(x):\n  return x",)
    rows = [MBPP_ROW, MBPP_ROW | {"task_id": 602, "test_list": ["assert"]}]
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1))
    loaded = load(f"mbpp:{tmp_path / 'list.json'}")
    assert ids(loaded.problems) == ["601"]
    line = loaded.rejected[0].line
    assert line is not None
    assert (tmp_path / "list.json").read_text().split("\n")[line - 1].strip() == "{"
    (tmp_path / "cut.json").write_text(json.dumps(rows, indent=1)[:-30])
    assert "rest of the file" in load(f"mbpp:{tmp_path / 'cut.json'}").rejected[0].reason


def test_apps_folders(tmp_path: Path) -> None:
    stdin = {"inputs": ["1\n", ["2", "3"]], "outputs": ["1\n", ["2", "3"]]}
    write_apps(tmp_path / "0000", stdin, metadata_json='{"difficulty": "interview"}', solutions_json='["a", "b"]')
    write_apps(tmp_path / "0001", {"fn_name": "f", "inputs": [[[1, 2]], [{"1": 2}]], "outputs": [[3], [{"4": 5}]]})
    write_apps(tmp_path / "0002", {"inputs": [], "outputs": []})
    write_apps(tmp_path / "0003", {"inputs": ["1"], "outputs": []})
    write_apps(tmp_path / "0004", '{"inputs":\n [1,, ]}')
    (tmp_path / "0005").mkdir()
    write_apps(tmp_path / "0006", {"inputs": ["1"], "outputs": ["\n"]})
    write_apps(tmp_path / "0007", {"fn_name": "f", "inputs": [[1]], "outputs": [None]})
    write_apps(tmp_path / "0008", {"fn_name": "f", "inputs": [1], "outputs": [1]})
    write_apps(tmp_path / "0009", stdin, solutions_json="[1]")
    loaded = load(f"apps:{tmp_path}")
    first, second = loaded.problems
    assert first.tests == (StdinTest("1\n", "1\n"), StdinTest("2\n3", "2\n3"))
    assert (first.difficulty, first.references) == ("interview", ("a", "b"))
    assert second.tests == (CallTest("f", ([1, 2],), [3], unwrap=True), CallTest("f", ({1: 2},), [{4: 5}], unwrap=True))
    reasons = {row.task_id: row.reason for row in loaded.rejected}
    assert list(reasons) == [f"000{i}" for i in range(2, 10)]
    assert "no tests" in reasons["0002"]
    assert "1 inputs but 0 outputs" in reasons["0003"]
    assert "question" in reasons["0005"]
    assert "blank" in reasons["0006"]
    assert "null" in reasons["0007"]
    assert "arguments" in reasons["0008"]
    assert "solutions" in reasons["0009"]
    broken = loaded.rejected[2]
    assert (broken.file, broken.line) == (str(tmp_path / "0004" / "input_output.json"), 2)
    assert ids(load(f"apps:{tmp_path}?difficulty=interview").problems) == ["0000"]
    with pytest.raises(UserError, match="difficulties: interview"):
        load(f"apps:{tmp_path}?difficulty=easy")
    with pytest.raises(UserError, match=f"did you mean {tmp_path}"):
        load(f"apps:{tmp_path.parent}")


def test_apps_rows_as_on_the_hub(tmp_path: Path) -> None:
    row = {
        "problem_id": 7,
        "question": "What?",
        "solutions": json.dumps(["print(1)"]),
        "input_output": json.dumps({"fn_name": "f", "inputs": [[1], [2]], "outputs": [[1], [1, 2]]}),
        "difficulty": "competition",
        "url": "",
        "starter_code": "def f(x):",
    }
    file = write_lines(tmp_path / "apps.jsonl", [row, row | {"problem_id": 8, "input_output": ""}])
    loaded = load(f"apps:{file}")
    (problem,) = loaded.problems
    assert (problem.task_id, problem.starter_code, problem.entry_point) == ("0007", "def f(x):", "f")
    assert problem.tests[0] == CallTest("f", (1,), [1], unwrap=False)
    assert str(loaded.rejected[0]) == f"{file}:2: problem 0008: input_output: no tests"


def test_integers_of_any_length_load(tmp_path: Path) -> None:
    digits = "7" * 20_001
    write_apps(tmp_path / "0000", f'{{"fn_name": "f", "inputs": [[-{digits}]], "outputs": [{digits}]}}')
    test = load(f"apps:{tmp_path}").problems[0].tests[0]
    assert isinstance(test, CallTest)
    assert test.expected == 7 * (10**20_001 - 1) // 9
    assert test.arguments[0] == -test.expected


def test_a_refused_problem_is_a_rejected_row(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "mbpp.jsonl", mbpp_rows(3))
    loaded = load(f"mbpp:{file}", lambda problem: "too odd" if problem.task_id == "602" else None)
    assert ids(loaded.problems) == ["601", "603"]
    assert str(loaded.rejected[0]) == f"{file}:2: problem 602: too odd"


ONE_TEST = {"task_id": 1, "statement": "s", "tests": [{"stdin": "", "expected": "1"}]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"statement": "s"}, "task_id"),
        ({"task_id": 1, "statement": "s", "tests": []}, "tests"),
        ({"task_id": 1, "statement": "s", "tests": [{"input": "1"}]}, 'the key "stdin", "call" or "assert"'),
        ({"task_id": 1, "statement": "s", "tests": [{"stdin": "1"}]}, "tests.0.expected"),
        ({"task_id": 1, "statement": "s", "tests": [{"call": "f()", "arguments": [], "expected": 1}]}, "tests.0.call"),
        ({"task_id": 1, "statement": "s", "tests": [{"assert": "f(1)"}]}, "single assert"),
        ({"task_id": 1, "statement": "s", "tests": [{"stdin": "", "expected": "1"}], "solution": ""}, "solution"),
        (
            {"task_id": 1, "statement": "s", "tests": [{"stdin": "", "expected": "1"}], "num_visible_tests": 2},
            "visible",
        ),
        (ONE_TEST | {"checker": {"any_order": "words"}}, "checker.any_order: Input should be 'lines', 'tokens' or"),
        (ONE_TEST | {"checker": {"function": 1}}, "checker.function: Input should be a valid string"),
        (
            ONE_TEST | {"checker": {"function": "x", "score": "y"}},
            "checker: Value error, expected one of",
        ),
        (ONE_TEST | {"checker": {"programme": "x"}}, "checker.programme: Extra inputs are not permitted"),
        (ONE_TEST | {"checker": {"absolute": -1}}, "checker.absolute: Input should be greater than or equal to 0"),
        (ONE_TEST | {"limits": {"time_s": 0}}, "limits.time_s: Input should be greater than 0"),
    ],
)
def test_custom_rows_are_checked(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    file = write_lines(tmp_path / "own.jsonl", [row])
    with pytest.raises(UserError) as caught:
        load(f"jsonl:{file}")
    assert reason in str(caught.value)
    assert f"{file}:1" in str(caught.value)


def test_the_example_of_custom_problems_loads() -> None:
    loaded = load(f"jsonl:{Path(__file__).parents[2] / 'examples' / 'own_problems.jsonl'}")
    assert len(loaded.problems) == 4
    assert not loaded.rejected
    assert {type(test).__name__ for problem in loaded.problems for test in problem.tests} == {
        "StdinTest",
        "CallTest",
        "AssertTest",
    }


def test_the_starter_benchmark_has_no_rows_to_reject() -> None:
    loaded = load("starter:test[:5]")
    assert len(loaded.problems) == 5
    assert not loaded.rejected
