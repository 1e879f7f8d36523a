"""A small soak test. `make soak` runs ten thousand programs, and the whole corpus in each order."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from rltf.sandbox.verdict import Isolation, Outcome, ProgramError, Verdict
from tests.sandbox.soak import HONEST, Verdicts, orders, soak, watching


@pytest.mark.slow
def test_hostile_programs_change_nothing_for_honest_ones() -> None:
    with watching() as remains:
        report = soak(250)
    assert report.num_hostile > 20
    assert report.num_wrong == 0, report.wrong
    assert report.num_changed == 0, report.changed
    assert not report.grew, report
    assert remains.is_sound, remains


@pytest.mark.slow
def test_the_order_of_programs_changes_no_verdict() -> None:
    for report in orders(40):
        assert report.num_programs == 40
        assert report.is_sound, report


def verdict(outcome: Outcome, error: ProgramError | None = None) -> Verdict:
    return Verdict("stdin", "0", outcome, (outcome,), error, Isolation.NAMESPACES, 0.1, 0.1, 1)


def test_changed_verdicts_are_named() -> None:
    (case,) = [case for case in HONEST if case.right == (Outcome.RUNTIME_ERROR,)]
    verdicts = Verdicts()
    for line in (2, 2, 1):
        verdicts.add(case, verdict(Outcome.RUNTIME_ERROR, ProgramError("ValueError", line=line)))
    assert len(verdicts.changed) == 1
    assert "runtime_error ValueError 2, then runtime_error ValueError 1" in verdicts.changed[0]
    assert verdicts.wrong == []
    verdicts.add(case, verdict(Outcome.PASSED))
    assert len(verdicts.wrong) == 1


def test_what_is_left_behind_is_found() -> None:
    with watching() as remains:
        reader, writer = os.pipe()
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        name = tempfile.mkstemp()[1]
    try:
        assert not remains.is_sound
        assert {str(reader), str(writer)} <= {found.split()[0] for found in remains.descriptors}
        assert [found.split()[0] for found in remains.processes] == [str(child.pid)]
        assert remains.files == [name]
        assert remains.cgroups == remains.ipc == []
    finally:
        child.communicate(b"\n")
        os.close(reader)
        os.close(writer)
