"""Where an evaluation samples and grades: in this process, or where the command that runs it says.

Imports neither torch nor Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rltf.sandbox.grading import ProgramGraders
from rltf.settings import GeneratorSettings, ModelSettings

if TYPE_CHECKING:
    from rltf.actors.engine import FinishedRequest, SamplingRequest

StartEngine = Callable[[Path, ModelSettings, GeneratorSettings, tuple[int, ...], int], "RunningEngine"]
"""Takes what `actors.engine.build_engine` takes, and raises what it raises."""


class RunningEngine(Protocol):
    """What an evaluation needs of a `SamplingEngine`, and of several that look like one."""

    def add_request(self, request: SamplingRequest) -> None:
        """Queue a request."""

    def step(self) -> list[FinishedRequest]:
        """Go on with what is queued, for a short time. Returns the requests that are finished."""

    @property
    def num_unfinished(self) -> int:
        """Sequences queued or being decoded."""

    def close(self) -> None:
        """Free the model."""


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """Where `num_engines` engines run, each `on_gpu` or on `num_cores` cores. `start` starts all of them."""

    start: StartEngine
    on_gpu: bool
    num_cores: int
    num_engines: int = 1


@dataclass(frozen=True, slots=True)
class Site:
    """Where an evaluation takes place. The graders start when they are entered, before any engine.

    `engines` is None if they run in this process.
    """

    graders: AbstractContextManager[ProgramGraders]
    engines: EnginePlace | None = None


def here() -> EnginePlace:
    """One engine in this process."""
    import torch  # late, because grading a file needs none

    from rltf.actors.engine import build_engine

    return EnginePlace(build_engine, torch.cuda.is_available(), len(os.sched_getaffinity(0)))
