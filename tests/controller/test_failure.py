"""Any actor may die at any call, and any message may be late. The run still finishes, and the ledger balances."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rltf.controller.controller import Controller
from rltf.controller.ledger import DropReason, Ledger
from rltf.files import checkpoints, newest_checkpoint, read_json
from rltf.learner.data import load_rollouts
from rltf.problems.types import Problem, StdinTest
from rltf.settings import Settings
from rltf.supervise import end_frozen
from tests.controller.simulation import GENERATORS, TARGETS, SimulatedLearner, start_controller
from tests.controller.virtual_cluster import Cluster, run_virtually

NUM_STEPS = 8
PROBLEMS = [Problem(f"p{i}", "own", "", (StdinTest("", ""),)) for i in range(7)]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans may kill the same actor again and again, so the driver must not give up on it."""
    monkeypatch.setattr("rltf.supervise.MAX_DEATHS_IN_A_ROW", 100)


def make_settings(
    folder: Path,
    *,
    refresh_every: int,
    max_off_policy_versions: int,
    num_generations: int = 2,
    batch_size: int = 4,
    max_turns: int = 1,
    **buffer: int,
) -> Settings:
    return Settings(
        run={"num_steps": NUM_STEPS, "dir": folder},
        generator={
            "num_generations": num_generations,
            "num_generators": len(GENERATORS),
            "max_num_seqs": 4,
            "max_turns": max_turns,
        },
        learner={"batch_size": batch_size, "fetch_timeout_s": 900.0},
        checkpoint={"every": 2},
        buffer={
            "capacity": 24,
            "refresh_every": refresh_every,
            "max_off_policy_versions": max_off_policy_versions,
            **buffer,
        },
    )


def weights_of(controller: Controller) -> list[tuple[int, str, int]]:
    learner: SimulatedLearner = controller.learner.place.actor.actor
    return learner.weights


async def life(
    cluster: Cluster, settings: Settings, stop_after_s: float | None, problems: Sequence[Problem] = PROBLEMS
) -> Controller | None:
    """One life of the driver, from the newest checkpoint if there is one. None if it was killed."""
    controller = start_controller(cluster, settings, problems)
    watch = asyncio.create_task(end_frozen(cluster.watched, 30.0))
    checkpoint = newest_checkpoint(controller.learner.folder)
    try:
        controller.step = await controller.learner.start(checkpoint)
        await controller.generators.start()
        assert await controller.generators.too_long() == []
        if checkpoint is not None:
            await controller.restore(checkpoint)
        async with asyncio.timeout(stop_after_s):
            await controller.run()
        assert not cluster.failures
    except TimeoutError:
        if stop_after_s is None:
            raise
        controller = None  # type: ignore[assignment]
    finally:
        watch.cancel()
        for process in cluster.processes.values():
            process.die()
        if controller is not None:
            await controller.generators.close()
    return controller


def check_books(controller: Controller) -> None:
    """The ledger must agree with the learner's weights and with the positions of the problems."""
    counts = controller.ledger.counts()
    assert counts.balance == 0
    weights = weights_of(controller)
    assert controller.step == max(step for step, _, _ in weights) == NUM_STEPS
    assert counts.trained == sum(samples for _, _, samples in weights)
    positions = [name.removeprefix("r").partition(".")[0] for _, name, _ in weights]
    assert len(positions) == len(set(positions)), "a problem was trained on twice in one turn"
    if not counts.dropped:
        live = {rollout.position for rollout in controller.ledger.live.values()}
        assert live | set(map(int, positions)) == set(range(1, controller.rollouts.sampler.position + 1)), (
            "a turn was skipped"
        )


KILLS = st.dictionaries(st.integers(1, 400), st.tuples(st.sampled_from(TARGETS), st.booleans()), max_size=20)


