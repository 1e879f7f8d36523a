"""`evaluate.py`: from programs to results.json, continued after an interruption, compared with an earlier run."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rltf.errors import UserError
from rltf.evaluate import main
from rltf.evaluation.run import run_evaluations
from rltf.evaluation.sources import PreparedPrograms, StoredRows
from rltf.evaluation.store import SampleStore, read_samples
from rltf.lock import LOCK, locked
from rltf.problems import LoadedProblems
from rltf.sandbox.grading import Graders
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings
from tests.openai_server import serve
from tests.tiers import first_fast

ROOT = Path(__file__).parents[2]
OWN = f"jsonl:{ROOT / 'examples' / 'own_problems.jsonl'}"
SUM = "a, b = map(int, input().split())\nprint(a + b)\n"
SWAPPED = "a, b = map(int, input().split())\nprint(b, a)\n"
AREA = "import math\ndef circle_area(radius):\n    return math.pi * radius**2\n"


def row(task_id: str, completion_id: str, code: str) -> dict[str, Any]:
    return {"task_id": task_id, "completion_id": completion_id, "code": code}


ROWS = [
    row("sum-of-line", "0", SUM),
    row("sum-of-line", "1", SWAPPED),
    row("circle-area", "0", AREA),
    row("circle-area", "1", AREA),
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return str(path)


def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return loaded


def evaluate(samples: str, output: Path, *options: str) -> int:
    return main(["--samples", samples, "--problems", OWN, "--output", str(output), *options])


def printed(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The words of each line of the standard output."""
    return [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_settings_of_the_sandbox_apply_and_are_part_of_the_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import numpy as np\nprint(np.array(input().split(), dtype=int).sum())"
    samples, output = write(tmp_path / "samples.jsonl", [row("sum-of-line", "0", code)]), tmp_path / "out"
    numpy = ["--sandbox.packages", "numpy"]
    assert evaluate(samples, output, *numpy, "--workers", "1") == 0
    assert results(output)["pass@1"]["all"] == 1.0
    assert evaluate(samples, output) == 2
    assert "sandbox.packages: ['numpy'] there, None now" in capsys.readouterr().err
    assert evaluate(samples, output, "--sandbox.pakages", "numpy") == 2
    assert "did you mean --sandbox.packages?" in capsys.readouterr().err
    assert evaluate(samples, output, "--workers", "1", *numpy) == 0


def test_a_file_of_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = write(tmp_path / "samples.jsonl", ROWS)
    assert evaluate(samples, tmp_path / "out", "--k", "1", "2") == 0
    found = results(tmp_path / "out")
    assert found["pass@1"] == {"all": 0.75, "easy": 0.75}
    assert found["pass@2"] == {"all": 1.0, "easy": 1.0}
    assert found["intervals"]["pass@1"]["all"] == [0.5, 1.0]
    assert (found["num_problems"], found["num_samples"], found["comparison"]) == (2, 4, "strict")
    assert found["outcomes"] == {"failed": 1, "passed": 3}
    stored = list(read_samples(tmp_path / "out"))
    assert [(item["task_id"], item["passed"]) for item in stored] == [
        ("sum-of-line", True),
        ("sum-of-line", False),
        ("circle-area", True),
        ("circle-area", True),
    ]
    assert stored[1]["code"] == SWAPPED
    assert "75.00%" in capsys.readouterr().out


def test_apps_rules_are_reported_beside_the_strict_ones(tmp_path: Path) -> None:
    loose = "a, b = map(int, input().split())\nprint(*[a + b] * 3)\n"
    samples = write(tmp_path / "samples.jsonl", [row("sum-of-line", "0", loose), row("sum-of-line", "1", SWAPPED)])
    assert evaluate(samples, tmp_path / "out", "--comparison", "apps") == 0
    found = results(tmp_path / "out")
    assert found["pass@1"]["all"] == 0.0
    assert found["apps"]["pass@1"]["all"] == 0.5
    assert [item["passed_apps"] for item in read_samples(tmp_path / "out")] == [True, False]


def test_an_interrupted_evaluation_continues(tmp_path: Path) -> None:
    samples = write(tmp_path / "samples.jsonl", ROWS)
    assert evaluate(samples, tmp_path / "out") == 0
    whole = results(tmp_path / "out")
    lines = (tmp_path / "out" / "samples.jsonl").read_bytes().splitlines(keepends=True)
    # The first line's odd time shows that it is not graded again. The third line is cut in the middle.
    first = json.loads(lines[0]) | {"seconds": 99.0}
    (tmp_path / "out" / "samples.jsonl").write_bytes(json.dumps(first).encode() + b"\n" + lines[1] + lines[2][:20])
    assert evaluate(samples, tmp_path / "out") == 0
    assert results(tmp_path / "out") == whole
    stored = list(read_samples(tmp_path / "out"))
    assert len(stored) == 4
    assert stored[0]["seconds"] == 99.0


@pytest.mark.slow
def test_a_signal_keeps_what_is_graded(tmp_path: Path) -> None:
    loops = [row("sum-of-line", f"loop {number}", "while True: pass") for number in range(99)]
    samples = write(tmp_path / "samples.jsonl", [*ROWS, *loops])
    out = tmp_path / "out"
    command = ["evaluate.py", "--samples", samples, "--problems", OWN, "--output", str(out), "--workers", "1"]
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not ((out / "samples.jsonl").exists() and len(list(read_samples(out))) >= len(ROWS)):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 143
    kept = list(read_samples(out))
    assert [item["completion_id"] for item in kept[: len(ROWS)]] == [item["completion_id"] for item in ROWS]
    line = f"evaluate.py: interrupted: {len(kept)} graded programs are in {out}; the same command continues"
    assert shown.splitlines()[-1] == line
    assert "Traceback" not in shown


def test_the_folder_of_another_evaluation_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = write(tmp_path / "samples.jsonl", ROWS)
    assert evaluate(samples, tmp_path / "out") == 0
    write(tmp_path / "samples.jsonl", ROWS[:1])
    assert evaluate(samples, tmp_path / "out") == 2
    assert "holds another evaluation (sha256" in capsys.readouterr().err


def test_only_one_process_works_in_the_folder_of_an_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted script may have left its evaluation running: two would store every program twice."""
    samples = write(tmp_path / "samples.jsonl", ROWS)
    with locked(tmp_path / "out", "--output"):
        assert evaluate(samples, tmp_path / "out") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert re.search(r"out is in use by process \d+ on .*: wait until .* ends, or choose another --output", message)
    assert evaluate(samples, tmp_path / "out") == 0
    assert not (tmp_path / "out" / LOCK).exists()


def test_two_evaluations_are_compared_problem_by_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = [*ROWS[:2], row("circle-area", "0", AREA), row("circle-area", "1", "circle_area = None")]
    assert evaluate(write(tmp_path / "a.jsonl", worse), tmp_path / "a") == 0
    better = write(tmp_path / "b.jsonl", ROWS)
    assert evaluate(better, tmp_path / "b", "--against", str(tmp_path / "a")) == 0
    against = results(tmp_path / "b")["against"]
    expected = {"difference": 0.25, "interval": [0.0, 0.5], "num_problems": 2}
    assert against == {"folder": str(tmp_path / "a"), "pass@1": {"all": expected, "easy": expected}}
    assert ["pass@1", "strict", "easy", "+25.00%", "[+0.00%,", "+50.00%]"] in printed(capsys)


def test_two_evaluations_are_compared_by_the_apps_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loose = row("sum-of-line", "0", "a, b = map(int, input().split())\nprint(*[a + b] * 3)\n")
    first, second = write(tmp_path / "a.jsonl", [loose]), write(tmp_path / "b.jsonl", ROWS[:1])
    assert evaluate(first, tmp_path / "strict") == 0
    assert evaluate(first, tmp_path / "a", "--comparison", "apps") == 0
    options = ("--comparison", "apps", "--against")
    assert evaluate(second, tmp_path / "b", *options, str(tmp_path / "strict")) == 2
    assert "evaluated without --comparison apps" in capsys.readouterr().err
    assert evaluate(second, tmp_path / "b", *options, str(tmp_path / "a")) == 0
    against = results(tmp_path / "b")["against"]
    assert against["pass@1"]["all"]["difference"] == 1.0
    assert against["apps"]["pass@1"]["all"]["difference"] == 0.0
    shown = [words[:4] for words in printed(capsys)]
    assert ["pass@1", "strict", "all", "+100.00%"] in shown
    assert ["pass@1", "apps", "all", "+0.00%"] in shown


class Stored:
    """A source of a thousand programs for each of 60 problems, all of them graded already."""

    identity: ClassVar[dict[str, Any]] = {"model": "none"}

    def prepare(self, loaded: LoadedProblems, k: int) -> PreparedPrograms:
        def left(stored: StoredRows) -> tuple[()]:
            assert sum(1 for _ in stored) == 60_000
            return ()

        return PreparedPrograms(1000 * len(loaded.problems), left)

    def close(self) -> None:
        pass


@pytest.mark.slow
def test_many_programs_are_counted_without_holding_them(tmp_path: Path) -> None:
    tests = [{"stdin": "", "expected": "1"}]
    rows = [{"task_id": f"{i}", "statement": "?", "tests": tests} for i in range(60)]
    spec = f"jsonl:{write(tmp_path / 'problems.jsonl', rows)}"
    identity = {"problems": spec, "comparison": "strict"} | Stored.identity
    with SampleStore(tmp_path / "out", identity) as store:
        for i in range(60):
            for number in range(1000):
                outcome = "passed" if number < i else "failed"
                store.append({"task_id": f"{i}", "outcome": outcome, "code": f"{number}".zfill(200)})
    graders = Graders(1, SandboxSettings(), Isolation.NAMESPACES)
    tracemalloc.start()
    (found,) = run_evaluations(Stored(), [spec], tmp_path / "out", (1, 10, 1000), graders).values()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["pass@1"]["all"] == pytest.approx(sum(range(60)) / 60 / 1000)
    assert found["pass@1000"]["all"] == pytest.approx(59 / 60)
    assert (tmp_path / "out" / "samples.jsonl").stat().st_size > 12e6
    assert peak_bytes < 40e6  # the bootstrap takes most of it, and does not grow with the programs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "3"], "pass@3 needs 3 graded programs"),
        (["--against", "/nowhere"], "no samples.jsonl"),
        (["--k", "0"], "a number from 1"),
        (["--comparison", "lax"], "choose from"),
    ],
)
def test_unusable_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    samples = write(tmp_path / "samples.jsonl", ROWS)
    try:
        status = evaluate(samples, tmp_path / "out", *options)
    except SystemExit as error:
        status = int(error.code or 0)
    assert status == 2
    assert message in capsys.readouterr().err


def test_the_store_keeps_whole_rows(tmp_path: Path) -> None:
    with SampleStore(tmp_path, {"a": 1}) as store:
        for number in range(3):
            store.append({"number": number})
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"number": 3')
    with SampleStore(tmp_path, {"a": 1}) as store:
        assert store.num_rows == 3
        store.append({"number": 9})
        store.replace(row | {"again": True} for row in store.rows())
        store.append({"number": 10})
    assert [row["number"] for row in read_samples(tmp_path)] == [0, 1, 2, 9, 10]
    assert [row.get("again", False) for row in read_samples(tmp_path)] == [True] * 4 + [False]
    (tmp_path / "samples.jsonl").write_text('{"number": 0}\n{\n')
    with pytest.raises(UserError, match=r"samples.jsonl:2: not valid JSON"):
        list(read_samples(tmp_path))


@pytest.fixture
def address() -> Iterator[str]:
    """A server that answers each prompt only when asked a second time, and 429 before."""
    refused: set[str] = set()

    def answer(prompt: str) -> list[str] | None:
        if prompt not in refused:
            refused.add(prompt)
            return None
        return [f"Here:\n```python\n{SUM if 'sum' in prompt else AREA}```", "print('no')"]

    with serve(answer) as found:
        yield found


@pytest.mark.parametrize("chat", [True, False])
def test_a_model_behind_a_server(tmp_path: Path, address: str, chat: bool) -> None:
    options = ["--model", address, "--problems", OWN + "[0:3]", "--num-samples", "2", "--k", "1", "2"]
    assert main([*options, "--output", str(tmp_path), *(["--chat-template"] if chat else [])]) == 0
    found = results(tmp_path)
    assert found["pass@1"]["all"] == pytest.approx(1 / 3)
    assert found["pass@2"]["all"] == pytest.approx(2 / 3)
    assert found["num_samples"] == 6
    first = next(row for row in read_samples(tmp_path) if row["code"] == SUM)
    assert first["completion"] == f"Here:\n```python\n{SUM}```"


def test_a_server_that_does_not_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "http://127.0.0.1:9/v1", "--problems", OWN, "--output", str(tmp_path)]
    assert main(options) == 2
    assert "http://127.0.0.1:9/v1/models" in capsys.readouterr().err


def test_an_address_that_is_not_a_model_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(lambda _: [], page="<html>") as address:
        assert main(["--model", address, "--problems", OWN, "--output", str(tmp_path)]) == 2
        assert f"{address}/models: this is not the answer of an OpenAI-compatible server" in capsys.readouterr().err


def test_a_request_that_a_server_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(lambda _: [], asked="another-model") as address:
        assert main(["--model", address, "--problems", OWN, "--output", str(tmp_path)]) == 2
        assert f"{address}: status 400: " in capsys.readouterr().err


def test_a_server_with_too_few_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(lambda _: ["print(1)"]) as address:
        command = ["--model", address, "--problems", OWN, "--num-samples", "3", "--output", str(tmp_path)]
        assert main(command) == 2
        assert f"{address}: asked for 3 programs, got 1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", first_fast([["--no-such-option"], ["--help"], []]))
def test_parsing_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom evaluate import main\nheavy = {'torch', 'ray', 'vllm', 'transformers', 'openai'}\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    print(*(sys.modules.keys() & heavy), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == (0 if arguments == ["--help"] else 2)
    assert "usage: " in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == ""
