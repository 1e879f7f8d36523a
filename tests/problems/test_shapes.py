"""Contest sets in their published shapes: what becomes of a good row, and that a damaged one is rejected by column."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import pickle
import tempfile
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import UserError
from problems import CallTest, LoadedProblems, Problem, StdinTest, livecodebench, load
from problems.prompts import render_prompt
from problems.shapes import SHAPES
from problems.spec import kind_of, row_of
from problems.types import Checker, CheckerForm, Limits, UnusableRowError

ADD = "print(sum(map(int, input().split())))"


def compressed(tests: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def stdin_case(stdin: str, expected: str, **more: Any) -> dict[str, Any]:
    return {"input": stdin, "output": expected, **more}


LIVE = {
    "question_title": "A",
    "question_content": "Add.\n\nSample Input\n\n1 2",
    "platform": "atcoder",
    "question_id": "abc301_a",
    "contest_id": "abc301",
    "contest_date": "2024-08-01T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps([stdin_case("1 2", "3", testtype="stdin")]),
    "private_test_cases": compressed([stdin_case("2 2", "4", testtype="stdin"), stdin_case("0 0", "0")]),
    "metadata": "{}",
}
LIVE_CALL = LIVE | {
    "question_id": "2727",
    "starter_code": "class Solution:\n    def add(self, a: int, b: List[int]) -> List[int]:\n        ",
    "public_test_cases": json.dumps([stdin_case('1\n["x"]', "[2]", testtype="functional")]),
    "private_test_cases": json.dumps([stdin_case("2\n[]\n", "[3]", testtype="functional")]),
    "metadata": json.dumps({"func_name": "add"}),
}
TACO = {
    "question": "Add.",
    "solutions": json.dumps([ADD]),
    "starter_code": "",
    "input_output": json.dumps({"inputs": ["1 2\n", ["2", "2"]], "outputs": ["3\n", "4\n"]}),
    "difficulty": "EASY",
    "time_limit": "2.0 seconds",
    "memory_limit": "256.0 megabytes",
    "picture_num": None,
}
CONTESTS = {
    "name": "1_A. Add",
    "description": "Add.",
    "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
    "private_tests": {"input": ["2 2\n"], "output": ["4\n"]},
    "generated_tests": {"input": ["1 2\n", "5 5\n"], "output": ["3\n", "10\n"]},
    "difficulty": 7,
    "solutions": {"language": [2, 3, 1], "solution": ["int main() {}", ADD, "print 3"]},
    "time_limit": {"seconds": 1, "nanos": 500_000_000},
    "memory_limit_bytes": 256_000_000,
    "input_file": "",
    "output_file": "",
}
REPACKED = {"name": "a_1", "description": "Add.", "solution": ADD, "tags": "math", "tests": [stdin_case("1 2", "3")]}
PRIME = {
    "data_source": "taco",
    "prompt": [
        {"role": "system", "content": "Think."},
        {
            "role": "user",
            "content": "Add.\n\nWrite Python code to solve the problem. "
            "Present the code in \n```python\nYour code\n```\nat the end.",
        },
    ],
    "ability": "code",
    "reward_model": {"style": "rule", "ground_truth": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]})},
    "extra_info": {"split": "train", "index": 5},
}
DEEP = {
    "problem": "Add.",
    "tests": json.dumps([{"type": "function_call", "fn_name": "add", "input": [1, 2], "output": [3]}]),
    "solutions": [f"```python\n{ADD}\n```", "```cpp\nint main() {}\n```"],
    "starter_code": "",
    "metadata": {"func_name": None},
}
SYNTHETIC = {
    "problem_id": "vfc_1",
    "task_type": "verifiable_code",
    "prompt": "Add.",
    "gold_standard_solution": f"```python\n{ADD}\n```",
    "verification_info": repr({"language": "python", "test_cases": [stdin_case("1 2\n", "3\n", type="stdin_stdout")]}),
    "metadata": repr({"difficulty": None, "time_limit": None, "memory_limit_bytes": 1000}),
}
CHECK = "import sys\nprint(int(open(sys.argv[3]).read().split() != []))\n"
FORCES = {
    "id": "1/A",
    "description": "Add.",
    "input_format": "Two numbers.",
    "output_format": "Their sum.",
    "note": "Easy.",
    "interaction_format": None,
    "examples": [stdin_case("1 2\n", "3\n")],
    "official_tests": [stdin_case("1 2\n", "3\n"), stdin_case("2 2\n", "4\n")],
    "rating": 800,
    "time_limit": 2.0,
    "memory_limit": 256.0,
    "input_mode": "stdio",
    "generated_checker": CHECK,
    "executable": True,
}
ROWS: dict[str, dict[str, Any]] = {
    "codecontests": CONTESTS,
    "codeforces": FORCES,
    "deepcoder": DEEP,
    "livecodebench": LIVE,
    "prime": PRIME,
    "synthetic1": SYNTHETIC,
    "taco": TACO,
}
FIRST, SECOND = StdinTest("1 2\n", "3\n"), StdinTest("2 2\n", "4\n")
MIB = 1 << 20


HUGE = "<an integer with more digits than Python writes>"


def read(kind: str, *rows: Any) -> LoadedProblems:
    """The rows of a file with a good row first, so that the file as a whole can be used."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text.replace(f'"{HUGE}"', "7" * 5000))
        return load(f"{kind}:{path}")


