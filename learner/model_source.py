"""Where the initial policy comes from: built from nothing, a folder, or the hub."""

from __future__ import annotations

from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from errors import UserError
from learner import tiny_model
from problems.types import Problem

TINY = "tiny"
HUB_ANSWER_S = 10.0


_OTHER_FORMATS = ["*.h5", "*.msgpack", "original/*"]


def model_folder(name: str, problems: Sequence[Problem], cache_dir: Path, *, seed: int) -> Path:
    """The Hugging Face model folder that `model.name` means; `tiny` is built in `cache_dir`, for `problems`.

    Raises:
        UserError: no such folder and not to be had from the hub.
    """
    if name == TINY:
        return tiny_model.build(cache_dir, problems, seed=seed)
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser().resolve()
    try:
        cached_only = not _hub_answers()
        return Path(snapshot_download(name, ignore_patterns=_OTHER_FORMATS, local_files_only=cached_only))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"model.name: {name} is neither a folder here nor to be had from the hub ({str(error).splitlines()[0]}); "
            "give a model folder, or a hub id and access to the hub"
        ) from error


def _hub_answers() -> bool:
    """Whether the hub says anything at all; `snapshot_download` would wait for ever for one that is silent."""
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_ANSWER_S).close()
    except HTTPError:
        return True  # a refusal is an answer
    except (OSError, HTTPException):
        return False
    return True
