"""Scores the reference programs of your own problems as open-instruct would."""

import argparse
import asyncio
import json
from pathlib import Path

from open_instruct.ground_truth_utils import apply_verifiable_reward

from rltf.adapters.open_instruct import unit_test_verifier
from rltf.grader import problem_from_row


def main() -> None:
    """Print the reward of each reference program. It should be 1."""
    parser = argparse.ArgumentParser(description="open-instruct's reward of the reference programs of your problems.")
    parser.add_argument("--rows", default="examples/own_problems.jsonl", help="JSON lines, one problem each")
    options = parser.parse_args()
    lines = Path(options.rows).read_text().splitlines()
    problems = [problem_from_row(json.loads(line)) for line in lines]
    verifier = unit_test_verifier(score="pass_ratio")()
    rewards, _ = asyncio.run(
        apply_verifiable_reward(
            {verifier.name: verifier},
            responses=[[] for _ in lines],
            decoded_responses=[f"```python\n{problem.references[0]}\n```" for problem in problems],
            ground_truths=lines,
            datasets=[verifier.name for _ in lines],
            reward_mult=1,
        )
    )
    for problem, reward in zip(problems, rewards, strict=True):
        print(problem.task_id, reward)


if __name__ == "__main__":
    main()
