"""A text in `generator.stop` ends a completion, and is no part of the program."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from rltf.actors.engine import SampledSequence, build_engine
from rltf.actors.prompting import Prompter
from rltf.problems.types import Problem, StdinTest
from rltf.settings import GeneratorSettings, ModelSettings
from rltf.transport.model_folder import end_token_ids, load_tokenizer
from rltf.transport.rollouts import FinishReason
from tests.actors.sampling import make_request, sequence_ids

PROMPT = list(range(10, 80))
MODEL = ModelSettings(dtype="float32", max_model_len=256)


def decoded(folder: Path, engine: str, *stop: str) -> SampledSequence:
    """A greedy decode."""
    settings = GeneratorSettings(engine=engine, num_gpus=0, max_num_seqs=8, kv_cache_bytes=2**25, stop=stop)
    end_ids = end_token_ids(folder, load_tokenizer(folder), chat=False)
    with closing(build_engine(folder, MODEL, settings, end_ids, seed=0)) as built:
        built.add_request(make_request("one", PROMPT, num_samples=0, max_tokens=40))
        while built.num_unfinished:
            for finished in built.step():
                assert finished.greedy is not None
                return finished.greedy
    raise AssertionError("nothing was decoded")


@pytest.mark.parametrize("engine", [pytest.param("vllm", marks=pytest.mark.ray), "transformers"])
def test_the_first_token_that_completes_a_text_is_the_last(tiny_model_dir: Path, engine: str) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    whole = decoded(tiny_model_dir, "transformers")
    ids = sequence_ids(whole)
    text = str(tokenizer.decode(ids))
    stop = text[len(text) // 2 :][:4]
    num_tokens = next(count for count in range(len(ids)) if stop in str(tokenizer.decode(ids[:count])))
    found = decoded(tiny_model_dir, engine, "not there", stop)
    assert found.finish_reason is FinishReason.STOP_STRING
    assert sequence_ids(found) == ids[:num_tokens]
    assert len(found.logprobs) == num_tokens
    assert found.weight_versions[-1].end == num_tokens
    assert decoded(tiny_model_dir, engine, "not there").finish_reason is whole.finish_reason


def test_the_program_ends_before_the_text(tiny_model_dir: Path) -> None:
    problem = Problem("p", "own", "Print 1.", (StdinTest("", "1"),))
    prompter = Prompter(tiny_model_dir, {"p": problem}, MODEL, ("\n# next", "###"))
    text = "print(1)\n# next\nprint(2)"
    assert prompter.program_span("p", text) == (0, len("print(1)"))
    assert prompter.program_span("p", "print(1)\n") == (0, len("print(1)\n"))
