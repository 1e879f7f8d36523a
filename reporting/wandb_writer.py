"""The same curves as in TensorBoard, in Weights & Biases, where `run.wandb_project` names a project.

Secrets and everything else about the service come from its own environment variables: WANDB_API_KEY, WANDB_BASE_URL,
WANDB_ENTITY, and WANDB_MODE=offline, which writes into the run folder for `wandb sync` to send later.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
import yaml

from errors import UserError
from reporting.tensorboard import numbers

ID_FILE = "wandb-run-id"


class WandbWriter:
    """One run of a project. A resumed run folder goes on with its own: the id stands in the folder."""

    def __init__(self, folder: Path, project: str) -> None:
        """Raises UserError where the service refuses, or does not answer in time."""
        id_file = folder / ID_FILE
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4) + "\n")
        settings = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
        try:
            self._run: Any = wandb.init(
                project=project,
                name=settings["run"]["name"],
                id=id_file.read_text().strip(),
                resume="allow",
                config=settings,
                dir=str(folder),
                settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
            )
        except wandb.Error as error:
            raise UserError(
                f"run.wandb_project {project}: {error}; set WANDB_API_KEY, or WANDB_MODE=offline to send it all later"
            ) from error
        self._run.define_metric("*", step_metric="step")

    def write(self, prefix: str, row: Mapping[str, object]) -> None:
        """Add the numbers of a row that holds its `step`, under the names that TensorBoard shows."""
        self._run.log({"step": row["step"], **dict(numbers(prefix, row))})

    def close(self) -> None:
        """Write out, or send, what is pending."""
        self._run.finish()
