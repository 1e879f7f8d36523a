"""The run stops if the graders fail too often, early or late. A few grader errors do no harm."""

from __future__ import annotations

import pytest

from rltf.controller.rollouts import BREAKER_MIN_SEEN, BREAKER_WINDOW, Breaker, GraderFailedError


def test_grader_errors_stop_a_long_run_as_soon_as_a_new_one() -> None:
    breaker = Breaker()
    for _ in range(100_000):
        breaker.note(8, 0, "")
    for _ in range(BREAKER_WINDOW // 10 // 8):
        breaker.note(8, 8, "no memory")
    with pytest.raises(GraderFailedError, match=r"on 104 of the last \d+ programs; the last time: no memory; .*doctor"):
        breaker.note(8, 8, "no memory")


def test_a_few_programs_are_not_enough_to_stop() -> None:
    breaker = Breaker()
    for _ in range(BREAKER_MIN_SEEN // 8 - 1):
        breaker.note(8, 8, "no memory")
    with pytest.raises(GraderFailedError):
        breaker.note(8, 8, "no memory")


def test_one_error_in_ten_programs_is_tolerated() -> None:
    breaker = Breaker()
    for _ in range(10_000):
        breaker.note(10, 1, "no memory")


def test_old_errors_are_forgotten() -> None:
    breaker = Breaker()
    for _ in range(20):
        breaker.note(100, 0, "")
        breaker.note(5, 5, "no memory")
    for _ in range(20):
        breaker.note(100, 0, "")
    breaker.note(90, 90, "no memory")
