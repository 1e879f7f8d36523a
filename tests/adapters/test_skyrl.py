"""SkyRL's environment gives the rewards that the grader gives."""

from __future__ import annotations

import pkgutil
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from rltf.adapters.scoring import GraderError
from rltf.errors import UserError
from tests.adapters.cases import ANY, BROKEN_ROW, HALF, PASS_RATIO, ROW

skyrl_gym = pytest.importorskip("skyrl_gym", reason="skyrl-gym is not installed (the extra `dev` has it)")
SCRIPTS = Path(__file__).parents[2] / "examples" / "trainers"
PROMPT = [{"role": "user", "content": "Print the square."}]


def made(row: str, **options: Any) -> Any:
    """The environment as SkyRL makes it, from a registered name and a row of the data set."""
    from rltf.adapters.skyrl import UnitTestEnv

    place = f"{UnitTestEnv.__module__}:{UnitTestEnv.__name__}"
    skyrl_gym.register("unit_tests", entry_point=place, kwargs={"workers": 1, **options})
    try:
        return skyrl_gym.make("unit_tests", env_config={}, extras={"reward_spec": {"ground_truth": row}})
    finally:
        skyrl_gym.registry.pop("unit_tests")


@pytest.mark.parametrize(("completion", "reward"), PASS_RATIO.items())
def test_one_completion_is_one_episode(completion: str, reward: float) -> None:
    env = made(ROW, score="pass_ratio")
    assert env.init(PROMPT) == (PROMPT, {})
    step = env.step(completion)
    assert (step["reward"], step["done"], step["observations"]) == (reward, True, [])
    assert step["metadata"]["outcome"] in ("passed", "failed", "runtime_error", "syntax_error")
    assert env.get_metrics() == {"passed": float(reward == 1), "pass_ratio": reward, "grader_error": 0.0}
    env.close()


def test_metrics_of_several_episodes() -> None:
    envs = [made(row, grader_error_score=0.0) for row in (ROW, BROKEN_ROW)]
    assert [env.step(text)["reward"] for env, text in zip(envs, (HALF, ANY), strict=True)] == [0.0, 0.0]
    means = type(envs[0]).aggregate_metrics([env.get_metrics() for env in envs])
    assert means == {"passed": 0.0, "pass_ratio": 0.25, "grader_error": 0.5}


def test_a_failure_of_the_grader_ends_the_run() -> None:
    with pytest.raises(GraderError, match="problem broken"):
        made(BROKEN_ROW).step(ANY)


def test_a_row_without_a_problem() -> None:
    from rltf.adapters.skyrl import UnitTestEnv

    with pytest.raises(UserError, match=r"reward_spec\.ground_truth: expected the row"):
        UnitTestEnv(extras={"reward_spec": {}})


def test_the_example_registers_the_environment() -> None:
    from rltf.adapters.skyrl import UnitTestEnv

    (place,) = re.findall(r'entry_point="([^"]+)"', (SCRIPTS / "skyrl_grpo.py").read_text())
    assert pkgutil.resolve_name(place) is UnitTestEnv


def test_the_examples_write_data_and_check_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tmp_path / "train.parquet")
    monkeypatch.chdir(SCRIPTS.parents[1])
    monkeypatch.setitem(skyrl_gym.registry, "unit_tests", None)  # restored at the end
    del skyrl_gym.registry["unit_tests"]
    for words in (["skyrl_data.py", "--output", data], ["skyrl_check.py", "--data", data]):
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(SCRIPTS / words[0]), run_name="__main__")
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [[name, "1.0"] for name in ("sum-of-line", "reverse-words", "circle-area", "two-parts")]
