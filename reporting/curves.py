"""The numbers of a run as curves in TensorBoard and in Weights & Biases."""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from rltf.errors import UserError
from rltf.files import AppendedFile, read_text, read_yaml

ID_FILE = "wandb-run-id"
_RUN_ID = re.compile("[0-9a-f]{8}")


class TensorBoardWriter:
    """Writes TensorBoard events without importing torch."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._file = AppendedFile(folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}")
        self._writer = RecordWriter(self._file)
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, prefix: str, row: Mapping[str, object]) -> None:
        """Add the numbers of a row, which has its `step`."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers(prefix, row)]
        self._add(Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())


class WandbWriter:
    """One run in a Weights & Biases project. The run folder keeps its id, so a resumed run continues the same curves.

    The service is configured by its own environment variables: WANDB_API_KEY, WANDB_BASE_URL, WANDB_ENTITY, and
    WANDB_MODE=offline, which writes into the run folder for a later `wandb sync`.
    """

    def __init__(self, folder: Path, project: str) -> None:
        """Raises UserError if the service refuses or does not answer in time, and if the stored id is damaged."""
        id_file = folder / ID_FILE
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4) + "\n")
        run_id = read_text(id_file).strip()
        if not _RUN_ID.fullmatch(run_id):
            raise UserError(
                f"{id_file}: expected 8 hexadecimal digits, found {run_id!r}; delete it to begin new curves"
            )
        settings = read_yaml(folder / "settings.yaml")
        import wandb  # takes seconds, and only runs that name a project need it

        try:
            self._run: Any = wandb.init(
                project=project,
                name=settings["run"]["name"],
                id=run_id,
                resume="allow",
                config=settings,
                dir=str(folder),
                settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
            )
        except wandb.Error as error:
            raise UserError(
                f"run.wandb_project {project}: {error}; set WANDB_API_KEY, or set WANDB_MODE=offline to sync later"
            ) from error
        self._run.define_metric("*", step_metric="step")

    def write(self, prefix: str, row: Mapping[str, object]) -> None:
        """Add the numbers of a row, which has its `step`, under the same names as in TensorBoard."""
        self._run.log({"step": row["step"], **dict(numbers(prefix, row))})

    def close(self) -> None:
        """Send or write what is pending."""
        self._run.finish()


def numbers(prefix: str, row: Mapping[str, object]) -> list[tuple[str, float]]:
    """Every number of a row except its step, named by its path: `train/outcomes/passed`."""
    found: list[tuple[str, float]] = []
    for name, value in row.items():
        tag = f"{prefix}/{name}".replace("@", "_at_")
        if isinstance(value, Mapping):
            found += numbers(tag, value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            found.append((tag, float(value)))
    return found
