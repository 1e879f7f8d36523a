"""Scores the reference programs of verl's training data as verl would. Takes the options of `verl.trainer.main_ppo`."""

import asyncio
import json
import sys
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from hydra import compose, initialize_config_module
from transformers import AutoTokenizer
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager

from rltf.grader import problem_from_row


def batch_of(row: dict[str, Any], completion: str, tokenizer: Any) -> DataProto:
    """A batch with one completion, as verl gives it to its reward manager."""
    prompt = tokenizer(row["prompt"][-1]["content"], return_tensors="pt").input_ids
    response = tokenizer(completion, return_tensors="pt").input_ids
    mask = torch.ones_like(torch.cat([prompt, response], dim=1))
    columns = {name: np.array([row[name]], dtype=object) for name in ("data_source", "reward_model", "extra_info")}
    return DataProto.from_dict({"prompts": prompt, "responses": response, "attention_mask": mask}, columns)


async def main() -> None:
    """Print what the settings of the trainer make of each problem. A reference program should get 1."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=sys.argv[1:])
    tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
    manager = load_reward_manager(config, tokenizer)
    for row in Dataset.from_parquet(config.data.train_files):
        problem = problem_from_row(json.loads(row["reward_model"]["ground_truth"]))
        completion = f"```python\n{problem.references[0]}\n```"
        result = await manager.run_single(batch_of(row, completion, tokenizer))
        print(problem.task_id, result["reward_score"], result["reward_extra_info"])


if __name__ == "__main__":
    asyncio.run(main())
