"""SkyRL's environment gives the rewards that the grader gives."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

from rltf.adapters.scoring import GraderError
from rltf.errors import UserError
from tests.adapters.cases import ANY, BROKEN_ROW, HALF, PASS_RATIO, ROW

skyrl_gym = pytest.importorskip("skyrl_gym", reason="skyrl-gym is not installed (the extra `dev` has it)")
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

    script = Path(__file__).parents[2] / "examples" / "trainers" / "skyrl_grpo.py"
    (place,) = re.findall(r'entry_point="([^"]+)"', script.read_text())
    assert pkgutil.resolve_name(place) is UnitTestEnv