def only(kind: str, row: Any) -> Problem:
    loaded = read(kind, row)
    assert not loaded.rejected
    return loaded.problems[0]


def test_boards_of_dots_are_not_cut() -> None:
    for board in ("#...\n" * 70, "1.5 " * 70 + "2...", "1 2\n" * 20 + "...", "1 " * 200):
        tests = {"inputs": ["1"], "outputs": [board]}
        assert only("taco", TACO | {"input_output": json.dumps(tests)}).tests == (StdinTest("1", board),)


def test_every_kind_is_tested() -> None:
    assert ROWS.keys() == SHAPES.keys()


@pytest.mark.parametrize("kind", ROWS)
def test_rows_are_recognized_by_their_columns(kind: str) -> None:
    assert kind_of(ROWS[kind]) == kind


def test_livecodebench() -> None:
    tests = (StdinTest("1 2", "3"), StdinTest("2 2", "4"), StdinTest("0 0", "0"))
    expected = Problem("abc301_a", "livecodebench", str(LIVE["question_content"]), tests, difficulty="easy")
    problem = only("livecodebench", LIVE | {"contest_date": None})
    assert problem.num_visible_tests == 1
    assert (problem.tests, problem.statement, problem.difficulty) == (tests, expected.statement, "easy")
    assert problem.limits == Limits()
    call = only("livecodebench", LIVE_CALL)
    assert call.tests == (CallTest("add", (1, ["x"]), [2]), CallTest("add", (2, []), [3])), "no answer is unwrapped"
    assert (call.entry_point, call.num_visible_tests) == ("add", 1)
    assert "def add(self" in render_prompt(call)


def test_taco() -> None:
    assert only("taco", TACO) == Problem(
        "1",
        "taco",
        "Add.",
        (FIRST, StdinTest("2\n2", "4\n")),
        references=(ADD,),
        difficulty="EASY",
        limits=Limits(2.0, 256 * MIB),
    )
    calls = {"fn_name": "add", "inputs": [[1, 2], [{"1": 2}]], "outputs": [[3], [4]]}
    call = only("taco", TACO | {"input_output": json.dumps(calls), "id": 77})
    assert call.task_id == "77"
    assert call.tests == (CallTest("add", (1, 2), [3], unwrap=True), CallTest("add", ({1: 2},), [4], unwrap=True))


