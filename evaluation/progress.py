"""How far work on many programs is, and how long it will take: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import ceil
from typing import TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

logger = logging.getLogger(__name__)
LOG_EVERY_S = 30.0


def time_left(task: Task) -> str:
    """The time that the programs left will take, from the time that this call took for those it has done."""
    num_now = task.completed - task.fields["num_stored"]
    if task.elapsed is None or task.total is None or num_now <= 0:
        return ""
    seconds = task.elapsed / num_now * (task.total - task.completed)
    return f"about {ceil(seconds / 60)} min left"


class ProgramProgress:
    """Shows how many programs are done, which is what `verb` says. A context manager.

    `num_stored` of `num_programs` were done by an earlier call. Nothing is shown before the first `begin`.
    """

    def __init__(self, num_programs: int, num_stored: int, verb: str = "graded") -> None:
        self._verb = verb
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn(f"{verb} {{task.completed}} of {{task.total}} programs"),
            BarColumn(),
            TimeElapsedColumn(),
            _TimeLeft(),
            console=self._console,
            transient=True,
        )
        self._bar.add_task("", start=False, total=num_programs, completed=num_stored, num_stored=num_stored)
        (self._task,) = self._bar.tasks
        self._exit = ExitStack()

    def __enter__(self) -> ProgramProgress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._exit.close()

    def begin(self) -> None:
        """Programs come from now on. Later calls change nothing."""
        if self._task.started:
            return
        self._bar.start_task(self._task.id)
        if self._console.is_interactive:
            self._exit.enter_context(_logged_above(self._bar))
        else:
            closed = threading.Event()
            self._exit.callback(closed.set)
            threading.Thread(target=self._log, args=(closed,), name="progress", daemon=True).start()

    def advance(self, num_programs: int = 1) -> None:
        """More programs are done."""
        self._bar.advance(self._task.id, num_programs)

    def describe(self) -> str:
        """The line for a log."""
        shown = f"{self._verb} {self._task.completed:.0f} of {self._task.total:.0f} programs"
        return ", ".join(filter(None, (shown, time_left(self._task))))

    def _log(self, closed: threading.Event) -> None:
        while not closed.wait(LOG_EVERY_S):
            logger.info("%s", self.describe())


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(time_left(task))


@contextmanager
def _logged_above(bar: Progress) -> Iterator[None]:
    """Show the bar. Log handlers keep the stream that they got first, so they are told to write above the bar."""
    stream = sys.stderr
    handlers = [
        cast("logging.StreamHandler[TextIO]", handler)
        for handler in logging.getLogger().handlers
        if getattr(handler, "stream", None) is stream
    ]
    with bar:
        for handler in handlers:
            handler.setStream(sys.stderr)
        try:
            yield
        finally:
            for handler in handlers:
                handler.setStream(stream)
