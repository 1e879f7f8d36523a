"""The adapters in trainers whose versions do not go with the locks, each in an environment of its own.

The tests are in the files `with_*.py`. They can also be run by hand:

    $(.venv/bin/python -m scripts.trainer_venv verl) -m pytest -n 0 tests/adapters/with_verl.py
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.openai_server import serve
from tests.trainer_venvs import interpreter

ROOT = Path(__file__).parents[2]
TESTS = {"verl": "with_verl.py", "verifiers": "with_verifiers.py", "verifiers-rubric": "with_rubrics.py"}


def test_every_lock_has_tests() -> None:
    assert TESTS.keys() == {path.stem for path in (ROOT / "requirements" / "trainers").glob("*.txt")}


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTS)
def test_the_library_itself(name: str) -> None:
    tests = f"tests/adapters/{TESTS[name]}"
    command = [str(interpreter(name)), "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.long
def test_vf_eval_runs_the_example(tmp_path: Path) -> None:
    """Its harness installs packages of its own, so this needs the network each time."""
    python = interpreter("verifiers")
    places = {"PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path / "home")}
    places["PYTHONPATH"] = f"{ROOT / 'examples' / 'trainers'}:{ROOT}"
    with serve(lambda _: ["```python\nprint(sum(map(int, input().split())))\n```"]) as address:
        command = [str(python.with_name("vf-eval")), "verifiers-taskset", "--model", "some-model"]
        command += ["--client.base-url", address, "--env.agent.harness.id", "null"]
        command += ["--env.agent.runtime.type", "subprocess", "--no-push", "--no-rich", "--output-dir", str(tmp_path)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | places, capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("*/traces.jsonl")
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    traces = [trace for episode in episodes for trace in episode["traces"]]
    scores = {trace["task"]["data"]["idx"]: trace["rewards"]["unit_tests"]["score"] for trace in traces}
    assert scores == {0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0}
