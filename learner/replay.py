"""Records the updates of a run and replays them, to debug an objective.

    RUN_DIR/replay/start/ (the model that RL starts from), update-1/, update-2/, ... (the data of each update)

Invariants: a recorded update is complete or absent. A replay with the same settings on the same kind of machine gives
the same weights, bit for bit; the checksum recorded with each update shows that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from rltf.errors import UserError
from rltf.files import check_folder, read_json, write_folder, write_json
from rltf.learner.data import TokenSequence, load_rollouts, save_rollouts
from rltf.learner.learner import Learner
from rltf.learner.metrics import UpdateStats
from rltf.learner.prepared import PreparedUpdate
from rltf.settings import Settings
from rltf.settings.reference import differing
from rltf.settings_sources import load_settings
from rltf.transport.columns import from_columns, load_columns, save_columns, to_columns
from rltf.transport.folders import HomeFolders
from rltf.transport.weights import checksum, pack


@dataclass(slots=True)
class Recorder:
    """Records the first `num_updates` updates of a run in `folder` on the driver's node, `home`.

    Each learner actor of the run has its own recorder.

    Usage:
        with recorder.recording(learner, prepared):
            learner.update(prepared)
    """

    folder: Path
    num_updates: int
    home: HomeFolders
    _begun: bool = False

    @contextmanager
    def recording(self, learner: Learner, prepared: PreparedUpdate) -> Iterator[None]:
        """Record the update that is made inside this context, even if it fails.

        Raises UserError if the updates before it were not recorded.
        """
        if not self._begun:
            self._begin(learner)
        step, is_published = learner.step + 1, learner.is_published
        try:
            yield
        finally:
            if step <= self.num_updates:
                self._write(f"update-{step}", lambda folder: _write(folder, learner, prepared, is_published))

    def _begin(self, learner: Learner) -> None:
        """Record the model before the first update, or delete the updates that the run has undone."""
        if learner.step == 0:
            self.home.remove(self.folder)
            self._write("start", learner.policy.save)
        elif not self.home.has(self.folder / "start"):
            raise UserError(
                f"run.log_batches {self.num_updates}: a recording must start with the first update, but this run has "
                f"made {learner.step} updates and {self.folder} has none of them; continue with --run.log_batches 0"
            )
        for step in range(learner.step + 1, self.num_updates + 1):
            self.home.remove(self.folder / f"update-{step}")
        self._begun = True

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        write_folder(self.folder / name, write)
        self.home.send(self.folder / name)


@dataclass(frozen=True, slots=True)
class ReplayedUpdate:
    """A replayed update. `is_same` says that it gave the weights of the run, bit for bit."""

    step: int
    stats: UpdateStats
    is_same: bool


def replay(run: Path, settings: Settings) -> Iterator[ReplayedUpdate]:
    """Replay the recorded updates of the run in folder `run` with the objective of `settings`.

    Raises UserError if none were recorded, and whatever `Learner.update` raises.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = run / "replay"
    if not (folder / "update-1").is_dir():
        raise UserError(f"--replay {run}: the run recorded no updates; run the job with --run.log_batches N")
    check_folder(folder / "start")
    learner = Learner(folder / "start", settings)
    while (recorded := folder / f"update-{learner.step + 1}").is_dir():
        check_folder(recorded)
        facts = read_json(recorded / "update.json")
        torch.set_num_threads(facts["num_threads"])  # the order of sums depends on it
        ((_, experiences),) = load_rollouts(recorded / "samples.npz")
        references = from_columns(TokenSequence, load_columns(recorded / "references.npz"))
        if facts["is_published"]:
            learner.keep_as_old()
        prepared = learner.prepare_with(experiences, references)
        stats = learner.update(prepared)
        yield ReplayedUpdate(learner.step, stats, _weights_checksum(learner) == facts["weights_checksum"])


def changed_settings(run: Path, settings: Settings) -> list[str]:
    """The names of the settings that differ from the run's. Raises UserError for one that a replay does not follow."""
    recorded, _ = load_settings(["--config", str(run / "settings.yaml")], {})
    changed = list(differing(Settings, recorded.model_dump(), settings.model_dump()))
    for name in changed:
        if not name.startswith("learner.") and name != "algorithm":
            raise UserError(
                f"--{name} has no effect on a replay, which uses the samples and token weights of the run: change "
                "settings of the learner, or algorithm"
            )
    return changed


def _write(folder: Path, learner: Learner, prepared: PreparedUpdate, is_published: bool) -> None:
    save_rollouts(folder / "samples.npz", [("", prepared.experiences)])
    save_columns(folder / "references.npz", to_columns(prepared.references))
    facts = {
        "num_threads": torch.get_num_threads(),
        "is_published": is_published,
        "weights_checksum": _weights_checksum(learner),
    }
    write_json(folder / "update.json", facts)


def _weights_checksum(learner: Learner) -> int:
    """The checksum of the float32 master weights."""
    return checksum(pack(learner.policy.model.named_parameters()))
