"""Writes your own problems as the Parquet file that SkyRL trains on."""

import argparse
import json
from pathlib import Path

from datasets import Dataset

REQUEST = "Answer with one block of Python code.\n\n"


def main() -> None:
    """Write one row for each problem."""
    parser = argparse.ArgumentParser(description="Your own problems as SkyRL's Parquet file.")
    parser.add_argument("--rows", default="examples/own_problems.jsonl", help="JSON lines, one problem each")
    parser.add_argument("--output", required=True, metavar="FILE.parquet")
    options = parser.parse_args()
    rows = [
        {
            "data_source": "own",
            "prompt": [{"role": "user", "content": REQUEST + json.loads(line)["statement"]}],
            "env_class": "unit_tests",
            "reward_spec": {"method": "rule", "ground_truth": line},
        }
        for line in Path(options.rows).read_text().splitlines()
    ]
    Dataset.from_list(rows).to_parquet(options.output)


if __name__ == "__main__":
    main()
