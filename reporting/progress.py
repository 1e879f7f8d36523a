"""Live progress of a run: a panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rltf.controller.events import (
    Began,
    Evaluated,
    EvaluationProgress,
    Event,
    Rewound,
    Said,
    SftProgress,
    Step,
    Ungraded,
)
from rltf.evaluation import EvaluationResult
from rltf.learner.metrics import StepMetrics

OUTCOME_STYLES = {
    "passed": "green",
    "failed": "yellow",
    "runtime_error": "magenta",
    "timeout": "blue",
    "memory_limit": "blue",
    "output_limit": "blue",
    "syntax_error": "red",
    "infrastructure_error": "bright_black",
}
BAR_WIDTH = 40
# Without a terminal, a stage that is silent for this long says that it is still running.
HEARTBEAT_S = 30.0


class Progress:
    """Shows stage, step, reward, pass rate, outcomes, tokens per second and time left.

        with Progress(num_steps=60) as progress:
            progress.emit(Began("model"))
            progress.emit(Step(metrics, grading, ledger))

    `stages` holds the finished stages in order, each with its duration in seconds. While the panel is up, everything
    that is written to stderr goes to `log`: the warnings of Ray's C++ code would tear the panel apart.
    """

    def __init__(self, num_steps: int, console: Console | None = None, log: Path | None = None) -> None:
        self.stages: list[tuple[str, float]] = []
        self._num_steps = num_steps
        self._console = console if console is not None else Console()
        self._is_live = self._console.is_terminal
        self._log = log
        self._stage = ""
        self._stage_started = 0.0
        self._detail = ""
        self._metrics: StepMetrics | None = None
        self._held_out = ""
        self._step_seconds: deque[float] = deque(maxlen=20)
        self._printed_at = time.monotonic()
        self._closed = threading.Event()
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Progress:
        if self._is_live:
            if self._log is not None:
                self._exit.enter_context(stderr_to(self._log))
            live = Live(console=self._console, refresh_per_second=2, get_renderable=self._render, transient=True)
            self._exit.enter_context(live)
        else:
            threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed.set()
        self._end_stage()
        self._exit.close()

    def emit(self, event: Event) -> None:
        """Show what an event says."""
        match event:
            case Began(stage):
                self._end_stage()
                self._stage, self._stage_started, self._detail = stage, time.monotonic(), ""
                if not self._is_live:
                    self._print(f"{stage} ...")
            case Said(text, style):
                self._print(text, style)
            case SftProgress(step, num_steps, train_loss, validation_loss):
                self._detail = f"update {step}/{num_steps}, loss {train_loss:.3f}"
                if not math.isnan(validation_loss):
                    self._detail += f", validation {validation_loss:.3f}"
            case EvaluationProgress(num_done, num_problems):
                self._detail = f"evaluated {num_done}/{num_problems} problems" if num_done < num_problems else ""
            case Step(metrics):
                self._metrics = metrics
                self._step_seconds.append(metrics.seconds)
                if not self._is_live:
                    self._print(self._line(metrics))
            case Evaluated(step, result):
                self._held_out = describe_evaluation(result)
                self._print(f"step {step}: held-out {self._held_out}")
            case Ungraded(rollout):
                self._print(
                    f"{len(rollout.programs)} programs for {rollout.task_id} cannot be graded and are kept in "
                    f"ungraded.jsonl: {rollout.why}",
                    "yellow",
                )
            case Rewound(why=why):
                self._print(why, "yellow")

    def _print(self, text: str, style: str | None = None) -> None:
        """Print a line that stays on the screen."""
        self._printed_at = time.monotonic()
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    def _heartbeat(self) -> None:
        while not self._closed.wait(max(0.0, self._printed_at + HEARTBEAT_S - time.monotonic())):
            now = time.monotonic()
            if now - self._printed_at < HEARTBEAT_S:
                continue
            self._printed_at = now
            if self._stage:
                elapsed = _duration(now - self._stage_started)
                self._print(f"{self._stage}: still running after {elapsed}  {self._detail}".rstrip())

    def _end_stage(self) -> None:
        if self._stage:
            seconds = time.monotonic() - self._stage_started
            self.stages.append((self._stage, seconds))
            self._print(f"{self._stage}: {seconds:.1f} s")
            self._stage = ""

    def _time_left(self, step: int) -> str:
        return _duration((self._num_steps - step) * sum(self._step_seconds) / max(len(self._step_seconds), 1))

    def _line(self, metrics: StepMetrics) -> str:
        outcomes = " ".join(f"{name} {count}" for name, count in metrics.outcomes.items() if count)
        return (
            f"step {metrics.step}/{self._num_steps}  reward {metrics.reward_mean:+.3f}  "
            f"pass rate {metrics.pass_rate:.1%}  {metrics.tokens_per_s:,.0f} tokens/s  "
            f"{self._time_left(metrics.step)} left  [{outcomes}]"
        )

    def _render(self) -> Group:
        """The panel: the current stage, then the numbers of the last step."""
        elapsed = time.monotonic() - self._stage_started if self._stage else 0.0
        header = Text.assemble((self._stage or "done", "bold"), f"  {_duration(elapsed)}  {self._detail}")
        metrics = self._metrics
        if metrics is None:
            return Group(header)
        table = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._num_steps, completed=metrics.step, width=BAR_WIDTH)
        table.add_row("step", bar, f"{metrics.step}/{self._num_steps}, {self._time_left(metrics.step)} left")
        table.add_row("outcomes", outcome_bar(metrics.outcomes), outcome_legend(metrics.outcomes))
        table.add_row("reward", f"{metrics.reward_mean:+.3f}", f"pass rate {metrics.pass_rate:.1%}")
        table.add_row("tokens/s", f"{metrics.tokens_per_s:,.0f}", f"staleness {metrics.staleness_mean:.1f} versions")
        if self._held_out:
            table.add_row("held-out", self._held_out, "")
        return Group(header, table)


@contextlib.contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Append everything that this process writes to stderr to a file, including what C++ code writes."""
    sys.stderr.flush()
    saved = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


def outcome_bar(outcomes: Mapping[str, int]) -> Text:
    """The mix of outcomes as one colored bar."""
    total = sum(outcomes.values())
    text = Text()
    drawn = count_so_far = 0
    for name, style in OUTCOME_STYLES.items():
        count_so_far += outcomes.get(name, 0)
        end = round(BAR_WIDTH * count_so_far / total) if total else 0
        text.append("█" * (end - drawn), style=style)
        drawn = end
    return text


def outcome_legend(outcomes: Mapping[str, int]) -> Text:
    """The counts of the outcomes that occurred, in the colors of the bar."""
    parts = [(f"{name} {outcomes[name]}", style) for name, style in OUTCOME_STYLES.items() if outcomes.get(name)]
    return Text(" ").join(Text(text, style=style) for text, style in parts)


def describe_evaluation(result: EvaluationResult) -> str:
    """pass@k of each named set, or else of all problems, with 95 % intervals, in one line."""

    def shown(k: int, group: str) -> str:
        low, high = result.intervals[k][group]
        return f"{result.pass_at[k][group]:.1%} [{low:.1%}, {high:.1%}]"

    if not result.sets:
        return ", ".join(f"pass@{k} {shown(k, 'all')}" for k in sorted(result.pass_at))
    return "; ".join(
        f"{name} " + ", ".join(f"pass@{k} {shown(k, name)}" for k in sorted(result.pass_at)) for name in result.sets
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
