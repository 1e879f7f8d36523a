"""verl's reward managers get the grader's scores. test_trainers.py runs this file in an environment with verl."""

from __future__ import annotations

import asyncio
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager
from verl.workers.reward_manager.batch import BatchRewardManager

from rltf.adapters import verl as adapter
from tests.adapters.cases import PASS_RATIO, ROW

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "trainers"


class Letters:
    """A tokenizer with one token for each character."""

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        return "".join(chr(number) for number in ids)


def batch_of(completions: list[str]) -> Any:
    """verl's own type of batch, in which every completion follows the same prompt."""
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


def test_the_managers_of_verl() -> None:
    """The manager of verl 0.9, which loads the function from its settings, and the older one for batches."""
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


def test_the_command_of_the_page(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """verl's own settings take the options of the page, and with them its reward manager scores the example's data."""
    data = tmp_path / "train.parquet"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["verl_data.py", "--output", str(data)])
    runpy.run_path(str(SCRIPTS / "verl_data.py"), run_name="__main__")
    page = (ROOT / "docs" / "trainers" / "verl.md").read_text()
    (command,) = re.findall(r"main_ppo ((?:.*\\\n)+.*)", page)
    command = command.replace("\\\n", " ").replace("train.parquet", str(data)).replace("MODEL", str(tiny_model_dir))
    monkeypatch.setattr(sys, "argv", ["verl_check.py", *shlex.split(command.replace("workers=4", "workers=1"))])
    runpy.run_path(str(SCRIPTS / "verl_check.py"), run_name="__main__")
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines() if "grader_error" in line]
    assert [line[:2] for line in lines] == [
        [name, "1.0"] for name in ("sum-of-line", "reverse-words", "circle-area", "two-parts")
    ]
