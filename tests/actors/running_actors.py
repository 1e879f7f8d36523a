"""Real generators and a real learner that tests share, since each takes many seconds to start.

An actor that a test ends is started again for the next test that asks for it, so tests run in any order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.actor import ActorProxy
from ray.exceptions import RayError
from safetensors.torch import load_file

from rltf.actors.generator import Generator, actor_options
from rltf.actors.messages import GeneratorError, RolloutHandle, RolloutRequest
from rltf.learner.actor import LearnerActor
from rltf.learner.buffer import BufferItem, RolloutMeta
from rltf.problems.types import Problem, StdinTest
from rltf.settings import GeneratorSettings, ModelSettings, Settings
from rltf.transport.rollouts import Rollout, RolloutStore, start_rollout_store
from tests.actors.sampling import Weights
from tests.actors.without_gpu import ModelHere
from tests.learner.samples import make_rollout
from tests.learner.samples import settings as learner_settings

CALL_S = 120.0
MODEL = ModelHere(dtype="float32", max_model_len=256)
KEEP = GeneratorSettings(
    num_generators=2, num_cpus=1, num_gpus=0, max_num_seqs=16, kv_cache_bytes=32 * 2**20, weight_transfer="nccl"
)
DRAIN = KEEP.model_copy(update={"on_update": "drain"})
Scorer = Callable[..., torch.Tensor]


def problem(task_id: str, statement: str) -> Problem:
    return Problem(task_id, "starter", statement, (StdinTest("", ""),))


PROBLEMS = {
    "sum": problem("sum", "Write a function `solve` that takes a list of integers and returns the sum."),
    "even": problem("even", "Write a function that returns the even ones."),
    "long": problem("long", "x y " * 400),
}


class RunningActors:
    """A generator whose updates keep what is in flight, one whose updates drain, and a learner."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._rollout_store = start_rollout_store()
        self._generators: dict[str, ActorProxy[Generator]] = {}
        self._learner: Any = None
        self._num_started = 0

    def start(self) -> None:
        self._learner = start_learner(self._model, MODEL, "nccl")
        for on_update in ("keep", "drain"):
            self._start_generator(on_update)

    def end(self) -> None:
        for actor in (self._learner, *self._generators.values()):
            kill(actor)

    @property
    def keeping(self) -> ActorProxy[Generator]:
        return self._living("keep")

    @property
    def draining(self) -> ActorProxy[Generator]:
        return self._living("drain")

    @property
    def learner(self) -> Any:
        """The learner. The weights it publishes next are newer than those of any generator."""
        newer = max(map(next_version, (self.keeping, self.draining)))
        try:
            wait_for(self._learner.at_least_version.remote(newer))
        except RayError:
            self._learner = start_learner(self._model, MODEL, "nccl")
            wait_for(self._learner.at_least_version.remote(newer))
        return self._learner

    def _living(self, on_update: str) -> ActorProxy[Generator]:
        try:
            wait_for(self._generators[on_update].ping.remote())
        except (RayError, GeneratorError):
            kill(self._generators[on_update])
            self._start_generator(on_update)
            wait_for(self._generators[on_update].ping.remote())
        return self._generators[on_update]

    def _start_generator(self, on_update: str) -> None:
        self._num_started += 1
        self._generators[on_update] = start_generator(
            f"{on_update}-{self._num_started}",
            self._model,
            MODEL,
            KEEP if on_update == "keep" else DRAIN,
            rollout_store=self._rollout_store,
        )


def start_learner(model: Path, model_settings: ModelSettings, weight_transfer: str, num_gpus: float = 0.0) -> Any:
    actor_class: Any = LearnerActor
    learner = actor_class.options(num_gpus=num_gpus).remote(
        model,
        Settings().model_copy(
            update={
                "model": model_settings,
                "learner": learner_settings(learning_rate=0.02, warmup_steps=0, num_gpus=num_gpus),
                "generator": GeneratorSettings(verify_weights_every=1, weight_transfer=weight_transfer),
            }
        ),
    )
    tests = (StdinTest("", "1\n"),)
    problems = [Problem(f"p{i}", "own", f"Print {i}.", tests, references=(f"print({i})\n",)) for i in range(8)]
    learner.set_references.remote(problems)
    return learner


