"""Updates kept as they were made, and made again from there: the tool for debugging an objective.

    RUN_DIR/replay/start/ (the model that RL starts from), update-1/, update-2/, ... (its samples)

Invariants: an update is there as a whole or not at all; replayed with the same settings on the same kind of machine it
gives the same weights, bit for bit, which the checksum kept with it shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from errors import UserError
from files import write_folder
from learner.learner import Learner, PreparedUpdate
from learner.metrics import UpdateStats
from learner.stored_rollouts import load_rollouts, save_rollouts
from learner.supervised import SamplerState, SupervisedExample
from settings import Settings
from settings_sources import leaf_fields, load_settings
from transport.folders import HomeFolders
from transport.weights import checksum, pack


class Recorder:
    """Keeps the first `num_updates` updates of a run in `folder` of the driver's node, `home`.

    Every learner of the run has one of its own.

    Usage:
        with recorder.keeping(learner, prepared):
            learner.update(prepared)
    """

    def __init__(self, folder: Path, num_updates: int, home: HomeFolders) -> None:
        self._folder = folder
        self._num_updates = num_updates
        self._home = home
        self._begun = False

    @contextmanager
    def keeping(self, learner: Learner, prepared: PreparedUpdate) -> Iterator[None]:
        """Keep the update that is made meanwhile, also where it fails.

        Raises UserError where those before it were not kept.
        """
        if not self._begun:
            self._begin(learner)
        step = learner.step + 1
        try:
            yield
        finally:
            if step <= self._num_updates:
                self._write(f"update-{step}", lambda folder: _write(folder, learner, prepared))

    def _begin(self, learner: Learner) -> None:
        """Keep the model, before anything is learnt, or forget the updates that are undone."""
        if learner.step == 0:
            self._home.remove(self._folder)
            self._write("start", learner.policy.save)
        elif not self._home.has(self._folder / "start"):
            raise UserError(
                f"run.log_batches {self._num_updates}: updates can be kept from a run's first one on, and this run has "
                f"made {learner.step} of which none is in {self._folder}: go on with --run.log_batches 0"
            )
        for step in range(learner.step + 1, self._num_updates + 1):
            self._home.remove(self._folder / f"update-{step}")
        self._begun = True

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        write_folder(self._folder / name, write)
        self._home.send(self._folder / name)


@dataclass(frozen=True, slots=True)
class ReplayedUpdate:
    """An update made again; `is_same` where the weights after it are those of the run, bit for bit."""

    step: int
    stats: UpdateStats
    is_same: bool


def replay(run: Path, settings: Settings) -> Iterator[ReplayedUpdate]:
    """Make the kept updates of the run in folder `run` again, with the objective of `settings`.

    Raises UserError where none were kept, and what `Learner.update` does.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = run / "replay"
    if not (folder / "update-1").is_dir():
        raise UserError(f"--replay {run}: it kept no updates; run the job with --run.log_batches N")
    learner = Learner(
        str(folder / "start"),
        settings.learner,
        dtype=settings.model.dtype,
        temperature=settings.generator.temperature,
        seed=settings.run.seed,
        lora=settings.model.lora,
    )
    while (kept := folder / f"update-{learner.step + 1}").is_dir():
        about = json.loads((kept / "update.json").read_text())
        torch.set_num_threads(about["num_threads"])  # sums in another order are other sums
        experiences = [sample for _, group in load_rollouts(kept / "samples.npz") for sample in group]
        references = _load_references(kept / "references.npz")
        prepared = learner.prepare_with(experiences, references, SamplerState(**about["sampler_state"]))
        stats = learner.update(prepared)
        yield ReplayedUpdate(learner.step, stats, weights_checksum(learner) == about["weights_checksum"])


def changed_settings(run: Path, settings: Settings) -> list[str]:
    """The names of the settings that differ from the run's. Raises UserError for one that a replay does not follow."""
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
        if not name.startswith("learner.") and name != "rewards.preset":
            raise UserError(
                f"--{name} has no effect on a replay, which uses the samples and token weights of the run: change "
                "settings of the learner, or rewards.preset"
            )
    return changed


def weights_checksum(learner: Learner) -> int:
    """Of the master weights."""
    return checksum(pack(learner.policy.model.named_parameters()))


def _write(folder: Path, learner: Learner, prepared: PreparedUpdate) -> None:
    save_rollouts(folder / "samples.npz", [("", prepared.experiences)])
    _save_references(folder / "references.npz", prepared.references)
    about = {
        "sampler_state": asdict(prepared.sampler_state),
        "num_threads": torch.get_num_threads(),
        "weights_checksum": weights_checksum(learner),
    }
    (folder / "update.json").write_text(json.dumps(about))


def _save_references(path: Path, references: Sequence[SupervisedExample]) -> None:
    arrays = [ids for reference in references for ids in (reference.prompt_ids, reference.token_ids)]
    np.savez(
        path, ids=np.concatenate([np.empty(0, np.int32), *arrays]), lengths=np.array([len(a) for a in arrays], int)
    )


def _load_references(path: Path) -> list[SupervisedExample]:
    with np.load(path, allow_pickle=False) as file:
        arrays = np.split(file["ids"], np.cumsum(file["lengths"]))[:-1]
    return [SupervisedExample(*pair) for pair in zip(arrays[::2], arrays[1::2], strict=True)]
