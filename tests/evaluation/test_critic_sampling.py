"""`evaluate --critic --repair`: programs are refined if some pass the examples, and repaired if none does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltf.actors.engine import SamplingRequest
from rltf.evaluate import main
from rltf.evaluation.rounds import spread
from rltf.evaluation.store import read_samples
from rltf.learner.critic import ErrorCritic
from rltf.learner.data import TokenSequence
from rltf.learner.prefix_scores import score_programs
from rltf.problems import Problem
from rltf.problems.prompts import PLAIN, render_prompt, repair_exchange
from rltf.problems.spec import load
from rltf.sandbox.examples import ExampleVerdict, Grade, judge_examples
from rltf.settings import Dtype
from rltf.transport.model_folder import load_tokenizer
from tests.encoder_decoder_models import build_encoder_decoder
from tests.evaluation.scripted_engine import ScriptedEngine
from tests.learner.samples import make_critic
from tests.tiers import first_fast
from tests.tiny_model import build_tiny_model

RIGHT, WRONG, FITS = "print(int(input()) + 1)\n", "print(1)\n", "print(3)\n"
"""The last one passes the example and fails the hidden test."""
SECRET = "31415926"
FIRST = {
    "easy": [FITS, WRONG, RIGHT, WRONG],
    "hard": ["print(", WRONG, WRONG, "x"],
    "open": [RIGHT, WRONG, RIGHT, WRONG],
}
NUM_SAMPLES = 4


def row(task_id: str, **changes: Any) -> dict[str, Any]:
    tests = [{"stdin": "2\n", "expected": "3\n"}, {"stdin": f"{SECRET}\n", "expected": "31415927\n"}]
    return {"task_id": task_id, "statement": f"Add one ({task_id}).", "tests": tests, "num_visible_tests": 1} | changes


def spec(folder: Path, *rows: dict[str, Any]) -> str:
    (folder / "problems.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return f"jsonl:{folder / 'problems.jsonl'}"


def script(prompt: str, prefix: str, number: int) -> str:
    """What the models say: after a prefix the end of a right program, and the right program after feedback."""
    if prefix:
        rest = next((one for one in (RIGHT, FITS) if one.startswith(prefix)), prefix)[len(prefix) :]
        return rest if number % 2 == 0 else "x"
    if "FEEDBACK" in prompt:
        return RIGHT if number < 3 else WRONG
    task_id = next(name for name in FIRST if f"({name})" in prompt)
    return FIRST[task_id][number % 4]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=1024)


@pytest.fixture(scope="module")
def critic_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_critic(model_dir, tmp_path_factory.mktemp("critic") / "critic")


@pytest.fixture
def asked(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> list[SamplingRequest]:
    """The requests to scripted engines, which take the place of real ones."""
    requests: list[SamplingRequest] = []
    build = lambda *_: ScriptedEngine(model_dir, script, requests)  # noqa: E731
    monkeypatch.setattr("rltf.actors.engine.build_engine", build)
    return requests


def evaluate(model: Path, problems: str, output: Path, *options: object, num_samples: int = NUM_SAMPLES) -> int:
    command = ["--model", model, "--problems", problems, "--output", output, "--num-samples", num_samples]
    command += ["--workers", 1, "--dtype", "float32", "--engine", "transformers", "--max-tokens", 60, *options]
    return main(list(map(str, command)))


def stored(output: Path) -> dict[str, dict[str, Any]]:
    return {one["completion_id"]: one | {"seconds": 0} for one in read_samples(output)}


def results(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "results.json").read_text())
    return found


def test_programs_are_refined_or_repaired(
    model_dir: Path,
    critic_dir: Path,
    tmp_path: Path,
    asked: list[SamplingRequest],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    problems = spec(tmp_path, row("easy"), row("hard"), row("open", num_visible_tests=0))
    options = ["--critic", critic_dir, "--repair", model_dir, "--equal-budget", "--k", "1", "4"]
    assert evaluate(model_dir, problems, tmp_path / "out", *options) == 0
    assert "1 of 3 problems have no examples and get plain sampling alone (open)" in caplog.text
    rows = stored(tmp_path / "out")
    origins = {name: {one["origin"] for key, one in rows.items() if key.startswith(name)} for name in FIRST}
    assert origins == {"easy": {"refine"}, "hard": {"repair"}, "open": {"plain"}}
    assert {one["made_from"] for key, one in rows.items() if key.startswith("easy")} == {0, 2}
    assert [rows[f"easy/{i}"]["plain"][0]["outcome"] for i in range(4)] == ["failed", "failed", "passed", "failed"]
    assert [rows[f"hard/{i}"]["outcome"] for i in range(4)] == ["passed", "passed", "passed", "failed"]
    assert SECRET not in "".join(str(load_tokenizer(model_dir).decode(list(one.prompt_ids))) for one in asked)

    found = results(tmp_path / "out")["critic_sampling"]
    assert found["problems"] == {"plain": 1, "refine": 1, "repair": 1}
    rates = {name: one["pass@1"]["all"] for name, one in found.items() if "pass@1" in one}
    easy = sum(one["passed"] for key, one in rows.items() if key.startswith("easy")) / 4
    assert rates["plain"] == pytest.approx((1 / 4 + 0 + 1 / 2) / 3)
    assert rates["filtered"] == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
    assert rates["refine"] == pytest.approx((easy + 0 + 1 / 2) / 3)
    assert rates["repair"] == pytest.approx((1 / 4 + 3 / 4 + 1 / 2) / 3)
    assert rates["both"] == pytest.approx((easy + 3 / 4 + 1 / 2) / 3)
    assert rates["both"] == results(tmp_path / "out")["pass@1"]["all"]
    assert found["union"]["num_samples"] == 4 + 2 * 8
    assert found["union"]["pass@4"]["all"] > found["plain"]["pass@4"]["all"]
    critic = found["critic"]
    assert critic["num_programs"] == 12 == sum(one["num_programs"] for one in critic["by_class"].values())
    assert critic["by_class"]["syntax_error"]["num_programs"] == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("plain", "filtered", "refine", "repair", "both", "union")) for line in lines) == 8
    assert "second round: 1 problems refined, 1 repaired, 1 had none" in lines


def test_every_token_is_counted(
    model_dir: Path, critic_dir: Path, tmp_path: Path, asked: list[SamplingRequest]
) -> None:
    problems = spec(tmp_path, row("easy"), row("hard"))
    assert evaluate(
        model_dir, problems, tmp_path / "out", "--critic", critic_dir, "--repair", model_dir, "--equal-budget"
    ) == 0  # fmt: skip
    found = results(tmp_path / "out")["critic_sampling"]
    rounds = {"plain": [], "refine": [], "repair": [], "further": []}  # type: ignore[var-annotated]
    for one in asked:
        rounds[next((name for name in rounds if f"/{name}" in one.request_id), "plain")].append(one)
    prompts = {
        name: sum((len(one.prompt_ids) + len(one.prefix_ids)) * one.rollout.num_samples for one in requests)
        for name, requests in rounds.items()
    }
    second = prompts["refine"] + prompts["repair"]
    assert found["plain"]["prompt_tokens"] == found["filtered"]["prompt_tokens"] == prompts["plain"]
    assert found["refine"]["prompt_tokens"] == prompts["plain"] + prompts["refine"]
    assert found["repair"]["prompt_tokens"] == prompts["plain"] + prompts["repair"]
    assert found["both"]["prompt_tokens"] == found["union"]["prompt_tokens"] == prompts["plain"] + second
    assert found["plain_at_budget"]["prompt_tokens"] == prompts["plain"] + prompts["further"]

    rows = stored(tmp_path / "out").values()
    tokenizer = load_tokenizer(model_dir)
    first = {made["completion_id"]: made["plain"][0] for made in rows}
    for plain in first.values():
        assert plain["completion_tokens"] == len(tokenizer.encode(plain["completion"])) + 1
    for made in rows:
        whole = len(tokenizer.encode(made["completion"])) + 1
        assert made["completion_tokens"] == whole - made["prefix_tokens"]
    num_first = sum(plain["completion_tokens"] for plain in first.values())
    num_second = sum(made["completion_tokens"] for made in rows)
    assert found["plain"]["completion_tokens"] == num_first
    assert found["both"]["completion_tokens"] == num_first + num_second
    for one in rounds["further"]:
        task_id = one.rollout.task_id
        mean = np.mean([first[f"{task_id}/{i}"]["completion_tokens"] for i in range(4)])
        spent = sum(made["completion_tokens"] for made in rows if made["task_id"] == task_id)
        assert one.rollout.num_samples == np.ceil(spent / mean)
    num_further = sum(one.rollout.num_samples for one in rounds["further"])
    assert found["plain_at_budget"]["num_samples"] == 8 + num_further
    read = [plain for plain in first.values() if plain["examples"] == "passed"]
    assert found["refine"]["critic_tokens"] == sum(
        plain["prompt_tokens"] + plain["completion_tokens"] for plain in read
    )
    assert found["plain"]["critic_tokens"] == 0


def test_a_cut_keeps_the_ids_that_the_critic_likes_best(
    model_dir: Path, critic_dir: Path, tmp_path: Path, asked: list[SamplingRequest]
) -> None:
    assert evaluate(model_dir, spec(tmp_path, row("easy")), tmp_path / "out", "--critic", critic_dir) == 0
    tokenizer = load_tokenizer(model_dir)
    critic = ErrorCritic.frozen(critic_dir, compute_dtype=Dtype.FLOAT32, device=torch.device("cpu"))
    (first, *refined) = asked
    assert len(refined) == 2
    for request in refined:
        number = int(request.request_id.rpartition("/")[2])
        ids = np.array([*tokenizer.encode(FIRST["easy"][number]), tokenizer.eos_token_id], np.int32)
        (scores,) = score_programs(critic, [TokenSequence(np.array(first.prompt_ids, np.int32), ids)])
        assert list(request.prompt_ids) == list(first.prompt_ids)
        assert list(request.prefix_ids) == ids[: int(scores.prefixes.argmax()) + 1].tolist()
        assert request.rollout.max_tokens == 60 - len(request.prefix_ids)
        assert request.rollout.num_samples == 2
    seeds = [number + (one.rollout.seed or 0) for one in asked for number in range(one.rollout.num_samples)]
    assert len(set(seeds)) == len(seeds) == 8  # every program of both rounds is drawn with a seed of its own
    found = results(tmp_path / "out")["critic_sampling"]
    assert set(found) == {"plain", "filtered", "refine", "union", "problems", "critic"}


def test_a_repair_model_reads_what_the_program_did_on_the_examples(
    model_dir: Path, tmp_path: Path, asked: list[SamplingRequest]
) -> None:
    problems = spec(tmp_path, row("hard"))
    assert evaluate(model_dir, problems, tmp_path / "out", "--repair", model_dir, "--num-repaired", "2") == 0
    tokenizer = load_tokenizer(model_dir)
    (problem,) = load(problems).problems
    texts = [str(tokenizer.decode(list(one.prompt_ids))) for one in asked[1:]]
    assert [one.rollout.num_samples for one in asked[1:]] == [2, 2]  # without a critic, the first two
    said = "Your program is not valid Python, so it was not run.\nError:\n    SyntaxError: '(' was never closed"
    said += "\nLine 1 of your program:\n    print("
    assert texts[0] == render_prompt(problem, PLAIN, exchanges=[repair_exchange("print(", said, PLAIN)])
    assert "The output of your program:\n    1" in texts[1]
    found = results(tmp_path / "out")["critic_sampling"]
    assert set(found) == {"plain", "filtered", "repair", "union", "problems"}


def test_a_repair_prompt_without_room_is_left_out(
    model_dir: Path, tmp_path: Path, asked: list[SamplingRequest]
) -> None:
    problems = spec(tmp_path, row("hard"))
    options = ("--repair", model_dir, "--max-length", "130")
    assert evaluate(model_dir, problems, tmp_path / "out", *options) == 0
    assert len(asked) == 1
    assert {one["origin"] for one in stored(tmp_path / "out").values()} == {"plain"}


def test_problems_continue_after_an_interruption(
    model_dir: Path,
    critic_dir: Path,
    tmp_path: Path,
    asked: list[SamplingRequest],
    capsys: pytest.CaptureFixture[str],
) -> None:
    problems, out = spec(tmp_path, row("easy"), row("hard")), tmp_path / "out"
    options = ["--critic", critic_dir, "--repair", model_dir]
    assert evaluate(model_dir, problems, out, *options) == 0
    whole, found = stored(out), (out / "results.json").read_text()
    lines = (out / "samples.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 8
    (out / "samples.jsonl").write_text("".join(lines[:6]) + lines[6][:20])
    asked.clear()
    assert evaluate(model_dir, problems, out, *options) == 0
    assert len({one.rollout.task_id for one in asked}) == 1  # the other problem was finished
    assert stored(out) == whole
    assert (out / "results.json").read_text() == found
    asked.clear()
    broken = [json.loads(line) | {"outcome": "infrastructure_error"} for line in lines[:1]]
    (out / "samples.jsonl").write_text("".join([json.dumps(broken[0]) + "\n", *lines[1:]]))
    assert evaluate(model_dir, problems, out, *options) == 0
    assert asked == []
    assert stored(out) == whole
    other = make_critic(model_dir, tmp_path / "other", seed=1)
    assert evaluate(model_dir, problems, out, "--critic", other, "--repair", model_dir) == 2
    assert "critic_sampling: " in capsys.readouterr().err


@pytest.mark.parametrize("kind", first_fast(["decoder-only", "codet5"]))
def test_real_engines_refine_and_repair(
    kind: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model_dir if kind == "decoder-only" else build_encoder_decoder(kind, tmp_path / "model")
    critic = make_critic(model, tmp_path / "critic")

    def judge(grade: Grade, problem: Problem, program: str, completion_id: str) -> ExampleVerdict:
        """A random model does not write programs, so for one problem a real program takes the place of its answer."""
        return judge_examples(grade, problem, FITS if problem.task_id == "easy" else program, completion_id)

    monkeypatch.setattr("rltf.evaluation.turns.judge_examples", judge)
    problems = spec(tmp_path, row("easy"), row("hard"))
    options = ["--critic", critic, "--repair", model, "--equal-budget", "--max-tokens", "9", "--temperature", "1"]
    assert evaluate(model, problems, tmp_path / "out", *options, num_samples=3) == 0
    rows = stored(tmp_path / "out")
    assert [rows[f"hard/{i}"]["origin"] for i in range(3)] == ["repair"] * 3
    for number in range(3):
        made = rows[f"easy/{number}"]
        assert made["origin"] == "refine"
        assert 1 <= made["prefix_tokens"] < 9
        assert made["completion_tokens"] <= 9 - made["prefix_tokens"]
        seed = rows[f"easy/{made['made_from']}"]["plain"][0]["completion"]
        assert made["completion"][:1] == seed[:1]
    (tmp_path / "out" / "samples.jsonl").write_text("")
    assert evaluate(model, problems, tmp_path / "out", *options, num_samples=3) == 0
    assert stored(tmp_path / "out") == rows


def test_what_cannot_be_done_is_refused(
    model_dir: Path, critic_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = spec(tmp_path, row("easy"))
    other = make_critic(build_encoder_decoder("codet5", tmp_path / "codet5"), tmp_path / "other")
    short = make_critic(build_tiny_model(tmp_path / "tiny", max_position_embeddings=128), tmp_path / "short")
    for options, message in (
        (["--critic", critic_dir, "--turns", "2"], "--turns: critic sampling has rounds of its own"),
        (["--critic", model_dir], f"--critic: {model_dir} is not a critic: it has no critic.json"),
        (["--critic", other], f"--critic: the tokenizer of {other} differs"),
        (["--critic", short], f"{short} reads at most 128 tokens, fewer than --max-length 1024"),
        (["--critic", critic_dir, "--repair", "http://localhost/v1"], "need token ids, which a server does not give"),
        (["--critic", critic_dir, "--num-repaired", "2"], "--num-repaired needs a repair model"),
        (["--equal-budget"], "--num-repaired and --equal-budget are for critic sampling"),
        (["--repair", tmp_path / "none"], "is not a local folder and was not found on the Hub"),
    ):
        assert evaluate(model_dir, problems, tmp_path / "out", *options) == 2
        assert message in capsys.readouterr().err
    assert (
        evaluate(model_dir, problems, tmp_path / "out", "--critic", critic_dir, "--temperature", "0", num_samples=1)
        == 2
    )
    assert "--critic: there is only one program at --temperature 0" in capsys.readouterr().err
    hidden = spec(tmp_path, row("easy", num_visible_tests=0))
    assert evaluate(model_dir, hidden, tmp_path / "out", "--critic", critic_dir) == 2
    assert "--critic: no problem has examples that a model may see" in capsys.readouterr().err
    command = ["--samples", "x.jsonl", "--problems", problems, "--output", str(tmp_path / "out")]
    assert main([*command, "--critic", str(critic_dir)]) == 2
    assert "a file of programs cannot be sampled from" in capsys.readouterr().err
    assert main(["--model", "http://localhost:1/v1", *command[2:], "--critic", str(critic_dir)]) == 2
    assert "need token ids" in capsys.readouterr().err


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_number_is_spread_evenly_with_the_rest_for_the_first(total: int, num_parts: int) -> None:
    parts = spread(total, num_parts)
    assert sum(parts) == total
    assert parts == sorted(parts, reverse=True)
    assert parts[0] - parts[-1] <= 1
