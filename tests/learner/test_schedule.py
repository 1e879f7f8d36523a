"""The schedule of the learning rate."""

from __future__ import annotations

import pytest

from rltf.learner.optim import learning_rate
from rltf.settings import OptimSettings, Settings


def test_rate_rises_during_warmup_and_falls_to_zero() -> None:
    settings = OptimSettings(learning_rate=1.0, warmup_steps=4, decay_steps=10)
    rates = [learning_rate(settings, step) for step in range(11)]
    assert rates[:4] == [0.25, pytest.approx(0.5 * 0.9), pytest.approx(0.75 * 0.8), pytest.approx(0.7)]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[10] == 0


def test_rate_is_constant_without_decay() -> None:
    settings = OptimSettings(learning_rate=1.0, warmup_steps=0)
    assert {learning_rate(settings, step) for step in range(100)} == {1.0}


def test_decay_must_not_end_before_the_run() -> None:
    with pytest.raises(ValueError, match=r"learner\.optim\.decay_steps 10 is below run\.num_steps 20"):
        Settings.model_validate({"run": {"num_steps": 20}, "learner": {"optim": {"decay_steps": 10}}})
