"""An engine behind an actor samples what the engine samples. Starts no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rltf.actors.engine import FinishedRequest, SamplingRequest, build_engine
from rltf.actors.engine_actor import EngineActor, EngineRequest
from rltf.actors.messages import GeneratorError, RolloutRequest
from rltf.settings import Dtype, Engine, GeneratorSettings, ModelSettings

MODEL = ModelSettings(dtype=Dtype.FLOAT32, max_model_len=64)
ENGINE = GeneratorSettings(engine=Engine.TRANSFORMERS)
END_IDS = (1,)
HERE = cast(Any, SimpleNamespace(fetch=lambda folder: folder))


def request(name: str, seed: int, prefix: tuple[int, ...] = (), **changes: Any) -> SamplingRequest:
    asked = {"num_samples": 2, "greedy": False, "temperature": 1.0, "top_p": 0.9, "max_tokens": 6} | changes
    return SamplingRequest(RolloutRequest(name, name, seed=seed, **asked), [40, 50, 60], prefix_ids=prefix)


REQUESTS = (
    request("plain", 3),
    request("continued", 4, (70, 80)),
    request("greedy", 5, num_samples=0, greedy=True),
)


def ids(finished: FinishedRequest) -> list[list[int]]:
    found = [*finished.samples, *([finished.greedy] if finished.greedy is not None else [])]
    return [one.token_ids.tolist() for one in found]


@pytest.fixture
def actor(tiny_model_dir: Path) -> Iterator[Any]:
    """Without Ray, whose types know its methods only as those of a handle."""
    with closing(cast(Any, EngineActor)("one", tiny_model_dir, MODEL, ENGINE, END_IDS, 0, HERE)) as found:
        yield found


def test_it_samples_what_the_engine_samples(actor: Any, tiny_model_dir: Path) -> None:
    assert actor.ping() == "one"
    actor.submit([EngineRequest.of(one) for one in REQUESTS])
    there: dict[str, list[list[int]]] = {}
    while len(there) < len(REQUESTS):
        there |= {one.rollout_id: ids(one) for one in actor.take(60.0)}
    here: dict[str, list[list[int]]] = {}
    with closing(build_engine(tiny_model_dir, MODEL, ENGINE, END_IDS, 0)) as engine:
        for one in REQUESTS:
            engine.add_request(one)
        while len(here) < len(REQUESTS):
            here |= {one.rollout_id: ids(one) for one in engine.step()}
    assert there == here
    assert there["plain"] != there["continued"]
    assert actor.take(0.0) == []


def test_after_a_failure_every_call_names_its_cause(actor: Any) -> None:
    full = SamplingRequest(REQUESTS[0].rollout, [40] * 64)
    actor.submit([EngineRequest.of(full)])
    with pytest.raises(GeneratorError, match="generator one failed: ValueError: request plain: the prompt has 64 "):
        actor.take(60.0)
    with pytest.raises(GeneratorError):
        actor.ping()
