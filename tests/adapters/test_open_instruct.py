"""open-instruct finds our verifier, and gets the scores that the grader gives."""

from __future__ import annotations

import asyncio
import gc
import pickle
import runpy
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rltf.adapters.open_instruct import unit_test_verifier
from rltf.adapters.scoring import GraderError
from tests.adapters.cases import ANY, BROKEN_ROW, PASS_RATIO, RIGHT, ROW


# A stand-in, since open-instruct is not on PyPI: the shape of `open_instruct/ground_truth_utils.py` at commit c28e030.
@dataclass
class VerificationResult:
    score: float
    cost: float = 0.0
    reasoning: str | None = None


class VerifierFunction(ABC):
    def __init__(self, name: str, weight: float = 1.0, verifier_config: Any = None) -> None:
        self.name = name
        self.weight = weight
        self.verifier_config = verifier_config

    @abstractmethod
    def __call__(
        self, tokenized_prediction: list[int], prediction: str, label: Any, query: str | None = None
    ) -> VerificationResult: ...


def build_all_verifiers() -> dict[str, Any]:
    """One verifier of every subclass, by its name, made with its settings as the only argument."""
    classes: list[Any] = VerifierFunction.__subclasses__()
    made = [subclass(None) for subclass in classes]
    return {one.name.lower(): one for one in made}


async def apply_verifiable_reward(
    reward_fn_mapping: dict[str, Any],
    responses: list[Any],
    decoded_responses: list[str],
    ground_truths: list[str],
    datasets: list[str],
    reward_mult: int = 10,
    queries: list[str] | None = None,
) -> tuple[list[float], list[dict[str, float]]]:
    """The rewards, and the rewards by verifier. The real one also takes several truths for a response."""
    rewards = []
    for ids, text, truth, name in zip(responses, decoded_responses, ground_truths, datasets, strict=True):
        verifier = reward_fn_mapping[name.lower()]
        result = await verifier.async_call(tokenized_prediction=ids, prediction=text, label=truth, query=None)
        rewards.append(reward_mult * result.score * verifier.weight)
    return rewards, [{name: reward} for name, reward in zip(datasets, rewards, strict=True)]


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("open_instruct.ground_truth_utils")
    module.VerificationResult, module.VerifierFunction = VerificationResult, VerifierFunction
    module.apply_verifiable_reward = apply_verifiable_reward
    monkeypatch.setitem(sys.modules, "open_instruct", ModuleType("open_instruct"))
    monkeypatch.setitem(sys.modules, "open_instruct.ground_truth_utils", module)


def test_open_instruct_finds_and_calls_it() -> None:
    unit_test_verifier(workers=1)
    unit_test_verifier("Share", workers=1, score="pass_ratio")
    gc.collect()
    verifiers = build_all_verifiers()
    assert verifiers["rltf"]([1, 2], RIGHT, ROW) == VerificationResult(score=1.0, reasoning="passed")

    async def ask() -> list[Any]:
        share = verifiers["share"]
        return await asyncio.gather(
            *(
                share.async_call(tokenized_prediction=[], prediction=text, label=ROW, query="Square.")
                for text in PASS_RATIO
            )
        )

    assert [result.score for result in asyncio.run(ask())] == [*PASS_RATIO.values()]


def test_a_failure_of_the_grader_ends_the_run_unless_it_has_a_score() -> None:
    with pytest.raises(GraderError, match="problem broken"):
        unit_test_verifier(workers=1)()([], ANY, BROKEN_ROW)
    result = unit_test_verifier(workers=1, grader_error_score=0.0)()([], ANY, BROKEN_ROW)
    assert result == VerificationResult(score=0.0, reasoning="infrastructure_error")


def test_ray_can_send_it_to_other_processes() -> None:
    """Ray pickles a verifier together with its class, which no module has by name."""
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    sent = pickle.loads(cloudpickle.dumps(unit_test_verifier(workers=1)()))
    assert sent([], RIGHT, ROW).score == 1.0


def test_the_example_checks_problems(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["open_instruct_check.py"])
    runpy.run_path(str(root / "examples" / "trainers" / "open_instruct_check.py"), run_name="__main__")
    lines = ["sum-of-line 1.0", "reverse-words 1.0", "circle-area 1.0", "two-parts 1.0"]
    assert capsys.readouterr().out.splitlines() == lines
