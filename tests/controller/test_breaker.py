"""Graders that fail on too much stop the run, early or late in it, and a few faults never do."""

from __future__ import annotations

import pytest

from controller.rollouts import BREAKER_MIN_SEEN, BREAKER_WINDOW, Breaker, GraderFailedError


def test_faults_late_in_a_long_run_stop_it_as_soon_as_early_ones() -> None:
    breaker = Breaker()
    for _ in range(100_000):
        breaker.note(8, 0, "")
    for _ in range(BREAKER_WINDOW // 10 // 8):
        breaker.note(8, 8, "no memory")
    with pytest.raises(GraderFailedError, match=r"on 104 of the last \d+ programs; the last time: no memory; .*doctor"):
        breaker.note(8, 8, "no memory")


def test_too_few_programs_say_nothing() -> None:
    breaker = Breaker()
    for _ in range(BREAKER_MIN_SEEN // 8 - 1):
        breaker.note(8, 8, "no memory")
    with pytest.raises(GraderFailedError):
        breaker.note(8, 8, "no memory")


def test_a_fault_in_ten_programs_is_borne_for_ever() -> None:
    breaker = Breaker()
    for _ in range(10_000):
        breaker.note(10, 1, "no memory")


def test_faults_that_are_over_are_forgotten() -> None:
    breaker = Breaker()
    for _ in range(20):
        breaker.note(100, 0, "")
        breaker.note(5, 5, "no memory")
    for _ in range(20):
        breaker.note(100, 0, "")
    breaker.note(90, 90, "no memory")