def start_generator(
    name: str,
    model: Path,
    model_settings: ModelSettings,
    settings: GeneratorSettings,
    *,
    rollout_store: ActorProxy[RolloutStore] | None = None,
    variables: Mapping[str, str] | None = None,
) -> ActorProxy[Generator]:
    options = actor_options(name, settings)
    options["runtime_env"]["env_vars"] |= variables or {}
    store = rollout_store or start_rollout_store()
    whole = Settings().model_copy(update={"model": model_settings, "generator": settings})
    return ray.remote(Generator).options(**options).remote(name, model, whole, ray.put(PROBLEMS), store)


def kill(actor: Any) -> None:
    ray.kill(actor)


def wait_for(reply: Any) -> Any:
    return ray.get(reply, timeout=CALL_S)


def next_version(generator: ActorProxy[Generator]) -> int:
    """A version of weights newer than those of `generator`."""
    return int(wait_for(generator.stats.remote()).version) + 1


def rollout_request(rollout_id: str, task_id: str = "sum", **changes: Any) -> RolloutRequest:
    fields = {"num_samples": 2, "greedy": True, "temperature": 1.0, "top_p": 1.0, "max_tokens": 12, "seed": 3}
    return RolloutRequest(rollout_id, task_id, **(fields | changes))


def take(generator: ActorProxy[Generator], count: int) -> dict[str, RolloutHandle]:
    handles: dict[str, RolloutHandle] = {}
    deadline = time.monotonic() + CALL_S
    while len(handles) < count and time.monotonic() < deadline:
        handles |= {h.rollout_id: h for h in ray.get(generator.take.remote(5.0), timeout=CALL_S)}
    assert len(handles) == count
    return handles


def fetch(handle: RolloutHandle) -> Rollout:
    return ray.get(handle.refs[0], timeout=CALL_S)


def versions(handle: RolloutHandle) -> tuple[int, int]:
    """The oldest and the newest weights that sampled a token of the rollout."""
    spans = [span.version for completion in fetch(handle).completions for span in completion.weight_versions]
    return min(spans), max(spans)


def train(learner: Any) -> None:
    """Make one update."""
    random = np.random.default_rng(0)
    rollouts = {name: make_rollout(random, name) for name in ("r0", "r1", "r2", "r3")}
    items = [BufferItem(ray.put(samples), RolloutMeta.of(name, samples)) for name, samples in rollouts.items()]
    assert wait_for(learner.step.remote(items)).metrics is not None


def weights_of(learner: Any, folder: Path) -> Weights:
    return load_file(wait_for(learner.save_checkpoint.remote(folder, "{}", [], 3)) / "model.safetensors")


def check_logprobs(rollout: Rollout, weights: dict[int, Weights], score: Scorer, atol: float = 1e-4) -> None:
    """Every sampled token must have the log-probability that its version of the weights gives it."""
    for completion in rollout.samples:
        prompt, ids = completion.prompt_ids.tolist(), completion.token_ids.tolist()
        for span in completion.weight_versions:
            expected = score(weights[span.version], prompt, ids)[span.first : span.end]
            np.testing.assert_allclose(completion.logprobs[span.first : span.end], expected, atol=atol, rtol=0)


def check_update_in_flight(
    learner: Any,
    generator: ActorProxy[Generator],
    score: Scorer,
    folder: Path,
    *,
    drains: bool = False,
    atol: float = 1e-4,
    itemsize: int = 4,
) -> None:
    """Send the learner's weights twice, the second time while rollouts are in flight, and check the rollouts."""
    handle = wait_for(learner.publish.remote())
    first = handle.version
    weights = {first: weights_of(learner, folder)}
    assert handle.num_bytes == sum(itemsize * value.numel() for value in weights[first].values())
    assert wait_for(generator.update_weights.remote(handle)) == first
    train(learner)
    weights[first + 1] = weights_of(learner, folder)
    handle = wait_for(learner.publish.remote())
    assert handle.version == first + 1
    wait_for(generator.submit.remote([rollout_request(f"long{i}", max_tokens=200, num_samples=8) for i in range(4)]))
    while (stats := wait_for(generator.stats.remote())).num_in_flight and not stats.num_sequences:
        time.sleep(0.01)  # until they have started
    assert wait_for(generator.update_weights.remote(handle)) == first + 1
    assert wait_for(generator.stats.remote()).updating_s > stats.updating_s
    wait_for(generator.submit.remote([rollout_request("after", max_tokens=200)]))
    handles = take(generator, 5)
    after = handles.pop("after")
    assert versions(after) == (first + 1, first + 1)
    assert {versions(handle)[1] for handle in handles.values()} == {first if drains else first + 1}
    for rollout in map(fetch, [after, *handles.values()]):
        check_logprobs(rollout, weights, score, atol)