@pytest.mark.slow
@hypothesis_settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    kills=KILLS,
    freezes=st.dictionaries(st.integers(1, 400), st.sampled_from(TARGETS), max_size=5),
    refresh_every=st.integers(1, 3),
    max_off_policy_versions=st.integers(0, 2),
    max_turns=st.integers(1, 3),
)
def test_the_run_ends_and_the_books_balance_whatever_dies_or_freezes(
    seed: int,
    kills: dict[int, tuple[str, bool]],
    freezes: dict[int, str],
    refresh_every: int,
    max_off_policy_versions: int,
    max_turns: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = make_settings(
            Path(folder),
            refresh_every=refresh_every,
            max_off_policy_versions=max_off_policy_versions,
            max_turns=max_turns,
        )
        cluster = Cluster(seed, kills, freezes)
        controller = run_virtually(life(cluster, settings, None))
        note(f"{cluster.num_calls} calls, {cluster.num_killed} killed")
        assert controller is not None
        check_books(controller)


@pytest.mark.slow
@hypothesis_settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    kills=KILLS,
    lives=st.lists(st.floats(1, 120), min_size=1, max_size=3),
    max_off_policy_versions=st.integers(0, 2),
)
def test_a_killed_driver_continues_from_its_checkpoint(
    seed: int, kills: dict[int, tuple[str, bool]], lives: Sequence[float], max_off_policy_versions: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = make_settings(Path(folder), refresh_every=2, max_off_policy_versions=max_off_policy_versions)
        controller = None
        for number, stop_after_s in enumerate([*lives, None]):
            controller = run_virtually(life(Cluster(seed + number, dict(kills)), settings, stop_after_s))
            if controller is not None:
                break
        assert controller is not None
        check_books(controller)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, int]:
    """Settings that a run may be resumed with, whatever they were before."""
    shape = {
        "num_generations": draw(st.integers(1, 6)),
        "batch_size": draw(st.integers(2, 8)),
        "refresh_every": draw(st.integers(1, 3)),
        "max_off_policy_versions": draw(st.integers(0, 2)),
        "max_turns": draw(st.integers(1, 3)),
    }
    return shape | {"capacity": draw(st.integers(max(6, shape["batch_size"] * shape["refresh_every"]), 40))}


