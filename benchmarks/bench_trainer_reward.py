"""Our reward in TRL's GRPO trainer, beside the reward that many recipes write: a process for each program.

    BENCHMARK_DATA=FOLDER python benchmarks/bench_trainer_reward.py [--updates N] [--rounds N]

The naive reward runs program and asserts in a new Python, as many at a time as there are cores, and gives 1 if the exit
status is 0. Prints one JSON object per case. `cheats`: what both rewards give to programs that solve nothing. `honest`:
reference programs of MBPP, whole and without their last line, and how many of them the rewards disagree about. `trl`:
samples per second of a GRPO run on these programs, from the end of the first update to the end of the last, and the
seconds of an update that the reward takes, in turn with either reward. The model is tiny and does not sample: it is
told what to say, so that both runs grade the same programs. Then the ratio of the medians.

TRL is installed from `benchmarks/requirements-peers.txt`; without it, the case is skipped. Leave the machine alone
meanwhile.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rltf.adapters.trl import unit_test_reward
from rltf.problems import load
from rltf.settings import CACHE_DIR

PEERS = Path(__file__).parent.parent / "runs" / "peers"
NUM_CORES = len(os.sched_getaffinity(0))
GROUP_SIZE, NUM_GROUPS = 8, 4
BATCH_SIZE = GROUP_SIZE * NUM_GROUPS
MAX_CHARACTERS = 400  # the context of the tiny model
TIMEOUT_S = 10.0
_NAME = "trainer reward"


def _row(reference: str, *asserts: str, setup: str = "") -> str:
    shared = {"task_id": 1, "text": "Write f.", "code": reference, "challenge_test_list": []}
    return json.dumps(shared | {"test_list": asserts, "test_setup_code": setup})


_SQUARE = _row("def f(n): return n * n", "assert f(5) == 25", "assert f(3) == 9")
_CLOSE = _row(
    "def f(n): return n * n + 0.5",
    "assert math.isclose(f(2), 4.5)",
    "assert math.isclose(f(4), 16.5)",
    setup="import math",
)
CHEATS = {
    "sys.exit(0)": ("import sys\nsys.exit(0)", _SQUARE),
    "os._exit(0)": ("import os\nos._exit(0)", _SQUARE),
    "excepthook that exits with 0": (
        "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\ndef f(n): return 0",
        _SQUARE,
    ),
    "object equal to everything": ("class E:\n  __eq__ = lambda s, o: True\ndef f(n): return E()", _SQUARE),
    "patched comparison": ("import math\nmath.isclose = lambda *a, **k: True\ndef f(n): return 0", _CLOSE),
    "frames walked for the expected value": (
        "import sys\ndef f(n):\n  frame = sys._getframe()\n  while frame := frame.f_back:\n"
        "    found = frame.f_code.co_consts\n    for one, next_one in zip(found, found[1:]):\n"
        "      if one == n: return next_one",
        _SQUARE,
    ),
}


class Naive:
    """A reward by exit status."""

    __name__ = "naive"

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], *, problem: Sequence[str], **_: Any) -> Any:
        with ThreadPoolExecutor(NUM_CORES) as pool:
            return list(pool.map(self._reward, completions, problem))

    @staticmethod
    def _reward(program: str, problem: str) -> float:
        row = json.loads(problem)
        source = "\n".join([program, row["test_setup_code"], *row["test_list"]])
        command = [sys.executable, "-c", source]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return 0.0
        return float(done.returncode == 0)


def cheats(rewards: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What each reward gives to each cheat."""
    for name, (program, row) in CHEATS.items():
        given = {system: reward(["Write f."], [program], problem=[row])[0] for system, reward in rewards.items()}
        yield {"benchmark": _NAME, "case": "cheats", "program": name, **given}


def honest_programs(data: Path, num_problems: int) -> list[tuple[str, str, str]]:
    """Prompt, program and row: references of MBPP, and each without its last line."""
    found = []
    for line in (data / "mbpp" / "mbpp.jsonl").read_text().splitlines():
        row = json.loads(line)
        program = row["code"].replace("\r\n", "\n").replace("\t", "    ").strip()
        if len(program) < MAX_CHARACTERS and "\n" in program:
            prompt = f"{row['text']} ({row['task_id']})"
            found += [(prompt, text, line) for text in (program, program.rpartition("\n")[0])]
    return found[: 2 * num_problems]


