"""verl's reward managers get the scores that the grader gives, by the path that its settings name."""

from __future__ import annotations

import asyncio
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from rltf.adapters import verl as adapter
from rltf.adapters.scoring import GraderError
from tests.adapters.cases import ANY, BROKEN_ROW, HALF, PASS_RATIO, RIGHT, ROW

WORKER = {"workers": 1}


def test_scores_and_what_verl_logs() -> None:
    result = adapter.compute_score("any", HALF, ROW, {"split": "train"}, **WORKER)
    assert result == {"score": 0.0, "acc": 0.0, "pass_ratio": 0.5, "grader_error": 0.0}
    results = adapter.compute_score_batch(["any"] * 3, [*PASS_RATIO], [ROW] * 3, score="pass_ratio", **WORKER)
    assert [result["score"] for result in results] == [*PASS_RATIO.values()]


def test_a_failure_of_the_grader_ends_the_run_unless_it_has_a_score() -> None:
    with pytest.raises(GraderError, match="problem broken"):
        adapter.compute_score("any", ANY, BROKEN_ROW, **WORKER)
    with pytest.raises(GraderError, match="problem broken"):
        adapter.compute_score_batch(["any"] * 2, [RIGHT, ANY], [ROW, BROKEN_ROW], **WORKER)
    result = adapter.compute_score("any", ANY, BROKEN_ROW, grader_error_score=0.25, **WORKER)
    assert result == {"score": 0.25, "acc": 0.0, "pass_ratio": 0.0, "grader_error": 1.0}


def test_the_example_writes_rows_that_can_be_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    root, output = Path(__file__).parents[2], tmp_path / "train.parquet"
    rows = root / "examples" / "own_problems.jsonl"
    monkeypatch.setattr(sys, "argv", ["verl_data.py", "--rows", str(rows), "--output", str(output)])
    runpy.run_path(str(root / "examples" / "trainers" / "verl_data.py"), run_name="__main__")
    table = pyarrow.parquet.read_table(output).to_pylist()
    assert len(table) == len(rows.read_text().splitlines())
    assert table[0]["prompt"][0]["content"].endswith("Read two integers from one line and print their sum.")
    program = "print(sum(map(int, input().split())))"
    result = adapter.compute_score(table[0]["data_source"], program, table[0]["reward_model"]["ground_truth"], **WORKER)
    assert result["score"] == 1.0


class Letters:
    """A tokenizer with one token for each character."""

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        return "".join(chr(number) for number in ids)


def batch_of(completions: list[str]) -> Any:
    """verl's own type of batch, in which every completion follows the same prompt."""
    import numpy as np
    import torch
    from verl import DataProto

    width = max(map(len, completions))
    responses = torch.tensor([[*map(ord, text)] + [0] * (width - len(text)) for text in completions])
    prompts = torch.tensor([[63]] * len(completions))
    return DataProto.from_dict(
        tensors={
            "prompts": prompts,
            "responses": responses,
            "attention_mask": torch.cat([torch.ones_like(prompts), (responses > 0).long()], dim=1),
        },
        non_tensors={
            "data_source": np.array(["any"] * len(completions), dtype=object),
            "reward_model": np.array([{"ground_truth": ROW} for _ in completions], dtype=object),
            "extra_info": np.array([{} for _ in completions], dtype=object),
        },
    )


@pytest.fixture
def installed() -> None:
    for name in ("verl", "tensordict"):
        pytest.importorskip(name, reason="verl is not installed (benchmarks/requirements-peers.txt)")


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_the_managers_of_verl() -> None:
    """The manager of verl 0.9, which loads the function from its settings, and the older one for batches."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import load_reward_manager
    from verl.workers.reward_manager.batch import BatchRewardManager

    options = {"score": "pass_ratio", "workers": 1, "settings": {"cpu_s": 4.0, "packages": []}}
    function = {"path": f"pkg://{adapter.__name__}", "name": "compute_score", "reward_kwargs": options}
    manager_settings = {"source": "register", "name": "naive"}
    settings = {"custom_reward_function": function, "reward_manager": manager_settings}
    batch = batch_of([*PASS_RATIO])

    async def ask() -> list[Any]:
        manager: Any = load_reward_manager(OmegaConf.create({"reward": settings}), Letters())
        return await asyncio.gather(*(manager.run_single(batch[n : n + 1]) for n in range(len(batch))))

    found = asyncio.run(ask())
    assert [one["reward_score"] for one in found] == [*PASS_RATIO.values()]
    assert [one["reward_extra_info"]["acc"] for one in found] == [1.0, 0.0, 0.0]

    manager = BatchRewardManager(Letters(), 0, adapter.compute_score_batch, score="pass_ratio", workers=1)
    found = manager(batch, return_dict=True)
    assert found["reward_tensor"].sum(dim=1).tolist() == [*PASS_RATIO.values()]
    assert found["reward_extra_info"]["grader_error"] == [0.0] * 3