@pytest.mark.slow
@hypothesis_settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    kills=KILLS,
    lives=st.lists(st.tuples(shapes(), st.floats(1, 120)), min_size=1, max_size=3),
    last=shapes(),
)
def test_the_books_balance_whatever_settings_a_run_is_resumed_with(
    seed: int,
    kills: dict[int, tuple[str, bool]],
    lives: Sequence[tuple[dict[str, int], float]],
    last: dict[str, int],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        controller = None
        for number, (shape, stop_after_s) in enumerate([*lives, (last, None)]):
            settings = make_settings(Path(folder), **shape)
            controller = run_virtually(life(Cluster(seed + number, dict(kills)), settings, stop_after_s))
            if controller is not None:
                break
        assert controller is not None
        check_books(controller)


def test_a_resumed_run_asks_for_as_many_samples_as_its_ledger_has_issued(tmp_path: Path) -> None:
    """With other numbers of samples per rollout, the grader seemed to have failed on a negative number of them."""
    before = make_settings(tmp_path, refresh_every=2, max_off_policy_versions=2, num_generations=2)
    assert run_virtually(life(Cluster(0, {}), before, 40.0)) is None
    assert Ledger.from_json(stored_ledger(tmp_path)).live
    after = make_settings(tmp_path, refresh_every=2, max_off_policy_versions=2, num_generations=4)
    controller = run_virtually(life(Cluster(1, {}), after, None))
    assert controller is not None
    check_books(controller)


def test_rollouts_of_removed_problems_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = make_settings(tmp_path, refresh_every=1, max_off_policy_versions=2)
    assert run_virtually(life(Cluster(0, {}), settings, 40.0)) is None
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    kept = dict(load_rollouts(newest / "trainer_state" / "rollouts.npz"))
    lost = [row["task_id"] for row in stored_ledger(tmp_path)["live"] if row["rollout_id"] not in kept]
    others = [problem for problem in PROBLEMS if problem.task_id not in lost]
    controller = run_virtually(life(Cluster(1, {}), settings, None, others))
    assert controller is not None
    check_books(controller)
    assert "the order of the current pass over them is a new one" in caplog.text
    assert controller.ledger.dropped[DropReason.LOST] == 2 * len(lost) > 0


def stored_ledger(run: Path) -> dict[str, Any]:
    newest = newest_checkpoint(run / "checkpoints")
    assert newest is not None
    ledger: dict[str, Any] = read_json(newest / "trainer_state" / "run_state.json")["ledger"]
    return ledger


@pytest.mark.parametrize("num_damaged", [1, 2])
def test_a_new_learner_passes_over_damaged_checkpoints(
    num_damaged: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Update 6 is being made when the learner dies, and checkpoints 4, or 4 and 2, turn out to be damaged."""
    settings = make_settings(tmp_path, refresh_every=2, max_off_policy_versions=1)
    folder = tmp_path / "checkpoints"

    class Damaging(Cluster):
        def kill(self, name: str) -> None:
            for path in checkpoints(folder)[::-1][:num_damaged]:
                (path / "trainer_state" / "weights").write_text("")
            super().kill(name)

    cluster = Damaging(1, {120: ("learner", False)})
    controller = run_virtually(life(cluster, settings, None))
    assert controller is not None
    check_books(controller)
    assert caplog.text.count("weights is not as it was written") == num_damaged
    assert controller.ledger.dropped[DropReason.REWOUND] > 0
    assert len(list(folder.glob("set-aside-*"))) == num_damaged


@pytest.mark.parametrize("who", TARGETS)
def test_each_kind_of_death(who: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = make_settings(tmp_path, refresh_every=2, max_off_policy_versions=1)
    cluster = Cluster(1, {120: (who, False), 200: (who, True)})
    controller = run_virtually(life(cluster, settings, None))
    assert controller is not None
    check_books(controller)
    assert cluster.num_killed
    expected = {
        "generator-0": "generator 0 is gone",
        "generator-1": "generator 1 is gone",
        "buffer": "the buffer is gone",
        "learner": "the learner is gone",
    }
    if who in expected:
        assert expected[who] in caplog.text
    if who == "learner":
        assert controller.ledger.dropped[DropReason.REWOUND] > 0


@pytest.mark.parametrize("who", TARGETS)
def test_a_frozen_actor_is_killed_and_the_run_goes_on(
    who: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(tmp_path, refresh_every=2, max_off_policy_versions=1)
    controller = run_virtually(life(Cluster(1, {}, {120: who}), settings, None))
    assert controller is not None
    check_books(controller)
    assert re.search(rf"{who} \(\d+\) is frozen: it has not answered for 30 s, since ", caplog.text)


@pytest.mark.parametrize("call", range(1, 12))
@pytest.mark.parametrize("who", TARGETS)
def test_actors_that_die_during_the_start_are_replaced(who: str, call: int, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, refresh_every=2, max_off_policy_versions=1)
    controller = run_virtually(life(Cluster(call, {call: (who, call % 2 == 0)}), settings, None))
    assert controller is not None
    check_books(controller)


@pytest.mark.slow
def test_a_snapshot_with_grader_errors_is_filled_up(tmp_path: Path) -> None:
    """Without staleness there are no spare samples, so every lost one must be requested again."""
    settings = make_settings(tmp_path, refresh_every=1, max_off_policy_versions=0)
    for seed in range(20):
        with contextlib.suppress(FileNotFoundError):
            for path in checkpoints(tmp_path / "checkpoints"):
                path.rename(tmp_path / f"old-{seed}-{path.name}")
        controller = run_virtually(life(Cluster(seed, {}), settings, None))
        assert controller is not None
        check_books(controller)
