"""Running trusted source: expected values that have to be computed, setups of tests, and checkers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from rltf.sandbox.jobs import ClosedJob, End, Job, RunResult
from rltf.sandbox.process import Jail

_MAX_KEPT = 4096


class TrustedJail:
    """A jail that no graded program enters. It starts when it is first needed.

    Trusted source is still jailed: it may be wrong, and a checker reads what hostile programs wrote.
    """

    def __init__(self, start: Callable[[], Jail]) -> None:
        self._start = start
        self._jail: Jail | None = None
        self._kept: dict[bytes, RunResult] = {}

    def results(self, jobs: Sequence[ClosedJob | None]) -> list[RunResult | None]:
        """The result of each job. Those of one source run together, and good results are kept."""
        keys = [job.key if job is not None else b"" for job in jobs]
        missing: defaultdict[str, dict[bytes, Job]] = defaultdict(dict)
        for key, job in zip(keys, jobs, strict=True):
            if job is not None and key not in self._kept:
                missing[job.source][key] = job.job
        found: dict[bytes, RunResult] = {}
        for source, by_key in missing.items():
            found |= zip(by_key, self.run(source, list(by_key.values())), strict=True)
        results = [self._kept.get(key) or found.get(key) for key in keys]
        self._kept |= {key: result for key, result in found.items() if result.end is End.OK}
        while len(self._kept) > _MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        return results

    def run(self, source: str, jobs: Sequence[Job]) -> list[RunResult]:
        """The results of these jobs. Raises `JailError` if the jail breaks."""
        if self._jail is None:
            self._jail = self._start()
        try:
            return list(self._jail.run(source, jobs))
        finally:
            if not self._jail.is_clean:
                self.close()

    def close(self) -> None:
        """End the jail. Safe to call twice."""
        if self._jail is not None:
            self._jail.close()
            self._jail = None