@pytest.mark.parametrize(
    ("time", "memory", "limits"),
    [
        ("500 ms", "64 MB", Limits(0.5, 64 * MIB)),
        ("1 second", "1 gigabyte", Limits(1.0, 1024 * MIB)),
        ("2s", "512 KiB", Limits(2.0, MIB // 2)),
        (3, 1000, Limits(3.0, 1000)),
        ("None", "", Limits()),
        ("0.0 seconds", 0, Limits()),
        ({"seconds": 0, "nanos": 0}, None, Limits()),
    ],
)
def test_limits(time: Any, memory: Any, limits: Limits) -> None:
    assert only("taco", TACO | {"time_limit": time, "memory_limit": memory}).limits == limits


def test_codecontests() -> None:
    assert only("codecontests", CONTESTS) == Problem(
        "1_A. Add",
        "codecontests",
        "Add.",
        (FIRST, SECOND, StdinTest("5 5\n", "10\n")),
        references=(ADD,),
        difficulty="A",
        num_visible_tests=1,
        limits=Limits(1.5, 256_000_000),
    )
    repacked = only("codecontests", REPACKED)
    assert (repacked.tests, repacked.references) == ((StdinTest("1 2", "3"),), (ADD,))
    unknown = only("codecontests", CONTESTS | {"difficulty": 0, "time_limit": None, "memory_limit_bytes": 0})
    assert (unknown.difficulty, unknown.limits) == (None, Limits())


def test_prime() -> None:
    problem = only("prime", PRIME)
    assert problem == Problem("1", "prime", "Add.", (FIRST,))
    truth = {"fn_name": "add", "inputs": ["1\n[2]", "3\n[]"], "outputs": ["[3]", "[4, 5]"]}
    call = only("prime", PRIME | {"reward_model": {"ground_truth": json.dumps(truth)}})
    assert call.tests == (CallTest("add", (1, [2]), [3]), CallTest("add", (3, []), [4, 5]))
    assert "Name the function add." in render_prompt(call)
    assert "Standard Input" in render_prompt(problem)


def test_deepcoder() -> None:
    problem = only("deepcoder", DEEP)
    assert problem.tests == (CallTest("add", (1, 2), [3], unwrap=True),)
    assert problem.references == (ADD + "\n",)
    lists = only("deepcoder", DEEP | {"tests": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]})})
    plain = only("deepcoder", DEEP | {"tests": json.dumps([stdin_case("1 2\n", "3\n")])})
    literal = only("deepcoder", DEEP | {"tests": repr([stdin_case("1 2\n", "3\n", type="stdin_stdout")])})
    assert lists.tests == plain.tests == literal.tests == (FIRST,)
    lines = [stdin_case("1\n2", "3", testtype="functional", metadata={"func_name": None})]
    functional = only("deepcoder", DEEP | {"tests": json.dumps(lines), "metadata": '{"func_name": "add"}'})
    assert functional.tests == (CallTest("add", (1, 2), 3),)


def test_synthetic1() -> None:
    problem = only("synthetic1", SYNTHETIC)
    assert problem == Problem(
        "vfc_1", "synthetic1", "Add.", (FIRST,), references=(ADD + "\n",), limits=Limits(None, 1000)
    )
    struct = {
        "language": "python",
        "test_cases": [{"fn_name": None, "input": "1 2\n", "output": "3\n", "type": "stdin_stdout"}],
    }
    limits = {"difficulty": "7", "time_limit": "{'seconds': 2, 'nanos': 0}", "memory_limit_bytes": None}
    other = SYNTHETIC | {"problem_statement": "Add them.", "verification_info": struct, "metadata": limits}
    found = only("synthetic1", other)
    assert (found.statement, found.tests, found.difficulty) == ("Add them.", (FIRST,), "7")
    assert found.limits == Limits(2.0, None)
    text = [{"fn_name": "add", "input": "[1, 2]", "output": "3", "type": "function_call"}]
    call = only("synthetic1", other | {"verification_info": {"language": "python", "test_cases": text}})
    assert call.tests == (CallTest("add", (1, 2), 3),)


def test_codeforces() -> None:
    problem = only("codeforces", FORCES)
    assert problem.tests == (FIRST, SECOND), "the example is an official test as well"
    assert (problem.num_visible_tests, problem.difficulty) == (1, "800")
    assert problem.limits == Limits(2.0, 256 * MIB)
    assert problem.checker == Checker(CHECK, CheckerForm.SCORE)
    parts = ("Add.", "Two numbers.", "Their sum.", "Example input\n\n1 2\n", "Example output\n\n3\n", "Easy.")
    places = [problem.statement.find(part) for part in parts]
    assert places == sorted(places)
    assert places[0] == 0
    assert only("codeforces", FORCES | {"generated_checker": None}).checker is None


