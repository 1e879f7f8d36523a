"""The ledger of rollouts: the only books on where every sample is that was ever requested.

    issued -> generated -> buffered -> taken -> trained
        \\________\\___________\\_________\\______|____> dropped, with its reason
                                            (trained -> dropped: its update died with a learner)

The controller keeps it; it outlives every actor and is part of every checkpoint. Invariant, at any moment and in
samples: issued = trained + dropped, by reason, + in flight. A message that comes late or twice, about a rollout that
has moved on, changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from rltf.learner.buffer import RolloutMeta
from rltf.supervise import Changes


class DropReason(StrEnum):
    """Why a rollout, or a sample of it, is never trained on."""

    EVICTED = "evicted"
    """Newer ones pushed it out of the buffer: the learner is slower than the generators."""
    STALE = "stale"
    """It was more than `max_off_policy_versions` weight versions behind when its turn came."""
    LOST = "lost"
    """It died with the process that held it."""
    UNGRADED = "ungraded"
    """The sandbox failed on it: the grader's error, which says nothing about the program."""
    SILENT = "silent"
    """Its programs teach nothing, and `rewards.filter_groups` drops such rollouts."""
    OVERLONG = "overlong"
    """`generator.max_tokens` cut it off, and `rewards.overlong_filter` drops such samples."""
    REWOUND = "rewound"
    """Its update died with the learner that made it."""


class State(IntEnum):
    """Where a rollout in flight is, in the order of its life."""

    ISSUED = 0
    """A generator has been asked for it, or will be."""
    GENERATED = 1
    """The rollout store holds it; a sandbox worker has been asked to grade it, or will be."""
    BUFFERED = 2
    """It is graded, and the online buffer holds it."""
    TAKEN = 3
    """It is part of the current update, or of one that comes soon."""


class LedgerError(RuntimeError):
    """The ledger was told something that cannot be: a fault of this program."""


