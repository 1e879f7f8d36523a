"""An environment of verifiers 0.1 to 0.3 with your own problems."""

import argparse
import json
from pathlib import Path
from typing import Any

import verifiers as vf
from datasets import Dataset
from verifiers.types import ClientConfig

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


def main() -> None:
    """Evaluate a model behind an OpenAI-compatible server."""
    parser = argparse.ArgumentParser(description="Evaluate a served model on your own problems.")
    parser.add_argument("--model", required=True, help="its name on the server")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--rows", default="examples/own_problems.jsonl", help="JSON lines, one problem each")
    options = parser.parse_args()
    client = ClientConfig(api_base_url=options.base_url, api_key_var="OPENAI_API_KEY")
    results = load_environment(options.rows, score="pass_ratio").evaluate_sync(client, options.model)
    for output in results["outputs"]:
        print(json.loads(output["answer"])["task_id"], output["reward"], output.get("error"))


if __name__ == "__main__":
    main()