CUT = "1 2\n" * 70 + "1..."
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("prime", {"ability": "math"}, "ability: 'math', but only 'code'"),
    ("synthetic1", {"task_type": "verifiable_math"}, "task_type: 'verifiable_math'"),
    (
        "synthetic1",
        {"verification_info": '{"language": "rust", "test_cases": []}'},
        "verification_info.language: 'rust'",
    ),
    ("codecontests", {"input_file": "in.txt"}, "input_file: 'in.txt', but programs can only use standard input"),
    ("codecontests", {"checker": "#include <testlib.h>"}, "checker: written in C++ with testlib"),
    ("codecontests", {"private_tests": None, "generated_tests": None}, "private_tests: no tests besides the examples"),
    ("codeforces", {"interaction_format": "Ask."}, "interaction_format: an interactive problem"),
    ("codeforces", {"input_mode": "file"}, "input_mode: 'file'"),
    ("codeforces", {"executable": False}, "executable: not true"),
    ("codeforces", {"generated_checker": "#include <testlib.h>\nint main() {"}, "generated_checker: written in C++"),
    ("codeforces", {"generated_checker": "print 1"}, "generated_checker: the checker is not Python"),
    ("livecodebench", {"private_test_cases": "[]"}, "private_test_cases: no tests besides those in the statement"),
    (
        "livecodebench",
        {"private_test_cases": LIVE_CALL["private_test_cases"]},
        "public_test_cases and private_test_cases: tests of several",
    ),
    ("deepcoder", {"tests": '[{"type": "interactive", "input": "", "output": ""}]'}, "tests[0].type: expected"),
    ("deepcoder", {"tests": '[{"input": "1", "output": " "}]'}, "tests: outputs: all blank"),
    ("deepcoder", {"tests": '[{"input": "1", "output": "null", "testtype": "functional"}]'}, "tests[0].fn_name"),
    ("taco", {"input_output": '{"inputs": ["1"], "outputs": []}'}, "input_output: 1 inputs but 0 outputs"),
    ("taco", {"input_output": json.dumps({"inputs": ["1"], "outputs": [CUT]})}, "input_output.outputs[0]: cut off"),
    ("codecontests", {"private_tests": [stdin_case(CUT, "1")]}, "private_tests[0].input: cut off"),
    ("taco", {"time_limit": "2 fortnights"}, "time_limit: expected a number with a unit"),
]


@pytest.mark.parametrize(("kind", "change", "reason"), REFUSED)
def test_rows_that_cannot_be_used_say_why(kind: str, change: dict[str, Any], reason: str) -> None:
    good = ROWS[kind] | {"task_id": "good", "id": "good"}
    bad = ROWS[kind] | dict.fromkeys(SHAPES[kind].task_id, "another") | change
    loaded = read(kind, *([good, bad]))
    assert len(loaded.problems) == 1
    assert loaded.rejected[0].line == 2
    assert loaded.rejected[0].reason.startswith(reason)


