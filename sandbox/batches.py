"""Many calls of one program: first several to a process, then each of those that are not right, alone.

A process per test is what makes a verdict certain, and most of what a short call costs. With hundreds of calls
(HumanEval+, MBPP+), a right program is checked in a fraction of the time if calls share a process. No expected value is
in there either. Only right answers count: a call that was not answered, or not rightly, runs again in a process of its
own, and that result counts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rltf.sandbox import codec
from rltf.sandbox.jobs import CallJob, CallsJob, End, Job, RunLimits, RunResult

MIN_CALLS = 64
"""With fewer calls, each runs alone at once."""
_MAX_CALLS = 32
# A batch is decoded as a whole, and the codec bounds what one message may turn into.
_MAX_BYTES = 1 << 18
# A batch that takes longer is not worth waiting for: its calls run alone.
_MAX_CPU_S = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls that share a process, and the numbers of their tests."""

    numbers: tuple[int, ...]
    job: CallsJob

    def results(self, result: RunResult) -> Iterator[tuple[int, RunResult]]:
        """The result of each call, by the number of its test, if all have been answered."""
        values = result.value
        if result.end is not End.OK or not isinstance(values, list) or len(values) != len(self.numbers):
            return
        share = 1 / len(self.numbers)
        for number, value in zip(self.numbers, values, strict=True):
            cpu_s, wall_s = share * result.cpu_seconds, share * result.wall_seconds
            yield number, replace(result, value=value, cpu_seconds=cpu_s, wall_seconds=wall_s)


def batches(jobs: Sequence[Job]) -> list[Batch]:
    """The calls among `jobs` in batches; none if there are few."""
    calls = {number: job for number, job in enumerate(jobs) if isinstance(job, CallJob)}
    return list(_batches(calls)) if len(calls) >= MIN_CALLS else []


def _batches(calls: Mapping[int, CallJob]) -> Iterator[Batch]:
    numbers: list[int] = []
    num_bytes = 0
    for number, job in calls.items():
        size = len(codec.encode(job.arguments, sys.maxsize))
        is_other = bool(numbers) and calls[numbers[0]].function != job.function
        if numbers and (len(numbers) == _MAX_CALLS or num_bytes + size > _MAX_BYTES or is_other):
            yield _batch(numbers, calls)
            numbers, num_bytes = [], 0
        numbers.append(number)
        num_bytes += size
    yield _batch(numbers, calls)


def _batch(numbers: Sequence[int], calls: Mapping[int, CallJob]) -> Batch:
    lists = tuple(calls[number].arguments for number in numbers)
    return Batch(tuple(numbers), CallsJob(calls[numbers[0]].function, lists))


def batch_limits(limits: RunLimits) -> RunLimits:
    """The limits of a batch whose calls have these limits."""
    return replace(limits, cpu_s=min(limits.cpu_s, _MAX_CPU_S))