@dataclass(slots=True)
class Live:
    """A rollout in flight.

    `position` is its problem's place in the sampling order; `version` its oldest weights version and `epoch` the
    buffer's, once it is buffered.
    """

    rollout_id: str
    position: int
    task_id: str
    num_samples: int
    state: State = State.ISSUED
    version: int = 0
    epoch: str = ""


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
    """The ledger. `changes` wakes everyone who waits for a rollout to move; `buffered` is in the order of arrival."""

    num_issued: int = 0
    num_trained: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    live: dict[str, Live] = field(default_factory=dict)
    buffered: dict[str, Live] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    _in_flight: Counter[State] = field(default_factory=Counter)
    _can_be_undone: Counter[int] = field(default_factory=Counter)  # samples by update

    @property
    def num_useful(self) -> int:
        """Samples issued and not dropped: trained or in flight."""
        return self.num_issued - self.dropped.total()

    def counts(self) -> LedgerCounts:
        """The balance sheet. The samples in flight are counted from the rollouts themselves.

        Raises LedgerError if a count is negative, or if the sheet does not balance.
        """
        in_flight: Counter[State] = Counter()
        for rollout in self.live.values():
            in_flight[rollout.state] += rollout.num_samples
        if +in_flight != +self._in_flight:
            raise LedgerError(f"rollouts in flight {dict(in_flight)}, counted {dict(self._in_flight)}")
        counts = LedgerCounts(
            issued=self.num_issued,
            trained=self.num_trained,
            dropped={str(reason): count for reason, count in sorted(self.dropped.items()) if count},
            in_flight={state.name.lower(): in_flight[state] for state in State},
        )
        if counts.balance or min(counts.trained, *counts.dropped.values(), *counts.in_flight.values()) < 0:
            raise LedgerError(f"the ledger does not balance: {counts}")
        return counts

    def num_in(self, state: State) -> int:
        """Samples in flight in one state."""
        return self._in_flight[state]

    def issue(self, rollout_id: str, position: int, task_id: str, num_samples: int) -> Live:
        """Enter a rollout that is requested now. Raises LedgerError if it is in flight already."""
        if rollout_id in self.live:
            raise LedgerError(f"rollout {rollout_id} was issued twice")
        rollout = self.live[rollout_id] = Live(rollout_id, position, task_id, num_samples)
        self.num_issued += num_samples
        self._in_flight[State.ISSUED] += num_samples
        self.changes.notify()
        return rollout

    def generated(self, rollout_id: str) -> None:
        """A generator sampled it."""
        rollout = self.live.get(rollout_id)
        if rollout is not None and rollout.state is State.ISSUED:
            self._move(rollout, State.GENERATED)

    def buffer(self, rollout_id: str, meta: RolloutMeta, epoch: str, num_overlong: int = 0) -> None:
        """It was graded, and the buffer holds `meta.num_samples` of it.

        Of the others, `num_overlong` were left out as overlong, and the grader failed on the rest. Raises LedgerError
        if all of these are more than were requested.
        """
        rollout = self.live.get(rollout_id)
        if rollout is None or rollout.state >= State.BUFFERED:
            return
        ungraded = rollout.num_samples - meta.num_samples - num_overlong
        if ungraded < 0:
            raise LedgerError(
                f"the buffer holds {meta.num_samples} samples of rollout {rollout_id}, and {num_overlong} "
                f"were overlong, but only {rollout.num_samples} were requested"
            )
        self.dropped[DropReason.UNGRADED] += ungraded
        self.dropped[DropReason.OVERLONG] += num_overlong
        self._in_flight[rollout.state] -= ungraded + num_overlong
        rollout.num_samples, rollout.version, rollout.epoch = meta.num_samples, meta.version, epoch
        self._move(rollout, State.BUFFERED)
        self.buffered[rollout_id] = rollout

    def take(self, rollout_id: str) -> None:
        """It goes to the learner. Raises LedgerError if the buffer does not hold it."""
        rollout = self.buffered.pop(rollout_id, None)
        if rollout is None:
            raise LedgerError(f"rollout {rollout_id} was taken, but is not buffered")
        self._move(rollout, State.TAKEN)

    def train(self, rollout_id: str, step: int) -> None:
        """Update number `step` learned from it. Raises LedgerError if it was not taken."""
        rollout = self.live.get(rollout_id)
        if rollout is None or rollout.state is not State.TAKEN:
            raise LedgerError(f"update {step} was made with rollout {rollout_id}, which was not taken for it")
        self._leave(rollout)
        self.num_trained += rollout.num_samples
        self._can_be_undone[step] += rollout.num_samples

    def drop(self, rollout_id: str, reason: DropReason, *states: State) -> bool:
        """It will never be trained on. Does nothing, and returns False, unless it is in flight, in one of `states`."""
        rollout = self.live.get(rollout_id)
        if rollout is None or (states and rollout.state not in states):
            return False
        self._leave(rollout)
        self.dropped[reason] += rollout.num_samples
        return True

    def drop_other_epochs(self, epoch: str) -> Sequence[Live]:
        """The buffer is in `epoch`, and what it held in another one is lost. Returns what was."""
        lost = [rollout for rollout in self.buffered.values() if rollout.epoch != epoch]
        for rollout in lost:
            self.drop(rollout.rollout_id, DropReason.LOST)
        return lost

    def rewind(self, step: int) -> int:
        """Undo the updates after `step`: their samples count as dropped. Returns the number of samples."""
        undone = sum(num_samples for at, num_samples in self._can_be_undone.items() if at > step)
        if step == 0:
            undone = self.num_trained
        self._can_be_undone = Counter({at: num for at, num in self._can_be_undone.items() if at <= step})
        self.num_trained -= undone
        if undone:
            self.dropped[DropReason.REWOUND] += undone
        self.changes.notify()
        return undone

    def checkpointed(self, step: int) -> None:
        """The oldest checkpoint is that of update `step`: earlier updates can be undone only with all others."""
        self._can_be_undone = Counter({at: num for at, num in self._can_be_undone.items() if at > step})

    def to_json(self) -> dict[str, Any]:
        """The part of a checkpoint. Rollouts in flight are issued again, unless the checkpoint holds them."""
        return {
            "num_issued": self.num_issued,
            "num_trained": self.num_trained,
            "dropped": dict(self.dropped),
            "can_be_undone": list(self._can_be_undone.items()),
            "live": [asdict(rollout) | {"state": State.ISSUED} for rollout in self.live.values()],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Ledger:
        """The ledger of a checkpoint: whatever was in flight is issued again, in the same order.

        Raises LedgerError if it does not balance.
        """
        ledger = cls(stored["num_issued"], stored["num_trained"])
        ledger.dropped.update({DropReason(reason): count for reason, count in stored["dropped"].items()})
        for row in stored["live"]:
            rollout = Live(**row | {"state": State.ISSUED, "version": 0, "epoch": ""})
            ledger.live[rollout.rollout_id] = rollout
            ledger._in_flight[State.ISSUED] += rollout.num_samples
        ledger._can_be_undone.update(dict(stored["can_be_undone"]))
        ledger.counts()
        return ledger

    def issued(self) -> list[Live]:
        """The rollouts that no generator has sampled yet, in the order of issue."""
        return [rollout for rollout in self.live.values() if rollout.state is State.ISSUED]

    def on_the_way(self) -> int:
        """Samples that have not reached the buffer yet."""
        return self._in_flight[State.ISSUED] + self._in_flight[State.GENERATED]

    def _move(self, rollout: Live, state: State) -> None:
        self._in_flight[rollout.state] -= rollout.num_samples
        rollout.state = state
        self._in_flight[state] += rollout.num_samples
        self.changes.notify()

    def _leave(self, rollout: Live) -> None:
        del self.live[rollout.rollout_id]
        self.buffered.pop(rollout.rollout_id, None)
        self._in_flight[rollout.state] -= rollout.num_samples
        self.changes.notify()


def ids(rollouts: Iterable[Live]) -> str:
    """A few rollout ids, for a log."""
    names = [rollout.rollout_id for rollout in rollouts]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