NOT_TEXT: list[Any] = [12, HUGE, [], {}, True]
NO_TEXT: list[Any] = [*NOT_TEXT, None, "", " \n"]
NOT_LABEL: list[Any] = [HUGE, float("nan"), [], {}, True]
NOT_AMOUNT: list[Any] = [HUGE, -1, [1], True, "soon", "1e999999 s", 10**400, "9" * 500 + " s"]
NO_TESTS: list[Any] = [
    12,
    "{broken",
    [],
    {},
    None,
    "",
    [12],
    [{}],
    [{"input": 1}],
    {"input": []},
    {"inputs": ["1"]},
    True,
    HUGE,
    [{"input": "1", "output": HUGE}],
    [{"input": "1", "output": "1", "type": HUGE}],
    [{"input": [1], "output": 1, "type": "function_call", "fn_name": HUGE}],
    {"inputs": [[1]], "outputs": [1], "fn_name": HUGE},
]
NO_PROGRAMS: list[Any] = [12, HUGE, [HUGE], "{broken", [12], {"a": 1}, "12"]
DAMAGES: dict[str, dict[str, list[Any]]] = {
    "livecodebench": {
        "question_id": NOT_LABEL,
        "question_content": NO_TEXT,
        "starter_code": NOT_TEXT,
        "difficulty": NOT_LABEL,
        "public_test_cases": NO_TESTS[:2] + NO_TESTS[4:],
        "private_test_cases": [*NO_TESTS, "AAAA", compressed(12), compressed([12]), compressed({})],
        "metadata": [12, "{broken", []],
    },
    "taco": {
        "id": NOT_LABEL,
        "question": NO_TEXT,
        "input_output": NO_TESTS,
        "solutions": NO_PROGRAMS,
        "difficulty": NOT_LABEL,
        "starter_code": NOT_TEXT,
        "time_limit": NOT_AMOUNT,
        "memory_limit": NOT_AMOUNT,
    },
    "codecontests": {
        "name": [*NOT_LABEL, None, ""],
        "description": NO_TEXT,
        "public_tests": [12, "{broken", [12], [{}], {"input": ["1"]}, {"input": [1], "output": [1]}],
        "generated_tests": [12, "{broken", [12], [{}], {"input": ["1"]}, {"input": 1, "output": 1}],
        "solutions": [12, {"language": [3]}, {"language": [3], "solution": [1]}, {"language": 3, "solution": 1}],
        "difficulty": [-1, 29, HUGE, [], True],
        "time_limit": [*NOT_AMOUNT, {"seconds": "x"}, {"seconds": -1}],
        "memory_limit_bytes": NOT_AMOUNT,
        "input_file": NOT_TEXT,
        "output_file": NOT_TEXT,
        "checker": ["int main() {}"],
    },
    "codeforces": {
        "id": [*NOT_LABEL, None, ""],
        "description": NO_TEXT,
        "input_format": NOT_TEXT,
        "note": NOT_TEXT,
        "examples": [12, "{broken", [12], [{}]],
        "official_tests": [12, "{broken", [12], [{}], [], None],
        "rating": NOT_LABEL,
        "time_limit": NOT_AMOUNT,
        "memory_limit": NOT_AMOUNT,
        "generated_checker": [*NOT_TEXT, "def"],
        "input_mode": NOT_TEXT,
        "executable": [HUGE, [], None],
    },
    "prime": {
        "prompt": [None, 12, "Add.", [], [12], [{}], [{"role": "user"}], [{"role": "user", "content": 1}]],
        "ability": [None, "", 12, HUGE, []],
        "reward_model": [None, 12, [], {}, {"ground_truth": "{broken"}, {"ground_truth": 12}, "{broken"],
    },
    "deepcoder": {
        "problem": NO_TEXT,
        "tests": NO_TESTS,
        "solutions": NO_PROGRAMS,
        "starter_code": NOT_TEXT,
        "metadata": [12, "{broken", []],
    },
    "synthetic1": {
        "problem_id": [*NOT_LABEL, None, ""],
        "prompt": NO_TEXT,
        "gold_standard_solution": NOT_TEXT,
        "verification_info": [None, "", 12, [], {}, "{broken", {"language": "python", "test_cases": [12]}],
        "metadata": [12, "{broken", [], {"time_limit": "soon"}, {"memory_limit_bytes": -1}, {"difficulty": []}],
        "task_type": [12, []],
    },
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_columns_are_named(kind: str) -> None:
    for column, damages in DAMAGES[kind].items():
        for damage in damages:
            good = copy.deepcopy(ROWS[kind]) | dict.fromkeys(SHAPES[kind].task_id, "good")
            loaded = read(kind, good, ROWS[kind] | {column: damage})
            assert len(loaded.problems) == 1, (column, damage)
            assert column in loaded.rejected[0].reason, (column, damage)
            assert (loaded.rejected[0].line, loaded.rejected[0].file.endswith("rows.jsonl")) == (2, True)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["{", "[[[", "1 s"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["input", "output", "inputs", "outputs", "fn_name", "type", "language", "role", "seconds"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.data())
def test_a_row_with_anything_in_a_column_loads_or_is_rejected(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(ROWS)))
    column = data.draw(st.sampled_from(sorted(ROWS[kind])))
    damage = data.draw(JSON_VALUES)
    good = copy.deepcopy(ROWS[kind]) | dict.fromkeys(SHAPES[kind].task_id, "good")
    loaded = read(kind, good, ROWS[kind] | {column: json.dumps(damage) if data.draw(st.booleans()) else damage})
    assert len(loaded.problems) + len(loaded.rejected) == 2
    for rejected in loaded.rejected:
        assert column in rejected.reason or "not text" in rejected.reason


# LiveCodeBench's compressed tests


class Attack:
    """Pickled, an instruction to create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


class State:
    """Pickled with a state, which unpickling assigns."""

    def __init__(self) -> None:
        self.value = "[]"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_that_run_code_are_refused_and_do_not_run(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = json.dumps([stdin_case("1 2", "3")])
    for attack in (Attack(mark), [text, Attack(mark)], State(), {"a": text}, [text], text.encode(), 12):
        data = base64.b64encode(zlib.compress(pickle.dumps(attack, protocol))).decode()
        rejected = read("livecodebench", LIVE_CALL, LIVE | {"private_test_cases": data}).rejected
        assert "private_test_cases: a pickle with the operation" in rejected[0].reason
    assert not mark.exists()
    pickle.loads(pickle.dumps(Attack(mark), protocol))
    assert mark.exists(), "the attack works when it is unpickled"


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_strings_are_read(protocol: int) -> None:
    for text in ("", "[]", "é" * 300, "x" * 70_000):
        assert livecodebench.pickled_string(pickle.dumps(text, protocol)) == text


@given(st.binary(max_size=40))
def test_any_bytes_are_a_string_or_refused(data: bytes) -> None:
    for candidate in (data, pickle.dumps("[]")[:-3] + data):
        with contextlib.suppress(UnusableRowError):
            assert isinstance(livecodebench.pickled_string(candidate), str)


def test_a_zip_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livecodebench, "MAX_BYTES", 1 << 16)
    bomb = base64.b64encode(zlib.compress(pickle.dumps("[" + " " * (1 << 17) + "]"))).decode()
    short = base64.b64encode(zlib.compress(pickle.dumps("[]"))[:-6]).decode()
    reasons = [
        read("livecodebench", LIVE_CALL, LIVE | {"private_test_cases": data}).rejected[0].reason
        for data in (bomb, short)
    ]
    assert reasons[0] == "private_test_cases: more than 65536 bytes when decompressed"
    assert reasons[1] == "private_test_cases: compressed data that ends too early"


# LiveCodeBench's releases and dates


def write_release(folder: Path, num_files: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(1, num_files + 1):
        name = "test.jsonl" if number == 1 else f"test{number}.jsonl"
        row = LIVE | {"question_id": f"q{number}", "contest_date": f"2024-0{number}-01T00:00:00"}
        (folder / name).write_text(json.dumps(row))
    return folder


def ids(loaded: LoadedProblems) -> list[str]:
    return [problem.task_id for problem in loaded.problems]


def test_releases_are_the_first_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_release(tmp_path / "code_generation_lite", 6)
    assert ids(load(f"livecodebench:{folder}?version=release_v1")) == ["q1"]
    assert ids(load(f"livecodebench:{folder}?version=release_v3")) == ["q1", "q2", "q3"]
    assert ids(load(f"livecodebench:{folder}")) == [f"q{number}" for number in range(1, 7)]
    monkeypatch.setattr(livecodebench, "hub_file", lambda hub_id, name: folder / name)
    assert ids(load("livecodebench:livecodebench/code_generation_lite?version=release_v2")) == ["q1", "q2"]
    (folder / "test2.jsonl").unlink()
    with pytest.raises(UserError, match=r"release_v2 needs test\.jsonl, test2\.jsonl; test2\.jsonl is missing"):
        load(f"livecodebench:{folder}?version=release_v2")


def test_a_window_of_dates_is_half_open(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "lite", 6)
    assert ids(load(f"livecodebench:{folder}?from=2024-02-01&to=2024-04-01")) == ["q2", "q3"]
    assert ids(load(f"livecodebench:{folder}?to=2024-02-01")) == ["q1"]
    assert ids(load(f"livecodebench:{folder}?from=2024-05-01[1:]")) == ["q6"]
    (folder / "test2.jsonl").write_text(json.dumps(LIVE | {"contest_date": "soon"}))
    loaded = load(f"livecodebench:{folder}?from=2024-03-01")
    assert ids(loaded) == ["q3", "q4", "q5", "q6"]
    assert str(loaded.rejected[0]).endswith(
        "test2.jsonl:1: problem abc301_a: contest_date: expected a date such as 2024-08-01, got 'soon'"
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("livecodebench:{}?version=release_v9", "expected one of release_v1"),
        ("livecodebench:{}?from=August", "from=August: expected a date"),
        ("livecodebench:{}/test.jsonl?version=release_v1", "is for LiveCodeBench on the Hub or a folder"),
        ("livecodebench:{}?split=test", "split= is not for livecodebench"),
        ("taco:{}/test.jsonl?from=2024-01-01", "from= is not for taco"),
        ("starter:test?version=release_v1", "version= is not for starter"),
        ("taco:BAAI/TACO", "add .split=train or .split=test"),
        ("prime:PRIME-RL/Eurus-2-RL-Data", "add .split=train or .split=validation"),
        ("taco:{}", "a folder; taco problems are read from a file"),
        ("taco:rows.parquet", "no such file"),
    ],
)
def test_unusable_specs(spec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(spec.format(write_release(tmp_path / "lite", 1)))


# Files by columns


def write_arrow(table: pa.Table, path: Path, *, stream: bool) -> None:
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


@pytest.mark.parametrize("form", ["parquet", "arrow file", "arrow stream"])
@pytest.mark.parametrize("kind", ["codecontests", "codeforces", "livecodebench", "prime", "taco"])
def test_files_by_columns(kind: str, form: str, tmp_path: Path) -> None:
    columns = SHAPES[kind].task_id
    rows = [copy.deepcopy(ROWS[kind]) | dict.fromkeys(columns, f"{number:02}") for number in range(1, 41)]
    statement = {"livecodebench": "question_content", "prime": "ability", "taco": "question"}.get(kind, "description")
    rows[20][statement] = None
    table = pa.Table.from_pylist(rows)
    path = tmp_path / f"rows.{form.partition(' ')[0]}"
    if form == "parquet":
        pq.write_table(table, path, row_group_size=9)
    else:
        write_arrow(table, path, stream=form == "arrow stream")
    loaded = load(f"{kind}:{path}")
    assert [int(task_id) for task_id in ids(loaded)] == [number for number in range(1, 41) if number != 21]
    assert str(loaded.rejected[0]).startswith(f"{path}:21: problem 21: {statement}")
    assert loaded.problems[0].tests == only(kind, ROWS[kind]).tests
    assert load(f"{kind}:{path}[3:5]").problems == loaded.problems[3:5]


def test_timestamps_in_columns(tmp_path: Path) -> None:
    row = LIVE | {"contest_date": datetime(2024, 8, 1)}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    assert ids(load(f"livecodebench:{tmp_path}/rows.parquet?from=2024-08-01&to=2024-08-02")) == ["abc301_a"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow"])
@pytest.mark.parametrize("content", [b"", b"not columns", b"PAR1" + bytes(40) + b"PAR1", b"ARROW1\0\0" + bytes(40)])
def test_files_that_cannot_be_read(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        load(f"taco:{tmp_path / name}")


# All kinds


@pytest.mark.parametrize("kind", ROWS)
def test_kinds_without_rows_to_write_say_so(kind: str) -> None:
    with pytest.raises(
        UserError, match=f"{kind} problems have no row format to write them in; use rows of the KIND jsonl"
    ):
        row_of(only(kind, ROWS[kind]))


def test_sets_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses what `datasets` returns, since tests cannot reach the Hub."""
    import datasets

    rows = {"train": [DEEP], "test": [DEEP | {"tests": "{broken"}, copy.deepcopy(DEEP)]}
    monkeypatch.setattr("problems.sources._check_hub", lambda hub_id: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, config: rows if config == "taco" else {})
    loaded = load("deepcoder:agentica-org/DeepCoder-Preview-Dataset?config=taco&split=test")
    assert ids(loaded) == ["2"]
    assert str(loaded.rejected[0]).startswith(
        "agentica-org/DeepCoder-Preview-Dataset[test]:1: problem 1: tests: not JSON"
    )


def test_a_file_that_the_cache_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nobody/lite: test\.jsonl is neither on the Hub nor in its cache"):
        load("livecodebench:nobody/lite?version=release_v1")


def test_rows_without_ids_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([TACO, 12, TACO | {"id": "own"}, TACO]))
    loaded = load(f"taco:{path}")
    assert ids(loaded) == ["1", "own", "4"]
    assert loaded.rejected[0].reason == "expected an object, got int"
