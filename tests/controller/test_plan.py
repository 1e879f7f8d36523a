"""Plans, checked against figures calculated by hand and against rules that hold for every setup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import launch
from rltf.controller.planner import Shape, balanced, predict, room_beside
from rltf.errors import UserError
from rltf.settings import GeneratorSettings, LearnerSettings, SandboxSettings, Settings
from tests.jobs import launch as launch_job
from tests.jobs import small_job
from tests.tiers import examples

SHAPE = Shape(
    num_generators=2,
    num_workers=4,
    samples_per_s=10.0,
    programs_per_s=10.0,
    snapshot=100,
    train_s=8.0,
    publish_s=1.0,
    load_s=0.0,
    latency_s=1.0,
    max_off_policy_versions=1,
)
SHAPES = st.builds(
    Shape,
    num_generators=st.integers(1, 20),
    num_workers=st.integers(1, 20),
    samples_per_s=st.floats(0.5, 50),
    programs_per_s=st.floats(0.5, 50),
    snapshot=st.integers(10, 1000),
    train_s=st.floats(0.1, 100),
    publish_s=st.floats(0, 5),
    load_s=st.floats(0, 5),
    latency_s=st.floats(0, 5),
    max_off_policy_versions=st.integers(0, 4),
)


def test_a_slow_learner_never_waits() -> None:
    plan = predict(SHAPE)  # sampling takes 5 s, grading 2.5 s, training and publishing 9 s
    assert plan.round_s == pytest.approx(9.0)
    assert (plan.learner_idle, plan.generator_idle, plan.sandbox_idle) == pytest.approx((0, 4 / 9, 1 - 2.5 / 9))
    assert plan.bottleneck == "learner"


def test_slow_generators_hide_the_learner() -> None:
    plan = predict(replace(SHAPE, num_generators=1))  # sampling takes 10 s
    assert plan.round_s == pytest.approx(10.0)
    assert plan.bottleneck == "generators"


def test_without_staleness_the_stages_take_turns() -> None:
    plan = predict(replace(SHAPE, max_off_policy_versions=0))
    assert plan.round_s == pytest.approx(5.0 + 9.0)
    assert plan.staleness_mean == 0


def test_a_balanced_setup_is_just_enough_for_the_learner() -> None:
    best = balanced(SHAPE)  # 9 s for 100 samples: 1.11 generators and as many workers are enough
    assert (best.num_generators, best.num_workers) == (2, 2)
    assert predict(best).learner_idle < 0.03
    assert predict(replace(best, num_generators=1)).learner_idle > 0.05


@given(SHAPES)
@examples(0.4)
def test_rules_for_every_setup(shape: Shape) -> None:
    plan = predict(shape)
    for share in (plan.generator_idle, plan.sandbox_idle, plan.learner_idle):
        assert 0 <= share < 1
    assert plan.round_s >= (shape.train_s + shape.publish_s) * (1 - 1e-9)
    assert plan.staleness_mean <= shape.max_off_policy_versions + 1e-9
    assert predict(replace(shape, num_generators=shape.num_generators + 1)).round_s <= plan.round_s * (1 + 1e-9)
    assert predict(
        replace(shape, max_off_policy_versions=shape.max_off_policy_versions + 1)
    ).round_s <= plan.round_s * (1 + 1e-9)


def test_a_small_cluster_gets_the_fastest_setup_that_fits() -> None:
    wanted = replace(SHAPE, train_s=0.5, publish_s=0.0)  # needs about a dozen of each
    assert balanced(wanted).num_generators > 10
    settings = Settings(
        generator=GeneratorSettings(num_cpus=1, num_gpus=1),
        sandbox=SandboxSettings(num_cpus=1),
        learner=LearnerSettings(num_cpus=1, num_gpus=1),
    )
    room = room_beside(settings, num_cpus=9, num_gpus=8)
    assert [room(n) for n in (1, 4, 7, 8)] == [7, 4, 1, 0]
    fitting = balanced(wanted, room)  # 8 cores for both: 4 of each sample and grade 40 programs per second
    assert (fitting.num_generators, fitting.num_workers) == (4, 4)
    with pytest.raises(UserError, match="no room for a learner, a generator and a sandbox worker"):
        balanced(wanted, room_beside(settings, num_cpus=9, num_gpus=1))


FIGURES = {
    "tokens_per_s": "4000", "tokens_per_program": "60", "programs_per_s": "20", "update_s": "2.5", "publish_s": "0.1",
    "load_s": "0.1",
}  # fmt: skip


def test_a_described_cluster_is_planned_without_starting_anything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    given = [word for name, value in FIGURES.items() for word in (f"--plan.{name}", value)]
    assert launch.main(["--plan", *given, "--plan.num_cpus", "16", "--plan.num_gpus", "0"]) == 0
    table = capsys.readouterr().out
    assert "best on 16 CPUs, 0 GPUs" in table
    assert "4000 tokens/s per generator" in table
    assert launch.main(["--plan", *given, "--plan.num_cpus", "1", "--plan.num_gpus", "0"]) == 2
    assert "no room for a learner" in capsys.readouterr().err


def test_unusable_problems_are_reported_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--plan", "--problems.train", "nofile.jsonl"]) == 2
    said = capsys.readouterr()
    assert "expected KIND:PATH" in said.out + said.err
    assert "Ray" not in said.out


@pytest.mark.ray
@pytest.mark.long
def test_missing_figures_are_measured_in_a_short_run(tmp_path: Path) -> None:
    job = small_job(tmp_path, "planned", "--plan.num_updates", "4", sft_steps=5)
    done = launch_job("--plan", *job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the short run" in done.stdout
    rows = [line.strip("│ ").split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    figures = {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows}
    assert all(0 < float(cell) < 100 for cell in figures["seconds per snapshot"])
    assert all(0 <= float(cell.split()[0]) <= 1 for cell in figures["mean staleness"])
    assert not (tmp_path / "planned").exists(), "the plan left a run behind"