def honest(rewards: dict[str, Any], programs: Sequence[tuple[str, str, str]]) -> Iterator[dict[str, Any]]:
    """How often the rewards agree, and how fast they are without a trainer."""
    prompts, texts, rows = zip(*programs, strict=True)
    given, seconds = {}, {}
    for system, reward in rewards.items():
        began = time.monotonic()
        given[system] = reward(prompts, texts, problem=rows)
        seconds[system] = time.monotonic() - began
    pairs = list(zip(*given.values(), strict=True))
    yield {
        "benchmark": _NAME,
        "case": "honest",
        "programs": len(pairs),
        "passing": {system: sum(values) for system, values in given.items()},
        "differ": sum(first != second for first, second in pairs),
        "programs_per_s": {system: round(len(pairs) / value, 1) for system, value in seconds.items()},
    }


class Timed:
    """A reward function that adds up the seconds of its calls."""

    def __init__(self, system: str, reward: Any) -> None:
        self.__name__ = system
        self.seconds: list[float] = []
        self._reward = reward

    def __call__(self, **words: Any) -> Any:
        began = time.monotonic()
        given = self._reward(**words)
        self.seconds.append(time.monotonic() - began)
        return given


def run_trl(model: Path, reward: Timed, programs: Sequence[tuple[str, str, str]], updates: int) -> dict[str, Any]:
    """Train for some updates, and return what was measured."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback

    trl: Any = importlib.import_module("trl")
    torch.set_num_threads(NUM_CORES)
    answers: dict[str, list[str]] = {}
    for prompt, text, _ in programs:
        answers.setdefault(prompt, []).append(text)
    rows = [{"prompt": prompt, "problem": line} for prompt, _, line in programs[::2]]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(time.monotonic())

    def say(prompts: list[str], trainer: Any) -> dict[str, Any]:
        tokenizer = trainer.processing_class
        texts = [answers[prompt][number % 2] for number, prompt in enumerate(prompts)]
        ids = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
        return {"prompt_ids": [tokenizer.encode(prompt) for prompt in prompts], "completion_ids": ids, "logprobs": None}

    with tempfile.TemporaryDirectory() as folder:
        config = trl.GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=GROUP_SIZE,
            gradient_accumulation_steps=NUM_GROUPS,
            num_generations=GROUP_SIZE,
            max_steps=updates,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        )
        data = Dataset.from_list(rows)
        trainer = trl.GRPOTrainer(str(model), reward, config, data, callbacks=[Clock()], rollout_func=say)
        trainer.log = lambda *_, **__: None  # prints
        trainer.train()
    return {
        "samples_per_s": round((updates - 1) * BATCH_SIZE / (ends[-1] - ends[0]), 2),
        "reward_s_per_update": round(statistics.median(reward.seconds[1:]), 4),
    }


def trl_runs(
    data: Path, rewards: dict[str, Any], programs: Sequence[tuple[str, str, str]], updates: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Runs with either reward, in turn, and the ratio of their speeds."""
    from rltf.learner.model_source import model_folder

    model = model_folder("tiny", load(f"mbpp:{data}/mbpp/mbpp.jsonl").problems, CACHE_DIR, seed=0)
    speeds: dict[str, list[float]] = {system: [] for system in rewards}
    for number in range(rounds):
        for system, reward in rewards.items():
            measured = run_trl(model, Timed(system, reward), programs, updates)
            speeds[system].append(measured["samples_per_s"])
            load_now = round(os.getloadavg()[0], 2)
            yield {"benchmark": _NAME, "case": "trl", "reward": system, "round": number, **measured, "load": load_now}
    medians = {system: statistics.median(values) for system, values in speeds.items()}
    yield {"benchmark": _NAME, "case": "trl", "ratio": round(medians["ours"] / medians["naive"], 2)}


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description="Our reward in TRL's trainer, beside a naive one.")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=64, help="MBPP problems")
    options = parser.parse_args()
    data = Path(os.environ.get("BENCHMARK_DATA", ""))
    if not (data / "mbpp").is_dir():
        print(json.dumps({"benchmark": _NAME, "skipped": "BENCHMARK_DATA is not a folder with benchmark data (mbpp/)"}))
        return
    sys.path.append(str(PEERS))
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    rewards = {"ours": unit_test_reward(), "naive": Naive()}
    programs = honest_programs(data, options.problems)
    for row in cheats(rewards):
        print(json.dumps(row), flush=True)
    for row in honest(rewards, programs):
        print(json.dumps(row), flush=True)
    if importlib.util.find_spec("trl") is None:
        missing = "TRL is not installed (benchmarks/requirements-peers.txt)"
        print(json.dumps({"benchmark": _NAME, "case": "trl", "skipped": missing}))
        return
    for row in trl_runs(data, rewards, programs, options.updates, options.rounds):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
