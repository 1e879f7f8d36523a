"""Where a run continues: which checkpoint is whole, and whether problems and settings are still those of the run.

This needs neither Ray nor actors. It changes nothing in the run folder: if `--resume` is refused, the run stays as it
was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rltf.controller.state import RunState, read_state, source_digests
from rltf.errors import UserError
from rltf.files import checkpoints, damage, newest_whole_checkpoint, step_of
from rltf.problems.fingerprints import ShortFingerprints, differences, expanded
from rltf.settings import Settings
from rltf.settings.reference import differing


@dataclass(frozen=True, slots=True)
class Resumption:
    """A run continues from `checkpoint`, or from the beginning if that is None.

    The checkpoints `aside` must not be used. `said` tells people what they should know.
    """

    checkpoint: Path | None
    aside: tuple[Path, ...]
    said: tuple[str, ...]

    @property
    def last_step(self) -> int:
        """The update whose rows are the last to keep: -1 for none."""
        return -1 if self.checkpoint is None else step_of(self.checkpoint)


def find_resumption(
    run: Path, chosen: Path | None, settings: Settings, problems: Mapping[str, ShortFingerprints]
) -> Resumption:
    """How to continue the run in folder `run` from the checkpoint `chosen`, by default the newest one that is whole.

    Reads all of the checkpoint. Raises UserError if `chosen` is damaged, and if the run does not fit `settings` or
    `problems`, the fingerprints of each set of problems as they are now.
    """
    folder = run / "checkpoints"
    if chosen is None:
        checkpoint, damaged = newest_whole_checkpoint(folder)
        aside = {path: f"checkpoint {path} is damaged and is set aside: {found}" for path, found in damaged.items()}
    else:
        checkpoint = _checked(chosen, folder)
        later = [path for path in checkpoints(folder) if step_of(path) > step_of(checkpoint)]
        aside = {path: f"checkpoint {path} is later than {checkpoint.name} and is set aside" for path in later}
    if checkpoint is None:
        said = [f"{run} has no checkpoint that is whole: the run starts again from the beginning"]
    else:
        state = read_state(checkpoint)
        said = [f"continuing from {checkpoint}", *_differences(checkpoint, state, settings, problems)]
    return Resumption(checkpoint, tuple(aside), (*aside.values(), *said))


def _checked(chosen: Path, folder: Path) -> Path:
    """The checkpoint of `folder` that the user chose. Raises UserError if it is damaged, or is not there."""
    names = ", ".join(path.name for path in checkpoints(folder)) or "none"
    if chosen not in checkpoints(folder):
        raise UserError(f"--resume {chosen}: no such checkpoint; the run has {names}")
    if (found := damage(chosen)) is not None:
        whole, _ = newest_whole_checkpoint(folder)
        instead = "no checkpoint of the run is whole" if whole is None else f"the newest whole one is {whole}"
        raise UserError(f"--resume {chosen}: the checkpoint is damaged: {found}; {instead}")
    return chosen


def _differences(
    checkpoint: Path, state: RunState, settings: Settings, problems: Mapping[str, ShortFingerprints]
) -> list[str]:
    """What differs from the time of the checkpoint, in words. Raises UserError if the run cannot continue with it."""
    said = []
    if found := _changed_problems(state.problems, problems):
        what = f"the problems have changed since {checkpoint} was written: {found}"
        if not settings.problems.allow_changes:
            raise UserError(f"{what}; restore them, or set --problems.allow_changes true to continue with the new ones")
        said.append(what)
    changed = differing(Settings, state.settings, settings.model_dump(mode="json"))
    if changed:
        if "run.seed" in changed:
            raise UserError(f"run.seed {changed['run.seed']}: a run keeps its seed; leave it as it was")
        listed = ", ".join(f"{name} {values}" for name, values in changed.items())
        said.append(f"settings that have changed since {checkpoint} was written: {listed}")
    for setting, digest in source_digests(settings).items():
        if setting not in changed and state.sources.get(setting) != digest:
            name = settings.functions[setting]
            said.append(f"the source file of {setting} {name} has changed since {checkpoint} was written")
    largest = max((rollout.num_samples for rollout in state.ledger.live.values()), default=0)
    if largest > settings.buffer.capacity:
        raise UserError(
            f"buffer.capacity {settings.buffer.capacity} is below the {largest} samples of a rollout in {checkpoint}: "
            "raise it"
        )
    if step_of(checkpoint) >= settings.run.num_steps:
        said.append(
            f"run.num_steps {settings.run.num_steps} is not above the {step_of(checkpoint)} updates of {checkpoint}: "
            "there is nothing left to train"
        )
    return said


def _changed_problems(kept: Mapping[str, ShortFingerprints], now: Mapping[str, ShortFingerprints]) -> str:
    """How sets of problems differ, in words; empty if they do not."""
    found: dict[str, list[str]] = {}
    for name in {**kept, **now}:
        if what := differences(expanded(kept.get(name, {})), expanded(now.get(name, {}))):
            found.setdefault(what, []).append(f"problems.{name}")
    return "; ".join(f"{' and '.join(names)}: {what}" for what, names in found.items())
