"""A deterministic run is the same bits however it is made: at once, killed and resumed, or as a plain loop."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.engine import EngineOptions, SamplingRequest
from actors.messages import RolloutRequest
from actors.model_folder import end_token_ids
from actors.prompting import Prompter
from actors.transformers_engine import TransformersEngine
from actors.types import Completion
from learner.experience import Experience
from learner.learner import Learner
from learner.model_source import model_folder
from learner.supervised import encode_references
from rewards import Sample, score_group
from ring.grading import experience
from ring.order import ProblemOrder
from ring.problem_sets import load_problem_sets
from ring.sampling import seed_of
from sandbox.limits import Limits
from sandbox.sandbox import Sandbox
from sandbox.verdict import Isolation, Verdict
from settings import Settings
from settings_sources import load_settings
from tests.ring.jobs import ROOT, launch, small_job

pytestmark = pytest.mark.slow

NUM_STEPS = 4
OPTIONS = {
    "run.deterministic": "true",
    "run.num_steps": str(NUM_STEPS),
    "generator.engine": "transformers",
    "generator.max_tokens": "24",
    "learner.checkpoint_every": "1",
    "learner.keep_checkpoints": "9",
    "buffer.refresh_every": "1",
    "problems.evaluation": "[]",
}


def arguments(runs: Path, name: str, max_staleness: int) -> list[str]:
    options = OPTIONS | {"buffer.max_staleness": str(max_staleness)}
    more = [word for key, value in options.items() for word in (f"--{key}", value)]
    return small_job(runs, name, *more, warm_start_steps=0)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{NUM_STEPS}" / "model.safetensors")


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def run_to_the_end(runs: Path, name: str, max_staleness: int) -> dict[str, torch.Tensor]:
    done = launch(*arguments(runs, name, max_staleness))
    assert done.returncode == 0, done.stdout + done.stderr
    return weights(runs / name)


def kill_after(runs: Path, name: str, max_staleness: int, num_updates: int, seconds: float) -> None:
    """Start the run and kill its driver `seconds` after an update."""
    command = [sys.executable, "launch.py", *arguments(runs, name, max_staleness)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = runs / name / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") >= num_updates):
        assert process.poll() is None, "the job ended by itself"
        assert time.monotonic() < deadline, "the job did not get to its updates"
        time.sleep(0.02)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)


def resumed(runs: Path, name: str) -> dict[str, torch.Tensor]:
    done = launch("--resume", str(runs / name))
    assert done.returncode == 0, done.stdout + done.stderr
    return weights(runs / name)


def test_killed_and_resumed_or_a_plain_loop_it_is_the_same_bits(tmp_path: Path) -> None:
    whole = run_to_the_end(tmp_path, "whole", max_staleness=0)
    assert_same_bits(plain_loop(tmp_path, max_staleness=0), whole)
    kill_after(tmp_path, "killed", 0, num_updates=2, seconds=random.random() / 2)
    assert_same_bits(resumed(tmp_path, "killed"), whole)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_killed_anywhere_and_resumed_it_is_the_same_bits(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling runs ahead of training here, so that a kill meets rollouts that are under way."""
    monkeypatch.setitem(OPTIONS, "generator.engine", engine)
    whole = run_to_the_end(tmp_path, "whole", max_staleness=1)
    for seed in range(4):
        where = random.Random(seed)
        name = f"killed-{seed}"
        kill_after(tmp_path, name, 1, where.randint(1, NUM_STEPS - 1), seconds=where.random())
        assert_same_bits(resumed(tmp_path, name), whole)


def plain_loop(runs: Path, max_staleness: int) -> dict[str, torch.Tensor]:
    """Sample, grade, score, update: one after the other, in this process, from the library's parts."""
    settings, _ = load_settings(arguments(runs, "loop", max_staleness), environ={})
    sets = load_problem_sets(settings.problems)
    cache = settings.learner.warm_start.cache_dir
    assert cache is not None
    model = model_folder(settings.model.name, list(sets.all_training), cache, seed=settings.run.seed)
    prompter = Prompter(model, sets.by_id, chat_template=False)
    engine = make_engine(model, prompter, settings)
    learner = Learner(
        str(model),
        settings.learner,
        dtype=settings.model.dtype,
        preset=settings.rewards.preset,
        temperature=settings.generator.temperature,
        seed=settings.run.seed,
    )
    references = encode_references(
        sets.supervised, learner.policy.tokenizer, chat_template=False, max_length=settings.model.max_length
    )
    learner.set_examples(references)
    order = ProblemOrder([p.task_id for p in sets.train], settings.run.seed, settings.problems.skip_solved)
    torch.use_deterministic_algorithms(True)
    try:
        with Sandbox(Limits.of(settings.sandbox), Isolation(settings.sandbox.require)) as sandbox:
            for step in range(settings.run.num_steps):
                engine.load_weights(step + 1, learner.policy.published())
                batch: list[Experience] = []
                solved: dict[str, bool] = {}
                while len(batch) < settings.learner.batch_size:
                    task_id = order.next()
                    completions = sample(engine, prompter, settings, task_id, order.position)
                    verdicts = [sandbox.grade(sets.by_id[task_id], c.program, c.completion_id) for c in completions]
                    solved[task_id] = all(verdict.passed for verdict in verdicts)
                    batch += scored(completions, verdicts, settings)
                for task_id, passed in solved.items():
                    order.note(task_id, solved=passed)
                learner.update(learner.prepare(batch))
    finally:
        torch.use_deterministic_algorithms(False)
    return dict(learner.policy.model.named_parameters())  # a tied head once, as in a checkpoint


def make_engine(model: Path, prompter: Prompter, settings: Settings) -> TransformersEngine:
    options = EngineOptions(
        dtype=settings.model.dtype,
        max_length=settings.model.max_length,
        max_num_seqs=settings.generator.max_num_seqs,
        kv_cache_bytes=settings.generator.kv_cache_bytes,
        end_token_ids=end_token_ids(model, prompter.tokenizer, chat=False),
        deterministic=True,
    )
    return TransformersEngine(model, options)


def sample(
    engine: TransformersEngine, prompter: Prompter, settings: Settings, task_id: str, position: int
) -> tuple[Completion, ...]:
    generator = settings.generator
    request = RolloutRequest(
        rollout_id=f"r{position}",
        task_id=task_id,
        num_samples=generator.samples_per_problem,
        greedy=False,
        temperature=generator.temperature,
        top_p=generator.top_p,
        max_tokens=generator.max_tokens,
        seed=seed_of(settings.run.seed, "rollout", position),
    )
    prompt_ids = prompter.encode(task_id)
    engine.add_request(
        SamplingRequest(
            request.rollout_id,
            prompt_ids,
            request.num_samples,
            request.greedy,
            request.temperature,
            request.top_p,
            request.max_tokens,
            request.seed,
        )
    )
    while not (finished := engine.step()):
        pass
    return prompter.rollout(request, prompt_ids, finished[0]).samples


def scored(completions: tuple[Completion, ...], verdicts: list[Verdict], settings: Settings) -> list[Experience]:
    samples = [Sample.of(c, v) for c, v in zip(completions, verdicts, strict=True)]
    scores = score_group(samples, settings.rewards, greedy=None, previous=None)
    return [experience(c, s) for c, s in zip(completions, scores.samples, strict=True) if s is not None]
