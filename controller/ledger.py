"""The ledger of rollouts: where every sample is that was ever asked for.

    issued -> generated -> graded -> buffered -> taken -> trained
        \\________\\___________\\_________\\_________\\______|____> dropped, with its reason
                                                      (trained -> dropped: its update died with a learner)

The driver keeps it; it outlives every actor and is part of every checkpoint. Invariant, at any moment and in samples:
issued = trained + dropped, by reason, + in flight. What comes late or twice, of a rollout that has moved on, is passed
over; each method says whether it counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from controller.waiting import Changes
from learner.buffer import DropReason


class State(IntEnum):
    """Where a rollout in flight is, in the order of its way."""

    ISSUED = 0
    """A generator has been asked, or will be."""
    GENERATED = 1
    """It is in the rollout store; a sandbox worker has been asked, or will be."""
    GRADED = 2
    """Its verdicts are known."""
    BUFFERED = 3
    """The online buffer holds it."""
    TAKEN = 4
    """It is part of an update that is being made, or comes next."""


class LedgerError(RuntimeError):
    """The ledger was told something that cannot be: a fault of this program."""


@dataclass(slots=True)
class Live:
    """A rollout in flight. `position` is that of its problem in the order; `buffer` the incarnation that holds it."""

    rollout_id: str
    position: int
    task_id: str
    num_samples: int
    state: State = State.ISSUED
    buffer: str = ""


@dataclass(slots=True)
class _Trained:
    step: int
    num_samples: int


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """In samples; `in_flight` by state. `issued == trained + sum(dropped) + sum(in_flight)`, always."""

    issued: int
    trained: int
    dropped: dict[str, int]
    in_flight: dict[str, int]

    @property
    def balance(self) -> int:
        """0, or the ledger is wrong."""
        return self.issued - self.trained - sum(self.dropped.values()) - sum(self.in_flight.values())

    def __str__(self) -> str:
        """In words."""
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "none"
        in_flight = ", ".join(f"{count} {state}" for state, count in self.in_flight.items() if count) or "none"
        return f"{self.issued} samples issued: {self.trained} trained; dropped: {dropped}; in flight: {in_flight}"


@dataclass(slots=True)
class Ledger:
    """See the module's docstring. `changes` wakes who waits for a rollout to move."""

    num_issued: int = 0
    num_trained: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    live: dict[str, Live] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    _in_flight: Counter[State] = field(default_factory=Counter)
    _since_checkpoint: list[_Trained] = field(default_factory=list)

    @property
    def num_useful(self) -> int:
        """Samples issued and not dropped: trained or in flight."""
        return self.num_issued - self.dropped.total()

    def counts(self) -> LedgerCounts:
        """The balance sheet. The samples in flight are counted from the rollouts themselves."""
        in_flight: Counter[State] = Counter()
        for rollout in self.live.values():
            in_flight[rollout.state] += rollout.num_samples
        if +in_flight != +self._in_flight:
            raise LedgerError(f"rollouts in flight {dict(in_flight)}, counted {dict(self._in_flight)}")
        return LedgerCounts(
            issued=self.num_issued,
            trained=self.num_trained,
            dropped={str(reason): count for reason, count in sorted(self.dropped.items()) if count},
            in_flight={state.name.lower(): in_flight[state] for state in State},
        )

    def num_in(self, state: State) -> int:
        """Samples in flight in one state."""
        return self._in_flight[state]

    def issue(self, rollout_id: str, position: int, task_id: str, num_samples: int) -> Live:
        """Enter a rollout that is asked for now. Raises LedgerError for an id in flight."""
        if rollout_id in self.live:
            raise LedgerError(f"rollout {rollout_id} is issued twice")
        rollout = self.live[rollout_id] = Live(rollout_id, position, task_id, num_samples)
        self.num_issued += num_samples
        self._in_flight[State.ISSUED] += num_samples
        self.changes.notify()
        return rollout

    def generated(self, rollout_id: str) -> bool:
        """It has been sampled."""
        return self._advance(rollout_id, State.GENERATED)

    def graded(self, rollout_id: str, num_samples: int, buffer: str) -> bool:
        """`num_samples` of it were graded and given to this incarnation of the buffer; the rest were not graded."""
        rollout = self.live.get(rollout_id)
        if rollout is None or rollout.state >= State.GRADED:
            return False
        self._settle_ungraded(rollout, num_samples)
        if num_samples == 0:
            return True
        self._advance(rollout_id, State.GRADED)
        rollout.buffer = buffer
        self._advance(rollout_id, State.BUFFERED)
        return True

    def taken(self, rollout_id: str, num_samples: int) -> bool:
        """The buffer handed it out. False where it must not be trained on: it is closed, or taken already."""
        rollout = self.live.get(rollout_id)
        if rollout is None or rollout.state is State.TAKEN:
            return False
        self._settle_ungraded(rollout, num_samples)
        return self._advance(rollout_id, State.TAKEN)

    def trained(self, rollout_id: str, step: int) -> None:
        """Update number `step` learnt from it. Raises LedgerError where it was not taken for one."""
        rollout = self.live.get(rollout_id)
        if rollout is None or rollout.state is not State.TAKEN:
            raise LedgerError(f"update {step} was made with rollout {rollout_id}, which was not taken for it")
        self._leave(rollout)
        self.num_trained += rollout.num_samples
        self._since_checkpoint.append(_Trained(step, rollout.num_samples))

    def drop(self, rollout_id: str, reason: DropReason, num_samples: int | None = None) -> bool:
        """It will never be trained on. `num_samples` is what the buffer had of it, where that is who says so."""
        rollout = self.live.get(rollout_id)
        if rollout is None:
            return False
        if num_samples is not None:
            if rollout.state is State.TAKEN:
                return False  # the buffer speaks of a second copy
            self._settle_ungraded(rollout, num_samples)
        self._leave(rollout)
        self.dropped[reason] += rollout.num_samples
        return True

    def drop_on_the_way(self, rollout_id: str, reason: DropReason) -> bool:
        """It was lost before it was graded; not where it has reached the buffer all the same, by another worker."""
        rollout = self.live.get(rollout_id)
        return rollout is not None and rollout.state < State.BUFFERED and self.drop(rollout_id, reason)

    def buffer_is(self, incarnation: str) -> Sequence[Live]:
        """The buffer answers as `incarnation`: what others held, before it, is lost. Returns what was."""
        lost = [r for r in self.live.values() if r.state is State.BUFFERED and r.buffer != incarnation]
        for rollout in lost:
            self.drop(rollout.rollout_id, DropReason.LOST)
        return lost

    def rewind(self, step: int) -> int:
        """The updates after `step` are undone: their samples count as dropped. Returns their number."""
        undone = sum(trained.num_samples for trained in self._since_checkpoint if trained.step > step)
        self._since_checkpoint = [trained for trained in self._since_checkpoint if trained.step <= step]
        self.num_trained -= undone
        if undone:
            self.dropped[DropReason.REWOUND] += undone
        self.changes.notify()
        return undone

    def checkpointed(self, step: int) -> None:
        """The updates up to `step` can no longer be undone."""
        self._since_checkpoint = [trained for trained in self._since_checkpoint if trained.step > step]

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps. Rollouts in flight are issued again, unless `resumed` finds them."""
        return {
            "num_issued": self.num_issued,
            "num_trained": self.num_trained,
            "dropped": dict(self.dropped),
            "live": [asdict(rollout) | {"state": State.ISSUED} for rollout in self.live.values()],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Ledger:
        """The ledger of a checkpoint: what was in flight is issued, in the same order."""
        ledger = cls(stored["num_issued"], stored["num_trained"])
        ledger.dropped.update({DropReason(reason): count for reason, count in stored["dropped"].items()})
        for row in stored["live"]:
            rollout = Live(**row | {"state": State.ISSUED, "buffer": ""})
            ledger.live[rollout.rollout_id] = rollout
            ledger._in_flight[State.ISSUED] += rollout.num_samples
        return ledger

    def issued(self) -> list[Live]:
        """The rollouts that nobody has sampled yet, in the order in which they were issued."""
        return [rollout for rollout in self.live.values() if rollout.state is State.ISSUED]

    def on_the_way(self) -> int:
        """Samples that are neither in the buffer nor taken from it."""
        return sum(self._in_flight[state] for state in (State.ISSUED, State.GENERATED, State.GRADED))

    def _advance(self, rollout_id: str, state: State) -> bool:
        rollout = self.live.get(rollout_id)
        if rollout is None or rollout.state >= state:
            return False
        self._in_flight[rollout.state] -= rollout.num_samples
        rollout.state = state
        self._in_flight[state] += rollout.num_samples
        self.changes.notify()
        return True

    def _settle_ungraded(self, rollout: Live, num_samples: int) -> None:
        """`num_samples` of the rollout went on: the grader failed on the others.

        A rollout that was graded twice may have been told of with one number and buffered with another: the buffer's
        word is the later one, and counts.
        """
        ungraded = rollout.num_samples - num_samples
        self.dropped[DropReason.UNGRADED] += ungraded
        self._in_flight[rollout.state] -= ungraded
        rollout.num_samples = num_samples
        if num_samples == 0:
            self._leave(rollout)

    def _leave(self, rollout: Live) -> None:
        del self.live[rollout.rollout_id]
        self._in_flight[rollout.state] -= rollout.num_samples
        self.changes.notify()


def ids(rollouts: Iterable[Live]) -> str:
    """A few rollout ids, for a log."""
    names = [rollout.rollout_id for rollout in rollouts]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
