"""TRL's trainer gets the rewards that the grader gives."""

from __future__ import annotations

import json
import math
import pickle
import runpy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rltf.adapters.trl import unit_test_reward
from rltf.errors import UserError
from tests.adapters.cases import ANY, BROKEN, BROKEN_ROW, HALF, MBPP, PASS, RIGHT, ROW, SQUARE, WRONG, said

PROMPT = "Print the square."


def test_rewards_of_texts_and_chats() -> None:
    reward = unit_test_reward(workers=1)
    prompts, problem = [PROMPT] * 3, [SQUARE] * 3
    assert reward(prompts, [*PASS], problem=problem) == [*PASS.values()]
    assert reward(prompts, [said(text) for text in PASS], problem=problem) == [*PASS.values()]


def test_rows_from_the_columns_of_a_benchmark() -> None:
    columns = {name: [value] * 2 for name, value in MBPP.items()}
    ours = {"completion_ids": [[1], [2]], "trainer_state": object(), "log_extra": print, "log_metric": print}
    programs = ["def double(n):\n    return n * 2\n", "def double(n):\n    return 4\n"]
    assert unit_test_reward(workers=1, score="pass_ratio")(["p"] * 2, programs, **columns, **ours) == [1.0, 1 / 3]


def test_a_column_of_statements_is_no_column_of_rows() -> None:
    """DeepCoder's `problem` is the statement."""
    columns = {"problem": ["Print the square."], "tests": [json.dumps([{"input": "5", "output": "25"}])]}
    assert unit_test_reward(workers=1)([PROMPT], [RIGHT], **columns) == [1.0]


def test_no_reward_if_the_grader_fails() -> None:
    rewards = unit_test_reward(workers=1)([PROMPT] * 2, [ANY, RIGHT], problem=[BROKEN_ROW, ROW])
    assert rewards == [None, 1.0]


def test_a_data_set_without_rows() -> None:
    with pytest.raises(UserError, match="add a column 'problem'"):
        unit_test_reward(workers=1)([PROMPT], [RIGHT], completion_ids=[[1]])


def test_the_reward_can_be_sent_to_another_process() -> None:
    reward = pickle.loads(pickle.dumps(unit_test_reward(workers=1)))
    assert reward.__name__ == "unit_test_reward"
    assert reward([PROMPT], [RIGHT], problem=[ROW]) == [1.0]


@pytest.fixture
def trl() -> Any:
    return pytest.importorskip("trl", reason="TRL is not installed (the extra `dev` has it)")


def train(
    trl: Any, model: Path, output: Path, rows: list[dict[str, Any]], completions: Sequence[str]
) -> list[dict[str, Any]]:
    """What TRL logs of one step for each row, in which the model always says `completions`."""
    from datasets import Dataset

    def say(prompts: list[str], trainer: Any) -> dict[str, Any]:
        encode = trainer.processing_class.encode
        texts = [completions[number % len(completions)] for number in range(len(prompts))]
        ids = [[*encode(text), trainer.processing_class.eos_token_id] for text in texts]
        return {"prompt_ids": [encode(p) for p in prompts], "completion_ids": ids, "logprobs": None}

    options = trl.GRPOConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=len(completions),
        num_generations=len(completions),
        max_steps=len(rows),
        shuffle_dataset=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    reward = unit_test_reward(workers=1)
    data = Dataset.from_list(rows)
    trainer = trl.GRPOTrainer(str(model), reward, options, data, rollout_func=say)
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


@pytest.mark.slow
def test_trl_trains_on_these_rewards(
    trl: Any, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second problem has a broken test, so its completions have no reward, and the third step is unharmed."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    rows = [{"prompt": PROMPT, "problem": json.dumps(row)} for row in (SQUARE, BROKEN, SQUARE)]
    logged = train(trl, tiny_model_dir, tmp_path, rows, [RIGHT, HALF, WRONG, RIGHT])
    means = [row["rewards/unit_test_reward/mean"] for row in logged]
    assert means[0] == means[2] == 0.5
    assert means[1] is None
    assert [row["loss"] == 0 or math.isfinite(row["loss"]) for row in logged] == [True] * 3
    assert logged[0]["grad_norm"] > 0
    assert logged[1]["grad_norm"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("trl")
def test_the_example_runs(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, output = tmp_path / "model", tmp_path / "output"
    shutil.copytree(tiny_model_dir, model)
    (model / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    options = {"--model": model, "--output": output, "--steps": 1, "--max-tokens": 16}
    words = [str(word) for option in options.items() for word in option]
    monkeypatch.setattr(sys, "argv", ["trl_grpo.py", *words])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "trainers" / "trl_grpo.py"), run_name="__main__")
    assert (output / "model.safetensors").is_file()
    (state,) = output.glob("checkpoint-1/trainer_state.json")
    (row,) = [row for row in json.loads(state.read_text())["log_history"] if "loss" in row]
    assert row["rewards/unit_test_reward/mean"] == 0
