"""GRPO with TRL on your own problems."""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rltf.adapters.trl import unit_test_reward

REQUEST = "Answer with one block of Python code.\n\n"


def main() -> None:
    """Train on the rows of a file."""
    parser = argparse.ArgumentParser(description="GRPO with TRL on your own problems.")
    parser.add_argument("--model", required=True, help="folder or Hub id of a chat model")
    parser.add_argument("--rows", default="examples/own_problems.jsonl", help="JSON lines, one problem each")
    parser.add_argument("--output", default="runs/trl")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=512, help="of a completion")
    options = parser.parse_args()
    lines = Path(options.rows).read_text().splitlines()
    data = Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": REQUEST + json.loads(line)["statement"]}], "problem": line}
            for line in lines
        ]
    )
    config = GRPOConfig(
        output_dir=options.output,
        max_steps=options.steps,
        per_device_train_batch_size=8,
        num_generations=8,
        max_completion_length=options.max_tokens,
        bf16=torch.cuda.is_available(),
        logging_steps=1,
        report_to="none",
    )
    trainer = GRPOTrainer(options.model, unit_test_reward(score="pass_ratio"), config, data)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
