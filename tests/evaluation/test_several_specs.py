"""Several SPECs in one call: an evaluation each, continued in the middle, refused before anything is sampled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rltf.evaluate import main
from rltf.evaluation.store import read_samples
from tests.openai_server import serve

ROOT = Path(__file__).parents[2]
OWN = f"jsonl:{ROOT / 'examples' / 'own_problems.jsonl'}"
SPECS = [f"{OWN}[0:1]", f"{OWN}[1:3]"]
FIRST, SECOND = NAMES = ["jsonl-own_problems-0..1", "jsonl-own_problems-1..3"]
SUM = "a, b = map(int, input().split())\nprint(a + b)\n"
NOWHERE = "http://127.0.0.1:9/v1"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def by_id(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["completion_id"]: row | {"seconds": 0} for row in read_samples(folder)}


@pytest.fixture
def requests() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def address(requests: list[dict[str, Any]]) -> Iterator[str]:
    with serve(lambda _: [f"```python\n{SUM}```", "print('no')"], requests=requests) as found:
        yield found


@pytest.mark.slow
def test_each_has_its_folder_and_rows_in_the_table(
    tmp_path: Path, address: str, requests: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    def command(output: str, *specs: str) -> list[str]:
        options = ["--model", address, "--num-samples", "2", "--k", "1", "2", "--workers", "1"]
        return [*options, "--output", str(tmp_path / output), "--problems", *specs]

    assert main(command("out", *SPECS)) == 0
    shown = [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    assert [FIRST, "pass@1", "strict", "all"] in shown
    assert [SECOND, "pass@2", "strict", "easy"] in shown
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [*NAMES, "results.json"]
    found = read(out / "results.json")
    assert list(found) == NAMES
    assert (found[FIRST]["pass@1"]["all"], found[SECOND]["pass@1"]["all"]) == (0.5, 0.0)
    assert (found[FIRST]["num_samples"], found[SECOND]["num_samples"]) == (2, 4)
    programs = {name: by_id(out / name) for name in NAMES}

    # Each folder is what the evaluation of this SPEC alone writes.
    assert main(command("alone", SPECS[1])) == 0
    assert read(tmp_path / "alone" / "results.json") == read(out / SECOND / "results.json") == found[SECOND]
    assert by_id(tmp_path / "alone") == programs[SECOND]

    # The same command continues in the middle of a SPEC.
    (out / "results.json").unlink()
    file = out / SECOND / "samples.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    requests.clear()
    assert main(command("out", *SPECS)) == 0
    assert len(requests) == 1
    assert read(out / "results.json") == found
    assert {name: by_id(out / name) for name in NAMES} == programs

    # Each is compared with the one of the same name.
    capsys.readouterr()
    assert main([*command("again", *SPECS), "--against", str(out)]) == 0
    against = read(tmp_path / "again" / "results.json")[FIRST]["against"]
    assert (against["folder"], against["pass@1"]["all"]["difference"]) == (str(out / FIRST), 0.0)
    shown = [line.split()[:5] for line in capsys.readouterr().out.splitlines()]
    assert [SECOND, "pass@1", "strict", "all", "+0.00%"] in shown

    # What the second SPEC is refused for keeps the first one from being sampled.
    shutil.rmtree(out / FIRST)
    requests.clear()
    assert main([*command("out", *SPECS), "--seed", "1"]) == 2
    assert f"{SECOND} holds another evaluation (seed" in capsys.readouterr().err
    assert not requests
    assert main(command("alone", *SPECS)) == 2
    assert "alone holds the evaluation of a single SPEC; choose another --output" in capsys.readouterr().err
    assert main(command("out", SPECS[0])) == 2
    assert f"out holds evaluations in its folders ({SECOND})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", NOWHERE, "--problems", SPECS[0], SPECS[0]], f"both are named {FIRST}"),
        (["--model", NOWHERE, "--problems", SPECS[0], "mbp:x"], "did you mean mbpp"),
        (["--model", NOWHERE, "--problems", SPECS[0], f"{OWN}[99:]"], "selects none"),
        (["--model", NOWHERE, "--problems", *SPECS, "--against", "/nowhere"], f"/nowhere/{FIRST} has no samples.jsonl"),
        (["--samples", "programs.jsonl", "--problems", *SPECS], "--samples takes a single SPEC"),
    ],
)
def test_unusable_specs(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main([*options, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_no_set_has_room_for_is_refused_before_sampling(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"task_id": "long", "statement": "word " * 400, "tests": [{"stdin": "", "expected": "1"}]}
    (tmp_path / "long.jsonl").write_text(json.dumps(long) + "\n")
    # A single evaluation that was refused leaves a folder without programs, which can be used for anything.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.json").write_text("{}")
    (tmp_path / "out" / "samples.jsonl").touch()
    options = ["--model", str(tiny_model_dir), "--engine", "transformers", "--output", str(tmp_path / "out")]
    assert main([*options, "--problems", SPECS[0], f"jsonl:{tmp_path / 'long.jsonl'}"]) == 2
    assert "no prompt leaves room for a program within 256 tokens" in capsys.readouterr().err
    assert not list(read_samples(tmp_path / "out" / FIRST))
