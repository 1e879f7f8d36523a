"""Supervised fine-tuning: it learns, stops when it gains no more, and is done once for the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from errors import UserError
from learner.learner import Learner
from learner.packing import TokenSequence
from learner.sft import SftProgress, run_sft
from learner.supervised import ExampleSampler, encode_references, split
from problems.prompts import render_prompt
from problems.types import Problem, StdinTest
from settings import SftSettings
from tests.learner.samples import largest_difference, make_learner, random_ids


def copying_examples(count: int = 48) -> list[TokenSequence]:
    """A task that a tiny model learns: say the prompt's last token four times."""
    random = np.random.default_rng(0)
    prompts = [random.integers(2, 12, 4, dtype=np.int32) for _ in range(count)]
    return [TokenSequence(prompt, np.repeat(prompt[-1:], 4)) for prompt in prompts]


def stage(model: Path, cache_dir: Path | None, **fields: Any) -> Learner:
    given = {"num_steps": 40, "learning_rate": 3e-3, "warmup_steps": 5, "batch_size": 16, "evaluate_every": 5}
    return make_learner(model, sft=SftSettings(**{**given, "cache_dir": cache_dir, **fields}))


def test_warm_start_learns_and_an_equal_one_comes_from_the_cache(tiny_model_dir: Path, tmp_path: Path) -> None:
    examples = copying_examples()
    first = stage(tiny_model_dir, tmp_path)
    before = first.evaluate_loss(examples)
    seen: list[SftProgress] = []
    report = run_sft(first, examples, seed=0, report=seen.append)
    assert not report.cached
    assert [p.step for p in seen] == list(range(1, report.num_steps + 1))
    assert first.evaluate_loss(examples) < before / 3

    second = stage(tiny_model_dir, tmp_path)
    cached = run_sft(second, examples, seed=0)
    assert cached.cached
    assert (cached.best_step, cached.validation_loss) == (report.best_step, report.validation_loss)
    same = largest_difference(list(first.policy.model.parameters()), list(second.policy.model.parameters()))
    assert same == 0
    (folder,) = tmp_path.iterdir()
    AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("change", ["data", "settings", "seed", "weights"])
def test_what_the_result_depends_on_is_in_the_key(tiny_model_dir: Path, tmp_path: Path, change: str) -> None:
    examples = copying_examples()
    run_sft(stage(tiny_model_dir, tmp_path, num_steps=2), examples, seed=0)
    other = stage(tiny_model_dir, tmp_path, num_steps=2 + (change == "settings"))
    if change == "weights":
        with torch.no_grad():
            next(other.policy.model.parameters())[0, 0] += 1
    data = examples[:-1] if change == "data" else examples
    assert not run_sft(other, data, seed=int(change == "seed")).cached


def test_stage_ends_when_validation_gains_no_more_and_keeps_the_best_weights(tiny_model_dir: Path) -> None:
    random = np.random.default_rng(0)
    noise = [TokenSequence(random_ids(random, 4), random_ids(random, 6)) for _ in range(30)]
    learner = stage(tiny_model_dir, None, num_steps=400, patience=2, learning_rate=1e-2, validation_share=0.3)
    report = run_sft(learner, noise, seed=0)  # nothing to generalise: validation only gets worse after a while
    assert report.num_steps == report.best_step + 2 * 5 < 400
    _, validation = split(noise, validation_share=0.3, seed=0)
    assert learner.evaluate_loss(validation) == pytest.approx(report.validation_loss, abs=1e-6)


def test_validation_holds_out_whole_problems() -> None:
    examples = [TokenSequence(np.array([p], np.int32), np.array([r], np.int32)) for p in range(10) for r in range(3)]
    training, validation = split(examples, validation_share=0.2, seed=0)
    assert len(training) == 24
    assert len(validation) == 6
    assert not {e.prompt_ids[0] for e in training} & {e.prompt_ids[0] for e in validation}
    with pytest.raises(UserError, match="3 reference programs of 1 problems cannot be split"):
        split(examples[:3], validation_share=0.2, seed=0)


def test_sampler_passes_over_all_examples_and_resumes_anywhere() -> None:
    examples = [TokenSequence(np.array([1], np.int32), np.array([i], np.int32)) for i in range(7)]
    sampler = ExampleSampler(examples, seed=3)
    drawn = [int(e.token_ids[0]) for _ in range(5) for e in sampler.draw(4)]
    assert sorted(drawn[:7]) == sorted(drawn[7:14]) == list(range(7))
    assert drawn[:7] != drawn[7:14]
    resumed = ExampleSampler(examples, seed=3)
    resumed.draw(4)
    again = ExampleSampler(examples, seed=3)
    again.state = resumed.state
    assert [int(e.token_ids[0]) for _ in range(4) for e in again.draw(4)] == drawn[4:]


def test_references_stand_behind_the_prompt_of_rl_and_end(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tests = (StdinTest("1\n", "2\n"),)
    problem = Problem("p1", "own", "Print two.", tests, references=("print(2)\n", "print(1 + 1)\n"))
    bare = Problem("p2", "own", "Print three.", tests)
    examples = encode_references([problem, bare], tokenizer, chat_template=False, max_length=256)
    assert len(examples) == 2
    for example, program in zip(examples, problem.references, strict=True):
        assert tokenizer.decode(example.prompt_ids) == render_prompt(problem)
        assert example.token_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(example.token_ids[:-1]) == program
    assert encode_references([problem], tokenizer, chat_template=False, max_length=20) == []
