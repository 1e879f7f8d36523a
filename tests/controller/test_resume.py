"""A deterministic run is the same bits however it is made: at once, killed and resumed, or as a plain loop."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.engine import EngineOptions, SamplingRequest
from actors.messages import RolloutRequest
from actors.model_folder import end_token_ids
from actors.prompting import Prompter
from actors.transformers_engine import TransformersEngine
from controller.grading import experience, program_tokens
from controller.problems import ProblemSampler, load_problem_sets
from controller.rollouts import seed_of
from controller.state import RunState
from learner.data import Experience, encode_references
from learner.learner import Learner
from learner.model_source import model_folder
from rewards import score_group
from sandbox.sandbox import Sandbox
from sandbox.verdict import Isolation, Verdict
from settings import Settings
from settings_sources import load_settings
from tests.controller.jobs import ROOT, launch, small_job
from transport.rollouts import Completion

pytestmark = pytest.mark.slow

NUM_STEPS = 4
SAMPLES = 4
OPTIONS = {
    "run.num_steps": str(NUM_STEPS),
    "problems.evaluation": "[]",
    "problems.skip_solved": "0",
    "generator.engine": "transformers",
    "generator.max_tokens": "24",
    "generator.num_generations": str(SAMPLES),
    "checkpoint.every": "1",
    "checkpoint.keep": "99",
    "buffer.refresh_every": "1",
}


def arguments(runs: Path, name: str, **more: object) -> list[str]:
    """Of a job; `more` are further settings, `__` for the dot."""
    options = OPTIONS | {key.replace("__", "."): str(value).lower() for key, value in more.items()}
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return small_job(runs, name, *words, sft_steps=0)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{NUM_STEPS}" / "model.safetensors")


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def finish(*command: str) -> None:
    done = launch(*command)
    assert done.returncode == 0, done.stdout + done.stderr


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "launch.py", *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def kill(driver: subprocess.Popen[bytes]) -> None:
    driver.send_signal(signal.SIGKILL)
    driver.wait(timeout=60)


def kill_in_training(run: Path, job: list[str], num_updates: int) -> None:
    """Start the job, and kill its driver some moments after it has made `num_updates` more than before."""
    metrics = run / "metrics.jsonl"
    num_updates += metrics.read_text().count("\n") if metrics.exists() else 0
    driver = start(*job)
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") >= num_updates):
        assert driver.poll() is None, "the job ended by itself"
        assert time.monotonic() < deadline, "the job did not get to its updates"
        time.sleep(0.02)
    time.sleep(random.random() / 2)
    kill(driver)


def run_through(run: Path, job: list[str], lives_s: Sequence[float]) -> int:
    """The job to its end, its driver killed so long after each of its starts; returns how often it was."""
    for num_kills, seconds in enumerate(lives_s):
        driver = start(*job)
        try:
            assert driver.wait(timeout=seconds) == 0
            return num_kills
        except subprocess.TimeoutExpired:
            kill(driver)
        if (run / "settings.yaml").exists():
            job = ["--resume", str(run)]
    finish(*job)
    return len(lives_s)


def check_books(run: Path) -> None:
    """No problem's turn was skipped or taken twice, from one checkpoint to the next, by what their ledgers say.

    A turn is a position in the order of problems, which has each problem once in an epoch.
    """
    settings, _ = load_settings(["--resume", str(run)], environ={})
    sets = load_problem_sets(settings.problems)
    order = ProblemSampler([problem.task_id for problem in sets.train], settings.run.seed)
    turns = [""]
    live: set[int] = set()
    issued = closed = 0
    for step in range(1, settings.run.num_steps + 1):
        state = RunState.load(run / "checkpoints" / f"step-{step}")
        ledger = state.restored_ledger()
        assert ledger.counts().balance == 0
        new = range(len(turns), state.order["position"] + 1)
        turns += [order.next() for _ in new]
        now = {rollout.position: rollout.task_id for rollout in ledger.live.values()}
        assert len(now) == len(ledger.live), "two rollouts for one turn"
        assert all(turns[position] == task_id for position, task_id in now.items())
        assert now.keys() <= live | set(new), "a turn came again"
        ended = (live | set(new)) - now.keys()
        assert ledger.num_issued - issued == SAMPLES * len(new), "a turn was not asked for once"
        dropped = ledger.dropped.total()
        assert ledger.num_trained + dropped - closed == SAMPLES * len(ended), "a turn ended without being counted"
        live, issued, closed = set(now), ledger.num_issued, ledger.num_trained + dropped


def test_killed_and_resumed_or_a_plain_loop_it_is_the_same_bits(tmp_path: Path) -> None:
    finish(*arguments(tmp_path, "whole", run__deterministic=True, buffer__max_off_policy_versions=0))
    whole = weights(tmp_path / "whole")
    assert_same_bits(plain_loop(tmp_path), whole)
    job = arguments(tmp_path, "killed", run__deterministic=True, buffer__max_off_policy_versions=0)
    kill_in_training(tmp_path / "killed", job, random.randint(1, NUM_STEPS - 1))
    finish("--resume", str(tmp_path / "killed"))
    assert_same_bits(weights(tmp_path / "killed"), whole)
    check_books(tmp_path / "killed")


@pytest.mark.long
@pytest.mark.parametrize(("engine", "num_runs"), [("transformers", 6), ("vllm", 2)])
def test_killed_anywhere_and_resumed_it_is_the_same_bits(engine: str, num_runs: int, tmp_path: Path) -> None:
    """Sampling runs ahead of training here, so that a kill meets rollouts that are under way."""

    def job(name: str) -> list[str]:
        return arguments(
            tmp_path, name, run__deterministic=True, generator__engine=engine, buffer__max_off_policy_versions=1
        )  # fmt: skip

    began = time.monotonic()
    finish(*job("whole"))
    whole_s = time.monotonic() - began
    for seed in range(num_runs):
        where = random.Random(seed)
        run = tmp_path / f"killed-{seed}"
        lives_s = [where.uniform(0, whole_s) for _ in range(1 + seed % 2)]
        num_kills = run_through(run, job(run.name), lives_s)
        print(f"{engine}: {num_kills} kills, lives of {lives_s} s; the whole run takes {whole_s:.0f} s")
        assert_same_bits(weights(run), weights(tmp_path / "whole"))
        check_books(run)


@pytest.mark.long
def test_killed_anywhere_and_resumed_no_turn_is_skipped_or_taken_twice(tmp_path: Path) -> None:
    """Two generators, overlapping freely, over more than an epoch of problems."""
    job = arguments(
        tmp_path, "killed", run__num_steps=32, generator__num_generators=2, buffer__max_off_policy_versions=2,
        buffer__refresh_every=2,
    )  # fmt: skip
    run = tmp_path / "killed"
    for _ in range(4):
        kill_in_training(run, job, 2)
        job = ["--resume", str(run)]
    finish(*job)
    check_books(run)
    assert (run / "launch.log").read_text().count("resumed from") == 4


def plain_loop(runs: Path) -> dict[str, torch.Tensor]:
    """Sample, grade, score, update: one after the other, in this process, from the library's parts."""
    job = arguments(runs, "loop", run__deterministic=True, buffer__max_off_policy_versions=0)
    settings, _ = load_settings(job, environ={})
    sets = load_problem_sets(settings.problems)
    cache = settings.learner.sft.cache_dir
    assert cache is not None
    model = model_folder(settings.model.name, list(sets.all_training), cache, seed=settings.run.seed)
    prompter = Prompter(model, sets.by_id, chat_template=False)
    engine = make_engine(model, prompter, settings)
    learner = Learner(
        str(model),
        settings.learner,
        dtype=settings.model.dtype,
        temperature=settings.generator.temperature,
        seed=settings.run.seed,
    )
    references = encode_references(
        sets.supervised, learner.policy.tokenizer, chat_template=False, max_length=settings.model.max_model_len
    )
    learner.set_references(references)
    order = ProblemSampler([p.task_id for p in sets.train], settings.run.seed, settings.problems.skip_solved)
    torch.use_deterministic_algorithms(True)
    try:
        with Sandbox(settings.sandbox, Isolation(settings.sandbox.min_isolation)) as sandbox:
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
        max_model_len=settings.model.max_model_len,
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
        num_samples=generator.num_generations,
        greedy=False,
        temperature=generator.temperature,
        top_p=generator.top_p,
        max_tokens=generator.max_tokens,
        seed=seed_of(settings.run.seed, "rollout", position),
    )
    sampling = SamplingRequest(request, prompter.encode(task_id))
    engine.add_request(sampling)
    while not (finished := engine.step()):
        pass
    return prompter.rollout(sampling, finished[0]).samples


def scored(completions: tuple[Completion, ...], verdicts: list[Verdict], settings: Settings) -> list[Experience]:
    scores = score_group([program_tokens(c) for c in completions], verdicts, settings.rewards)
    return [experience(c, s) for c, s in zip(completions, scores.samples, strict=True) if s is not None]
