"""Samples are drawn and stored in parts: the same programs, whatever was stored before, and one engine for all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rltf.actors.engine
import rltf.evaluation.model
import rltf.evaluation.sources
from rltf.actors.engine import SamplingEngine
from rltf.evaluation.endpoint import ServedModel
from rltf.evaluation.model import SampledModel
from rltf.evaluation.sources import MAX_PART, Part, Programs, SamplingOptions
from rltf.problems import LoadedProblems, Problem, StdinTest
from rltf.seeds import seed_of
from rltf.settings import Dtype, Engine
from tests.openai_server import serve

OPTIONS: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 4, "seed": 3}


def problem(task_id: str, statement: str = "Print 1.") -> Problem:
    return Problem(task_id, "jsonl", statement, (StdinTest("", "1"),))


def loaded(*problems: Problem) -> LoadedProblems:
    return LoadedProblems(problems, rejected=())


def rows(programs: Programs) -> list[dict[str, Any]]:
    """The programs as an evaluation would store them."""
    return [found[0].model_dump() for found in programs if found is not None]


def by_id(found: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = list(found)
    named = {row["completion_id"]: row for row in found}
    assert len(named) == len(found)
    return named


def drawn(parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
    """What a model whose samples depend on their number alone draws, part by part."""
    for part in parts:
        numbers = range(part.start, part.start + part.num_samples)
        yield from rows(part.programs((f"{part.place}, {number}", "") for number in numbers))


@given(st.data(), st.integers(1, 3 * MAX_PART), st.integers(1, 3))
def test_nothing_is_missing_or_twice_after_an_interruption(
    data: st.DataObject, num_samples: int, num_problems: int
) -> None:
    options = SamplingOptions(num_samples=num_samples, **OPTIONS)
    problems = [problem(f"task/{place}") for place in range(num_problems)]
    parts = options.parts(problems, ())
    assert max(part.num_samples for part in parts) <= MAX_PART
    whole = by_id(drawn(parts))
    assert list(whole) == [f"{one.task_id}/{number}" for one in problems for number in range(num_samples)]
    # Parts finish in any order, and the evaluation ends after any program, several times.
    stored: list[dict[str, Any]] = []
    for _ in range(2):
        left = list(drawn(data.draw(st.permutations(options.parts(problems, stored)))))
        stored += left[: data.draw(st.integers(0, len(left)))]
    assert by_id([*stored, *drawn(options.parts(problems, stored))]) == whole
    assert options.parts(problems, whole.values()) == []


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[SamplingEngine]:
    """The engines that are built."""
    built: list[SamplingEngine] = []
    build = rltf.actors.engine.build_engine

    def note(*arguments: Any) -> SamplingEngine:
        built.append(build(*arguments))
        return built[-1]

    monkeypatch.setattr(rltf.actors.engine, "build_engine", note)
    return built


def sampled(model: Path, num_samples: int) -> SampledModel:
    return SampledModel(
        name=str(model), num_samples=num_samples, dtype=Dtype.FLOAT32, engine=Engine.TRANSFORMERS, **OPTIONS
    )


def test_a_model_continues_with_the_programs_it_would_have_had(
    tiny_model_dir: Path, engines: list[SamplingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = loaded(problem("first"), problem("long", "word " * 400), problem("last", "Print one."))
    model = sampled(tiny_model_dir, MAX_PART + 6)
    prepared = model.prepare(problems, 1)
    stored = rows(prepared.left(()))
    whole = by_id(stored)
    assert len(whole) == prepared.num_programs == 3 * (MAX_PART + 6)
    assert {row["code"] for name, row in whole.items() if name.startswith("long/")} == {""}
    texts = [whole[f"first/{number}"]["completion"] for number in range(MAX_PART + 6)]
    assert texts[:6] != texts[MAX_PART:]
    for num_kept in (1, MAX_PART + 3, 2 * MAX_PART + 9):
        assert by_id([*stored[:num_kept], *rows(prepared.left(stored[:num_kept]))]) == whole
    assert len(engines) == 1
    model.close()
    # Earlier versions drew the samples of a problem all at once. Their folders continue with the same programs.
    monkeypatch.setattr(rltf.evaluation.sources, "MAX_PART", 1000)
    assert by_id(rows(sampled(tiny_model_dir, MAX_PART + 6).prepare(problems, 1).left(()))) == whole


def test_one_engine_samples_all_sets_of_problems(tiny_model_dir: Path, engines: list[SamplingEngine]) -> None:
    sets = [loaded(problem("a")), loaded(problem("a", "Print one."), problem("b"))]
    alone = [rows(sampled(tiny_model_dir, 2).prepare(one, 1).left(())) for one in sets]
    assert len(engines) == 2
    model = sampled(tiny_model_dir, 2)
    prepared = [model.prepare(one, 1) for one in sets]
    assert len(engines) == 2, "an engine is built when a program is needed"
    assert rows(prepared[0].left(alone[0])) == []
    assert len(engines) == 2, "an engine is built only if a program is needed"
    assert [by_id(rows(one.left(()))) for one in prepared] == [by_id(one) for one in alone]
    assert len(engines) == 3
    model.close()
    assert not hasattr(engines[-1], "_model")


@pytest.mark.ray
def test_one_vllm_engine_samples_all_sets_of_problems(tiny_model_dir: Path, engines: list[SamplingEngine]) -> None:
    sets = [loaded(problem("a")), loaded(problem("a", "Print one."), problem("b"))]
    model = SampledModel(name=str(tiny_model_dir), num_samples=MAX_PART + 2, dtype=Dtype.FLOAT32, **OPTIONS)
    prepared = [model.prepare(one, 1) for one in sets]
    whole = [rows(one.left(())) for one in prepared]
    assert [len(by_id(one)) for one in whole] == [MAX_PART + 2, 2 * (MAX_PART + 2)]
    continued = [*whole[1][:9], *rows(prepared[1].left(whole[1][:9]))]
    assert by_id(continued) == by_id(whole[1])
    assert len(engines) == 1
    model.close()


def test_two_seeds_share_no_sample(tiny_model_dir: Path) -> None:
    """Engines count up from a request's seed, so neighbouring seeds must not begin next to each other."""
    problems = [problem("a"), problem("b")]
    drawn: list[int] = []
    for seed in range(3):
        model = SampledModel(name=str(tiny_model_dir), num_samples=1000, **OPTIONS | {"seed": seed})
        for request in model.requests(model.prompter(problems), problems).values():
            assert request is not None
            assert request.rollout.seed is not None
            drawn += range(request.rollout.seed, request.rollout.seed + 1000)
    assert len(set(drawn)) == len(drawn) == 6000


def test_a_server_is_asked_for_parts() -> None:
    requests: list[dict[str, Any]] = []
    with serve(lambda _: ["print(1)"] * MAX_PART, requests=requests) as address:
        model = ServedModel(address=address, chat=False, num_samples=2 * MAX_PART + 2, **OPTIONS)
        prepared = model.prepare(loaded(problem("a"), problem("b")), 1)
        stored = rows(prepared.left(()))
        assert len(by_id(stored)) == prepared.num_programs == 2 * (2 * MAX_PART + 2)
        first, second = (seed_of(OPTIONS["seed"], task_id) for task_id in "ab")
        expected = {
            seed: [(MAX_PART, seed), (MAX_PART, seed + MAX_PART), (2, seed + 2 * MAX_PART)] for seed in (first, second)
        }
        assert sorted((one["n"], one["seed"]) for one in requests) == sorted(expected[first] + expected[second])
        whole = by_id(stored)
        requests.clear()
        stored = [row for name, row in whole.items() if name.startswith("a/") or name in ("b/64", "b/65", "b/128")]
        left = rows(prepared.left(stored))
        assert sorted((one["n"], one["seed"]) for one in requests) == sorted(expected[second])
        assert by_id([*stored, *left]) == whole
