"""`launch.py --replay`: the kept updates of a run once more, beside what the run said of them."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from errors import UserError
from learner.metrics import UpdateStats
from learner.replay import replay
from reporting.rows import read_rows
from settings import Settings
from settings.reference import leaf_fields
from settings_sources import load_settings

COMPARED = ("loss", "loss_sl", "loss_coarse", "loss_fine", "loss_adaptive", "loss_kl", "grad_norm", "entropy")


def replay_run(run: Path, settings: Settings, console: Console) -> int:
    """Make the updates again and print a row for each; returns the exit status.

    With the run's own settings every update must give the run's weights, bit for bit: 1 where one does not. With others
    given for the learner each row shows how its numbers changed. Raises UserError for a setting that a replay does
    not follow, UserError where the run kept no updates.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    changed = changed_settings(run, settings)
    rows = {row["step"]: row for row in read_rows(run / "metrics.jsonl")}
    table = Table(title=f"{run}, replayed" + (f" with other {', '.join(changed)}" if changed else ""))
    for column in ("update", *COMPARED, "weights"):
        table.add_column(column, justify="right")
    num_updates, first_difference, failure = 0, None, None
    try:
        for update in replay(run, settings):
            num_updates += 1
            if not update.is_same and first_difference is None:
                first_difference = update.step
            cells = [_compared(name, update.stats, rows.get(update.step, {})) for name in COMPARED]
            table.add_row(str(update.step), *cells, "the same" if update.is_same else "others")
    except FloatingPointError as error:
        failure = error
    console.print(table)
    if failure is not None:
        console.print(f"An update fails: {failure}.")
        return 1
    if first_difference is None:
        console.print(f"{num_updates} updates, each with the run's weights after it, bit for bit.")
        return 0
    console.print(f"From update {first_difference} of {num_updates} on the weights are others than the run's.")
    return 0 if changed else 1


def changed_settings(run: Path, settings: Settings) -> list[str]:
    """The settings that differ from the run's. Raises UserError for one that has no effect on a replay."""
    recorded, _ = load_settings(["--config", str(run / "settings.yaml")], {})
    old, new = recorded.model_dump(), settings.model_dump()
    changed = []
    for path in leaf_fields(Settings):
        before, after = old, new
        for key in path:
            before, after = before[key], after[key]
        if before != after and path != ("run", "dir"):
            changed.append(".".join(path))
    for name in changed:
        if not name.startswith("learner.") and name != "algorithm":
            raise UserError(
                f"--{name} has no effect on a replay, whose samples and token weights are those of the run: give "
                "settings of the learner, or algorithm"
            )
    return changed


def _compared(name: str, stats: UpdateStats, row: dict[str, object]) -> str:
    value, recorded = float(getattr(stats, name)), row.get(name)
    if not isinstance(recorded, int | float) or recorded == value:
        return f"{value:.4g}"
    return f"{recorded:.4g} -> {value:.4g}"
