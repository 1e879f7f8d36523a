"""Tokens per second that are sampled and graded with one turn, and with dialogues of up to three.

    PYTHONPATH=. python benchmarks/bench_turns.py --model DIR [--problems SPEC] [--seconds S] [--rounds N] [SETTINGS]

The same generators, sandbox workers and problems serve both, in turn, with the same number of rollouts under way.
`tokens_per_s` are those that the generators sampled within the window. `all_tokens_per_s` also counts the prompts and
the feedback that they read: each token of a dialogue once, and a prompt once for all samples of its rollout. How many
come with each sampled token is that of the rollouts graded within the window. Prints one JSON object per round, and the
medians of the ratios of both (three turns to one). SETTINGS are those of a job, such as `--generator.max_num_seqs 64`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import ray

from rltf.actors.messages import RolloutRequest
from rltf.controller.dialogues import Dialogues
from rltf.controller.grading import GradedRollout
from rltf.controller.problems import load_problem_sets
from rltf.controller.start import Actors, start_actors
from rltf.settings import GIB, Settings
from rltf.settings_sources import load_settings
from rltf.transport.rollouts import merged

MAX_TURNS = 3
# A job requests all that its next snapshots can use, which is far more than its engines decode at once.
SAMPLES_PER_SLOT = 8
CONFIG = "configs/ablation.yaml"


@dataclass(slots=True)
class Load:
    """Keeps `num_rollouts` under way, over the problems again and again."""

    settings: Settings
    actors: Actors
    task_ids: list[str]
    num_rollouts: int
    warm_up_s: float
    num_asked: int = 0
    graded: list[tuple[float, GradedRollout, int]] = field(default_factory=list)

    async def run(self, max_turns: int, seconds: float) -> dict[str, float]:
        """The rates in a window of `seconds`, after a while to get into step."""
        self.graded.clear()
        dialogues = Dialogues(self.actors.generators, self.actors.pool, max_turns)
        tasks = [asyncio.create_task(self._keep_going(dialogues)) for _ in range(self.num_rollouts)]
        await asyncio.sleep(self.warm_up_s)
        began, num_before = time.monotonic(), await self._num_sampled()
        await asyncio.sleep(seconds)
        elapsed, num_sampled = time.monotonic() - began, await self._num_sampled() - num_before
        inside = [rollout for at, rollout, _ in self.graded if at >= began]
        if not inside:
            raise SystemExit(f"no rollout was graded within {seconds:g} s: raise --warm-up and --seconds")
        num_all = sum(num_tokens for at, _, num_tokens in self.graded if at >= began)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._until_idle()
        num_samples = sum(rollout.num_samples for rollout in inside)
        return {
            "tokens_per_s": num_sampled / elapsed,
            "all_tokens_per_s": num_sampled / elapsed * num_all / sum(rollout.num_tokens for rollout in inside),
            "programs_per_s": num_samples / elapsed,
            "pass_rate": sum(rollout.num_passed for rollout in inside) / max(1, num_samples),
        }

    async def _keep_going(self, dialogues: Dialogues) -> None:
        while True:
            generator = self.settings.generator
            self.num_asked += 1
            request = RolloutRequest(
                f"b{self.num_asked}", self.task_ids[self.num_asked % len(self.task_ids)], generator.num_generations,
                False, generator.temperature, generator.top_p, generator.max_tokens,
            )  # fmt: skip
            handle = await dialogues.continued(request, await self.actors.generators.sample(request))
            graded = await self.actors.pool.submit("grade_rollout", handle.refs, None, 0, num_items=request.num_samples)
            first, *others = await asyncio.gather(*handle.refs)
            num_prompt = len(first.samples[0].prompt_ids)
            lasts = merged([first, *others]).samples
            num_all = num_prompt + sum(len(one.prompt_ids) + len(one.token_ids) - num_prompt for one in lasts)
            self.graded.append((time.monotonic(), graded, num_all))

    async def _num_sampled(self) -> int:
        return sum(stats.num_tokens for stats in await self.actors.generators.stats())

    async def _until_idle(self) -> None:
        while self.actors.generators.num_outstanding:
            await asyncio.sleep(0.1)


async def measure(settings: Settings, model: Path, options: argparse.Namespace) -> None:
    """Run all rounds and print their figures."""
    sets = load_problem_sets(settings.problems)
    actors = await start_actors(settings, model, sets, lambda event: None, resumed_step=None)
    await actors.generators.start()
    num_rollouts = SAMPLES_PER_SLOT * settings.generator.max_num_seqs // settings.generator.num_generations
    task_ids = [problem.task_id for problem in sets.train]
    load = Load(settings, actors, task_ids, num_rollouts, options.warm_up)
    ratios: dict[str, list[float]] = {"tokens_per_s": [], "all_tokens_per_s": []}
    for number in range(options.rounds):
        rates = {turns: await load.run(turns, options.seconds) for turns in (1, MAX_TURNS)}
        for name, found in ratios.items():
            found.append(rates[MAX_TURNS][name] / rates[1][name])
        for turns, measured in rates.items():
            rounded = {name: round(value, 3) for name, value in measured.items()}
            print(json.dumps({"benchmark": "turns", "round": number, "max_turns": turns, **rounded}), flush=True)
    medians = {f"ratio_of_{name}": round(statistics.median(found), 3) for name, found in ratios.items()}
    print(json.dumps({"benchmark": "turns", **medians, "load": os.getloadavg()[0]}))
    await actors.close()


def main() -> int:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model folder, such as a checkpoint of a run")
    parser.add_argument("--problems", default="starter:pitfalls-test", help="SPEC of the problems")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a window")
    parser.add_argument("--warm-up", type=float, default=5.0, help="seconds before it: longer than a dialogue takes")
    parser.add_argument("--rounds", type=int, default=3)
    options, more = parser.parse_known_args()
    settings, _ = load_settings(
        [
            *("--config", CONFIG, "--problems.train", options.problems, "--problems.evaluation", "[]"),
            *("--generator.max_turns", str(MAX_TURNS), "--model.max_model_len", "512"),
            *("--generator.max_num_seqs", "64", "--learner.sft.num_steps", "0", *more),
        ]
    )
    ray.init(address="local", include_dashboard=False, object_store_memory=GIB, log_to_driver=False)
    asyncio.run(measure(settings, options.model.resolve(), options))
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
