"""The capacity rule and the order of problems."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from rltf.controller.problem_sampler import Passes, ProblemSampler
from rltf.controller.problems import capacity
from rltf.settings import Settings


def make_settings(
    refresh_every: int, batch_size: int, max_off_policy_versions: int, num_steps: int, start: int = 0
) -> Settings:
    return Settings(
        run={"num_steps": num_steps},
        learner={"batch_size": batch_size},
        buffer={
            "refresh_every": refresh_every,
            "max_off_policy_versions": max_off_policy_versions,
            "start_samples": start,
        },
    )


@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 3), st.integers(1, 40), st.integers(1, 5))
def test_in_order_use_never_outruns_the_staleness_bound(
    refresh_every: int, batch_size: int, max_off_policy_versions: int, num_steps: int, rollout: int
) -> None:
    """Rollouts of any size are used whole, in the order in which they were requested."""
    settings = make_settings(refresh_every, batch_size, max_off_policy_versions, num_steps)
    issued_at: list[int] = []
    num_used = 0
    for version, step in enumerate(range(0, num_steps, refresh_every)):
        while len(issued_at) * rollout < capacity(settings, num_trained=num_used * rollout, step=step):
            issued_at.append(version)
        wanted = min(refresh_every, num_steps - step) * batch_size
        used = issued_at[num_used : num_used + -(-wanted // rollout)]
        assert len(used) * rollout >= wanted, "the learner would wait for samples that may not be requested"
        assert all(version - sampled <= max_off_policy_versions for sampled in used)
        num_used += len(used)


def test_without_staleness_sampling_and_training_take_turns() -> None:
    settings = make_settings(refresh_every=2, batch_size=4, max_off_policy_versions=0, num_steps=5)
    assert [capacity(settings, num_trained=4 * step, step=step) for step in (0, 2, 4)] == [8, 16, 20]


def test_capacity_includes_the_start_samples() -> None:
    settings = make_settings(refresh_every=1, batch_size=4, max_off_policy_versions=0, num_steps=5, start=12)
    assert capacity(settings, num_trained=0, step=0) == 12
    assert capacity(settings, num_trained=4, step=1) == 8


@given(st.integers(1, 9), st.integers(0, 5))
def test_every_epoch_has_every_problem_once(num_problems: int, seed: int) -> None:
    names = [f"p{i}" for i in range(num_problems)]
    order = ProblemSampler(names, seed)
    epochs = [[order.next() for _ in names] for _ in range(3)]
    assert all(sorted(epoch) == names for epoch in epochs)
    again = ProblemSampler(names, seed)
    assert epochs[0] == [again.next() for _ in names]


@given(st.integers(1, 9), st.integers(0, 30))
def test_a_restored_order_continues_where_it_was(num_problems: int, position: int) -> None:
    names = [f"p{i}" for i in range(num_problems)]
    order = ProblemSampler(names, seed=3, skip_solved=0.5, skip_unsolved=0.5)
    for _ in range(position):
        order.note(order.next(), num_passed=order.position % 3, num_samples=2)
    restored = ProblemSampler(names, seed=3, skip_solved=0.5, skip_unsolved=0.5, measured={"p0": Passes(2, 2)})
    restored.restore(json.loads(json.dumps(order.to_json())))
    assert [order.next() for _ in range(20)] == [restored.next() for _ in range(20)]


def test_solved_problems_come_less_often_until_they_fail_again() -> None:
    names = [f"p{i}" for i in range(20)]
    order = ProblemSampler(names, seed=1, skip_solved=0.75)
    order.note("p0", 4, 4)
    drawn = [order.next() for _ in range(20 * 100)]
    assert 10 <= drawn.count("p0") <= 45
    assert drawn.count("p1") >= 100
    order.note("p0", 3, 4)
    assert [order.next() for _ in range(2 * len(names))].count("p0") >= 1


def test_unsolved_problems_come_less_often_until_a_program_passes() -> None:
    names = [f"p{i}" for i in range(20)]
    order = ProblemSampler(names, seed=1, skip_unsolved=0.75)
    order.note("p0", 0, 4)
    assert order.next() is not None
    assert [order.next() for _ in range(20 * 10)].count("p0") == 10, "one rollout is too few to call it unsolved"
    order.note("p0", 0, 4)
    drawn = [order.next() for _ in range(20 * 100)]
    assert 10 <= drawn.count("p0") <= 45
    order.note("p0", 1, 4)
    assert [order.next() for _ in range(20 * 10)].count("p0") == 10


def test_results_from_before_the_run_count_at_once() -> None:
    names = [f"p{i}" for i in range(20)]
    measured = {"p0": Passes(0, 8), "p1": Passes(1, 8), "p2": Passes(8, 8), "elsewhere": Passes(0, 8)}
    order = ProblemSampler(names, seed=1, skip_solved=0.75, skip_unsolved=0.75, measured=measured)
    drawn = [order.next() for _ in range(20 * 100)]
    assert 10 <= drawn.count("p0") <= 45
    assert 10 <= drawn.count("p2") <= 45
    assert drawn.count("p1") == drawn.count("p3") >= 100
