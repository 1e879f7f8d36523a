"""SFT: it learns, stops when validation stops improving, and runs only once for the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rltf.errors import UserError
from rltf.learner.data import ReferenceSampler, TokenSequence, encode_references, split
from rltf.learner.learner import Learner
from rltf.learner.sft import SftProgress, run_sft
from rltf.problems.prompts import PLAIN, render_prompt
from rltf.problems.types import Problem, StdinTest
from rltf.settings import LossAggMode, SftSettings
from tests.learner.samples import largest_difference, make_learner, random_ids


def copying_references(count: int = 48) -> list[TokenSequence]:
    """A task that a tiny model learns: repeat the last token of the prompt four times."""
    random = np.random.default_rng(0)
    prompts = [random.integers(2, 12, 4, dtype=np.int32) for _ in range(count)]
    return [TokenSequence(prompt, np.repeat(prompt[-1:], 4)) for prompt in prompts]


def stage(
    model: Path, cache_dir: Path | None, loss_agg_mode: LossAggMode = LossAggMode.TOKEN_MEAN, **fields: Any
) -> Learner:
    given = {"num_steps": 40, "learning_rate": 3e-3, "warmup_steps": 5, "batch_size": 16, "evaluate_every": 5}
    sft = SftSettings(**{**given, "cache_dir": cache_dir, **fields})
    return make_learner(model, sft=sft, loss_agg_mode=loss_agg_mode)


def test_sft_learns_and_is_cached(tiny_model_dir: Path, tmp_path: Path) -> None:
    references = copying_references()
    first = stage(tiny_model_dir, tmp_path)
    before = first.evaluate_loss(references)
    seen: list[SftProgress] = []
    report = run_sft(first, references, seed=0, report=seen.append)
    assert not report.cached
    assert [p.step for p in seen] == list(range(1, report.num_steps + 1))
    assert first.evaluate_loss(references) < before / 3

    second = stage(tiny_model_dir, tmp_path)
    cached = run_sft(second, references, seed=0)
    assert cached.cached
    assert (cached.best_step, cached.validation_loss) == (report.best_step, report.validation_loss)
    same = largest_difference(list(first.policy.model.parameters()), list(second.policy.model.parameters()))
    assert same == 0
    (folder,) = tmp_path.iterdir()
    AutoModelForCausalLM.from_pretrained(folder)


def test_a_damaged_model_in_the_cache_is_trained_again(tiny_model_dir: Path, tmp_path: Path) -> None:
    references = copying_references()
    run_sft(stage(tiny_model_dir, tmp_path, num_steps=2), references, seed=0)
    (folder,) = tmp_path.iterdir()
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    assert not run_sft(stage(tiny_model_dir, tmp_path, num_steps=2), references, seed=0).cached
    assert run_sft(stage(tiny_model_dir, tmp_path, num_steps=2), references, seed=0).cached
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, f"set-aside-{folder.name}"}


def test_an_interrupted_stage_continues_with_the_same_bits(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = copying_references()
    whole = stage(tiny_model_dir, tmp_path / "whole")
    report = run_sft(whole, references, seed=0)
    monkeypatch.setattr("rltf.learner.sft.STORE_EVERY_S", 0.0)

    seen: list[int] = []

    def interrupt(progress: SftProgress) -> None:
        seen.append(progress.step)
        if progress.step == stops[0]:
            raise KeyboardInterrupt

    stops = [13, 28]
    while stops:
        with pytest.raises(KeyboardInterrupt):
            run_sft(stage(tiny_model_dir, tmp_path / "cache"), references, seed=0, report=interrupt)
        (unfinished,) = (tmp_path / "cache").iterdir()
        assert unfinished.name.startswith("unfinished-sft-")
        stops.pop(0)
    assert seen == [*range(1, 14), *range(11, 29)]  # from the last validation on, which is every five updates
    last = stage(tiny_model_dir, tmp_path / "cache")
    assert run_sft(last, references, seed=0) == report
    assert largest_difference(list(whole.policy.model.parameters()), list(last.policy.model.parameters())) == 0
    assert [path.name[:4] for path in (tmp_path / "cache").iterdir()] == ["sft-"]


@pytest.mark.parametrize("change", ["data", "settings", "seed", "weights"])
def test_cache_key_covers_every_input(tiny_model_dir: Path, tmp_path: Path, change: str) -> None:
    references = copying_references()
    run_sft(stage(tiny_model_dir, tmp_path, num_steps=2), references, seed=0)
    other = stage(tiny_model_dir, tmp_path, num_steps=2 + (change == "settings"))
    if change == "weights":
        with torch.no_grad():
            next(other.policy.model.parameters())[0, 0] += 1
    data = references[:-1] if change == "data" else references
    assert not run_sft(other, data, seed=int(change == "seed")).cached


def test_the_objective_of_rl_makes_no_difference(tiny_model_dir: Path, tmp_path: Path) -> None:
    references = copying_references()
    run_sft(stage(tiny_model_dir, tmp_path, num_steps=2), references, seed=0)
    assert run_sft(
        stage(tiny_model_dir, tmp_path, LossAggMode.SEQ_MEAN_TOKEN_SUM, num_steps=2), references, seed=0
    ).cached


def test_sft_stops_early_and_keeps_the_best_weights(tiny_model_dir: Path) -> None:
    random = np.random.default_rng(0)
    noise = [TokenSequence(random_ids(random, 4), random_ids(random, 6)) for _ in range(30)]
    learner = stage(tiny_model_dir, None, num_steps=400, patience=2, learning_rate=1e-2, validation_share=0.3)
    report = run_sft(learner, noise, seed=0)  # noise does not generalize, so the validation loss soon rises
    assert report.num_steps == report.best_step + 2 * 5 < 400
    _, validation = split(noise, validation_share=0.3, seed=0)
    assert learner.evaluate_loss(validation) == pytest.approx(report.validation_loss, abs=1e-6)


def test_validation_holds_out_whole_problems() -> None:
    references = [TokenSequence(np.array([p], np.int32), np.array([r], np.int32)) for p in range(10) for r in range(3)]
    training, validation = split(references, validation_share=0.2, seed=0)
    assert len(training) == 24
    assert len(validation) == 6
    assert not {e.prompt_ids[0] for e in training} & {e.prompt_ids[0] for e in validation}
    with pytest.raises(UserError, match="3 reference programs of 1 problems"):
        split(references[:3], validation_share=0.2, seed=0)


def test_sampler_covers_all_references_and_resumes_anywhere() -> None:
    references = [TokenSequence(np.array([1], np.int32), np.array([i], np.int32)) for i in range(7)]
    sampler = ReferenceSampler(references, seed=3)
    drawn = [int(e.token_ids[0]) for _ in range(5) for e in sampler.draw(4)]
    assert sorted(drawn[:7]) == sorted(drawn[7:14]) == list(range(7))
    assert drawn[:7] != drawn[7:14]
    resumed = ReferenceSampler(references, seed=3)
    resumed.draw(4)
    again = ReferenceSampler(references, seed=3)
    again.num_drawn = resumed.num_drawn
    assert [int(e.token_ids[0]) for _ in range(4) for e in again.draw(4)] == drawn[4:]


def test_references_follow_the_prompt_of_rl_and_end(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tests = (StdinTest("1\n", "2\n"),)
    problem = Problem("p1", "own", "Print two.", tests, references=("print(2)\n", "print(1 + 1)\n"))
    bare = Problem("p2", "own", "Print three.", tests)
    references = encode_references([problem, bare], tokenizer, PLAIN, max_length=256)
    assert len(references) == 2
    for reference, program in zip(references, problem.references, strict=True):
        assert tokenizer.decode(reference.prompt_ids) == render_prompt(problem)
        assert reference.token_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(reference.token_ids[:-1]) == program
    assert encode_references([problem], tokenizer, PLAIN, max_length=20) == []
