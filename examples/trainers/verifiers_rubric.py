"""An environment of verifiers 0.1 to 0.3 with your own problems."""

import json
from pathlib import Path
from typing import Any

import verifiers as vf
from datasets import Dataset

from rltf.adapters.verifiers import rubric_reward

REQUEST = "Answer with one block of Python code.\n\n"


def load_environment(rows: str = "examples/own_problems.jsonl", **options: Any) -> vf.Environment:
    """One turn for each problem of a file of JSON lines. `options` are those of the reward."""
    data = Dataset.from_list(
        [
            {"question": REQUEST + json.loads(line)["statement"], "answer": line}
            for line in Path(rows).read_text().splitlines()
        ]
    )
    return vf.SingleTurnEnv(dataset=data, rubric=vf.Rubric(funcs=[rubric_reward(**options)]))
