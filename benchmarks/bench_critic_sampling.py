"""What critic sampling is worth on the starter benchmark's pitfalls: plain, filtered, refined, repaired, and both.

    PYTHONPATH=. python benchmarks/bench_critic_sampling.py --model DIR --critic DIR --repair DIR --output DIR \
        [--problems SPEC] [--seeds N ...] [--num-samples N] [--k K ...] [further options of rltf evaluate]

Each seed is one `rltf evaluate --equal-budget` in a folder of `--output`, which an interrupted call continues. Prints
one JSON object per seed and population, with pass@k, its interval over problems and its tokens; then one per
population, with the mean over the seeds and their standard deviation; then one per seed with the critic's accuracy.
Without models, it prints that it skipped the benchmark.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import rltf.evaluate

TOKENS = ("prompt_tokens", "completion_tokens", "critic_tokens")


def main() -> int:
    """Evaluate every seed, and print the results."""
    parser = argparse.ArgumentParser(description="Critic sampling, population by population.", allow_abbrev=False)
    add = parser.add_argument
    add("--model", help="the policy")
    add("--critic", help="a critic of the policy (rltf critic)")
    add("--repair", help="a repair model (rltf train-repair)")
    add("--problems", default="starter:pitfalls-test", help="SPEC (default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the sampling (default: 0 1 2)")
    add("--num-samples", type=int, default=20, help="programs per problem and round (default: %(default)s)")
    add("--k", type=int, nargs="+", default=[1, 5], help="the k of pass@k (default: 1 5)")
    add("--output", type=Path, help="folder of the evaluations")
    options, more = parser.parse_known_args()
    if not (options.model and options.critic and options.repair and options.output):
        print(json.dumps({"skipped": "needs --model, --critic, --repair and --output"}))
        return 0
    found: dict[int, Mapping[str, Any]] = {}
    for seed in options.seeds:
        output = options.output / f"seed-{seed}"
        command = ["--model", options.model, "--critic", options.critic, "--repair", options.repair, "--equal-budget"]
        command += ["--problems", options.problems, "--seed", str(seed), "--num-samples", str(options.num_samples)]
        command += ["--k", *map(str, options.k), "--output", str(output), *more]
        with redirect_stdout(sys.stderr):  # the table
            status = rltf.evaluate.main(command)
        if status:
            return status
        found[seed] = json.loads((output / "results.json").read_text(encoding="utf-8"))["critic_sampling"]
        for row in rows_of_seed(seed, found[seed], options.k):
            print(json.dumps(row), flush=True)
    for row in rows_of_all(found, options.k):
        print(json.dumps(row))
    return 0


def populations(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The populations of an evaluation by name."""
    return {name: one for name, one in results.items() if name not in ("problems", "critic")}


def rows_of_seed(seed: int, results: Mapping[str, Any], ks: list[int]) -> Iterator[dict[str, Any]]:
    """One row per population."""
    for name, one in populations(results).items():
        row = {"case": name, "seed": seed, "num_samples": one["num_samples"]} | {key: one[key] for key in TOKENS}
        for k in (f"pass@{k}" for k in ks):
            row |= {k: round(one[k]["all"], 4), f"{k} interval": [round(at, 4) for at in one["intervals"][k]["all"]]}
        yield row


def rows_of_all(found: Mapping[int, Mapping[str, Any]], ks: list[int]) -> Iterator[dict[str, Any]]:
    """One row per population, over all seeds; then the critic's accuracy of each."""
    for name in populations(next(iter(found.values()))):
        row: dict[str, Any] = {"case": f"{name}, mean of {len(found)} seeds"}
        for k in (f"pass@{k}" for k in ks):
            values = [one[name][k]["all"] for one in found.values()]
            row[k] = round(mean(values), 4)
            row[f"{k} deviation"] = round(stdev(values), 4) if len(values) > 1 else None
        yield row | {key: round(mean(one[name][key] for one in found.values())) for key in TOKENS}
    for seed, one in found.items():
        yield {"case": "critic", "seed": seed, "problems": one["problems"]} | one["critic"]


if __name__ == "__main__":
    raise SystemExit(main())
