"""The circuit breaker of the graders: where they fail on too much of what came last, the run stops."""

from __future__ import annotations

from collections import deque

# The share of the last WINDOW programs that may be lost to the grader, and from how many on it is asked.
MAX_FAULT_SHARE = 0.1
WINDOW = 1000
MIN_SEEN = 200


class GraderFaultError(RuntimeError):
    """The sandbox fails on too many programs for what is left to mean anything."""


class Breaker:
    """Counts what graders failed on among what they were given last, however long the run is."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, int]] = deque()
        self._num_seen = 0
        self._num_faults = 0

    def note(self, num_programs: int, num_faults: int, cause: str) -> None:
        """They failed on `num_faults` of `num_programs` more. Raises GraderFaultError, with `cause`, at the limit."""
        self._recent.append((num_programs, num_faults))
        self._num_seen += num_programs
        self._num_faults += num_faults
        while self._num_seen - self._recent[0][0] >= WINDOW:
            programs, faults = self._recent.popleft()
            self._num_seen -= programs
            self._num_faults -= faults
        if num_faults and self._num_seen >= MIN_SEEN and self._num_faults > MAX_FAULT_SHARE * self._num_seen:
            raise GraderFaultError(
                f"the sandbox failed on {self._num_faults} of the last {self._num_seen} programs; the last time: "
                f"{cause}; `python -m sandbox doctor` says what is wrong with a machine"
            )
