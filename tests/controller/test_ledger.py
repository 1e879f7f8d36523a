"""The ledger refuses what cannot have happened."""

from __future__ import annotations

import pytest

from rltf.controller.ledger import DropReason, Ledger
from rltf.learner.buffer import RolloutMeta


def test_the_ledger_refuses_impossible_transitions() -> None:
    ledger = Ledger()
    ledger.issue("r1", 1, "p", 4)
    with pytest.raises(RuntimeError, match="issued twice"):
        ledger.issue("r1", 1, "p", 4)
    with pytest.raises(RuntimeError, match="not taken"):
        ledger.train("r1", 1)
    with pytest.raises(RuntimeError, match="holds 3 samples of rollout r1, and 2 were overlong, but only 4"):
        ledger.buffer("r1", RolloutMeta("r1", 3, 1, 0), "epoch", 2)


def test_samples_that_never_reach_the_buffer_are_dropped_for_their_reasons() -> None:
    ledger = Ledger()
    ledger.issue("r1", 1, "p", 8)
    ledger.buffer("r1", RolloutMeta("r1", 5, 1, 0), "epoch", 2)
    counts = ledger.counts()
    assert counts.dropped == {"ungraded": 1, "overlong": 2}
    assert counts.in_flight["buffered"] == 5
    assert ledger.num_useful == 5


def test_a_ledger_with_impossible_counts_is_refused() -> None:
    ledger = Ledger(num_issued=4, num_trained=6)
    with pytest.raises(RuntimeError, match="does not balance: 4 samples issued: 6 trained"):
        ledger.counts()
    ledger.dropped[DropReason.UNGRADED] = -2
    with pytest.raises(RuntimeError, match="dropped: -2 ungraded"):
        ledger.counts()
