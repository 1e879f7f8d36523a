"""Whether a model fits into the cards of a run, and what to change if it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaConfig, MambaConfig

import launch
from rltf.actors.memory import GeneratorMemory
from rltf.controller.memory import Need, advice, cards
from rltf.learner.memory import LearnerMemory, learner_memory
from rltf.settings import GIB, Settings
from tests.controller.test_plan import FIGURES

LEARNER = LearnerMemory(
    weights=10 * GIB, gradients=10 * GIB, optimizer=20 * GIB, copies=0, gathered=0, snapshot=0, working=20 * GIB
)
GENERATOR = GeneratorMemory(weights=5 * GIB, cache=4 * GIB, working=GIB, cache_needed=8 * GIB)
NEED = Need(10**9, LEARNER, GENERATOR)


def settings(learner_gpus: float = 1, generator_gpus: float = 1, **fields: Any) -> Settings:
    gpus = {"learner": {"num_gpus": learner_gpus}, "generator": {"num_gpus": generator_gpus}}
    return Settings.model_validate({name: gpus.get(name, {}) | fields.get(name, {}) for name in (*gpus, *fields)})


def found(wanted: Settings, gib: float) -> list[tuple[str, float, bool]]:
    return [(card.actors, card.needed / GIB, card.fits) for card in cards(NEED, wanted, int(gib * GIB))]


def test_actors_have_cards_of_their_own_or_share_one() -> None:
    assert found(settings(), 80) == [("learner", 60, True), ("each generator", 10, True)]
    assert found(settings(), 60) == [("learner", 60, False), ("each generator", 10, True)]
    assert found(settings(0.6, 0.4), 80) == [("learner and 1 generator", 70, True)]
    two = settings(0.5, 0.25, generator={"num_generators": 2})
    assert found(two, 80) == [("learner and 2 generators", 80, False)]
    assert found(settings(1, 0.25, generator={"num_generators": 4}), 40)[1] == (
        "each generator",
        10,
        False,  # a quarter of 40 GiB, less what CUDA takes
    )
    assert found(settings(0, 1), 80) == [("each generator", 10, True)]
    assert found(settings(0, 0), 80) == []
    split = settings(1, 4, generator={"tensor_parallel_size": 4})
    assert found(split, 80)[1] == ("each of a generator's 4 GPUs", 10, True)


def test_advice_names_what_to_change() -> None:
    wanted = settings(0.6, 0.4)
    (said, cache) = advice(NEED, wanted, cards(NEED, wanted, 40 * GIB))
    for change in (
        "learner and 1 generator: does not fit, 70.0 of 36.0 GiB. What helps: ",
        "set learner.activation_checkpointing to true",
        "lower learner.micro_batch_tokens (now 16384)",
        "train adapters (model.lora.rank 16)",
        "lower generator.kv_cache_bytes (now 4294967296)",
        "set learner.num_gpus and generator.num_gpus to 1",
    ):
        assert change in said
    assert "generator.kv_cache_bytes holds 128 completions of model.max_model_len 1536 at once" in cache
    assert f"{8 * GIB} bytes (8.0 GiB) would hold them all" in cache


def test_advice_does_not_name_what_is_done_already() -> None:
    done = settings(
        learner={"activation_checkpointing": True, "micro_batch_tokens": 1536},
        model={"lora": {"rank": 8}},
    )
    roomy = replace(NEED, generator=replace(GENERATOR, cache=8 * GIB))
    (said,) = advice(roomy, done, cards(roomy, done, 40 * GIB))
    assert said == (
        "learner: does not fit, 60.0 of 36.0 GiB. What helps: raise learner.num_workers (now 1), with a "
        "card for each, use a smaller model"
    )
    assert advice(roomy, done, cards(roomy, done, 80 * GIB)) == []


def plan(folder: Path, gib: str) -> int:
    """Plan a run of the model in `folder` on GPUs, with all rates given. Returns the exit status."""
    options = {**FIGURES, "num_cpus": "16", "num_gpus": "2", "gpu_memory_gib": gib}
    given = [word for name, value in options.items() for word in (f"--plan.{name}", value)]
    on_gpus = ["--learner.num_gpus", "1", "--generator.num_gpus", "1"]
    return launch.main(["--plan", *given, *on_gpus, "--model", str(folder)])


@pytest.mark.slow
@pytest.mark.parametrize(("gib", "expected"), [("80", "learner: fits"), ("0.001", "learner: does not fit, 0.")])
def test_a_plan_begins_with_the_memory(
    gib: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model needs no weights: a configuration is enough."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaConfig(**shape, vocab_size=320).save_pretrained(tmp_path)  # type: ignore[arg-type]
    assert plan(tmp_path, gib) == 0
    said = capsys.readouterr().out
    assert "Memory in GiB, calculated for 0.00 billion parameters" in said
    assert said.index(expected) < said.index("Based on")


def test_a_plan_of_a_model_that_cannot_be_traced_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MambaConfig(vocab_size=320, hidden_size=64, num_hidden_layers=1).save_pretrained(tmp_path)
    assert plan(tmp_path, "80") == 0
    said = capsys.readouterr().out
    assert said.index("the memory of mamba models cannot be calculated") < said.index("Based on")


@pytest.mark.slow
def test_workers_share_what_a_learner_holds(tiny_model_dir: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model_dir)
    one, two = (learner_memory(config, settings(learner={"num_workers": number})) for number in (1, 2))
    assert one.gathered == 0
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(two, name) == pytest.approx(getattr(one, name) / 2, rel=0.01)
    assert 0 < two.gathered < one.weights
