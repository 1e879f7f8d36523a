"""Replayed updates are bit-identical with the same settings, even if updates were undone or failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rltf.errors import UserError
from rltf.learner.learner import Learner
from rltf.learner.replay import Recorder, replay
from rltf.settings import Algorithm, GeneratorSettings, ModelSettings, Settings
from rltf.transport.folders import HomeFolders
from rltf.transport.weights import WeightsHandle
from tests.learner.samples import make_experiences, make_learner, make_references
from tests.learner.samples import settings as learner_settings

pytestmark = pytest.mark.usefixtures("ray_session")


def settings_of(algorithm: str) -> Settings:
    whole = Settings(
        model=ModelSettings(dtype="float32", max_model_len=256),
        generator=GeneratorSettings(temperature=0.8, max_tokens=32),
    )
    return whole.model_copy(update={"learner": learner_settings(algorithm)})


SETTINGS = settings_of("rltf")


def new_learner(model: Path, algorithm: str = "rltf") -> Learner:
    learner = make_learner(model, algorithm=algorithm)
    learner.set_references(make_references(0))
    return learner


def new_recorder(run: Path) -> Recorder:
    return Recorder(run / "replay", 4, HomeFolders.here())


def update(learner: Learner, recorder: Recorder, seed: int) -> float:
    prepared = learner.prepare(make_experiences(seed))
    with recorder.recording(learner, prepared):
        return learner.update(prepared).loss


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_every_objective_replays_bit_for_bit(tiny_model_dir: Path, tmp_path: Path, algorithm: str) -> None:
    learner, recorder = new_learner(tiny_model_dir, algorithm), new_recorder(tmp_path)
    losses = []
    for seed in range(4):
        if seed % 2 == 0:  # two updates per snapshot
            learner.publish(by=lambda version, named, verify: WeightsHandle(version, (), 0))
        losses.append(update(learner, recorder, seed))
    updates = list(replay(tmp_path, settings_of(algorithm)))
    assert [(u.step, u.is_same) for u in updates] == [(1, True), (2, True), (3, True), (4, True)]
    assert [u.stats.loss for u in updates] == losses


def test_undone_updates_are_deleted(tiny_model_dir: Path, tmp_path: Path) -> None:
    learner = new_learner(tiny_model_dir)
    recorder = new_recorder(tmp_path)
    losses = [update(learner, recorder, seed) for seed in range(2)]
    checkpoint = learner.save_checkpoint(tmp_path / "checkpoints")
    for seed in (7, 8):  # undone: the learner dies, and another one continues from the checkpoint
        update(learner, recorder, seed)
    learner = new_learner(tiny_model_dir)
    learner.resume(checkpoint)
    losses.append(update(learner, new_recorder(tmp_path), 2))

    updates = list(replay(tmp_path, SETTINGS))
    assert [(u.step, u.is_same) for u in updates] == [(1, True), (2, True), (3, True)]
    assert [u.stats.loss for u in updates] == losses
    (tmp_path / "replay" / "update-2" / "samples.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"update-2 is damaged: samples\.npz is not as it was written"):
        list(replay(tmp_path, SETTINGS))


def test_failed_update_is_recorded_and_fails_again(tiny_model_dir: Path, tmp_path: Path) -> None:
    learner, recorder = new_learner(tiny_model_dir), new_recorder(tmp_path)
    update(learner, recorder, 0)
    enormous = [replace(e, token_weights=np.full_like(e.token_weights, 3e38)) for e in make_experiences(1)]
    prepared = learner.prepare(enormous)
    with pytest.raises(FloatingPointError, match="step 2"), recorder.recording(learner, prepared):
        learner.update(prepared)

    updates = replay(tmp_path, SETTINGS)
    assert next(updates).is_same
    with pytest.raises(FloatingPointError, match="step 2"):
        next(updates)


def test_recording_must_start_with_the_first_update(tiny_model_dir: Path, tmp_path: Path) -> None:
    learner = new_learner(tiny_model_dir)
    learner.update(learner.prepare(make_experiences(0)))
    with pytest.raises(UserError, match="must start with the first update"):
        update(learner, new_recorder(tmp_path), 1)
