"""Takes SkyRL's environment through the reference programs of a data set."""

import argparse
import json

import skyrl_gym
from datasets import Dataset

from rltf.grader import problem_from_row


def main() -> None:
    """Print the reward of each reference program. It should be 1."""
    parser = argparse.ArgumentParser(description="SkyRL's environment on the reference programs of a data set.")
    parser.add_argument("--data", required=True, metavar="FILE.parquet")
    options = parser.parse_args()
    skyrl_gym.register("unit_tests", entry_point="rltf.adapters.skyrl:UnitTestEnv", kwargs={"score": "pass_ratio"})
    for row in Dataset.from_parquet(options.data):
        problem = problem_from_row(json.loads(row["reward_spec"]["ground_truth"]))
        env = skyrl_gym.make(row["env_class"], env_config={}, extras=row)
        env.init(row["prompt"])
        step = env.step(f"```python\n{problem.references[0]}\n```")
        print(problem.task_id, step["reward"], env.get_metrics())
        env.close()


if __name__ == "__main__":
    main()
