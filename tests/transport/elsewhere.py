"""A file server with a different working directory, in a module that Ray's processes can import."""

from __future__ import annotations

import os
from pathlib import Path

from rltf.transport.folders import FileServer


class Elsewhere(FileServer):
    """Relative paths are relative to the given directory."""

    def __init__(self, directory: Path) -> None:
        os.chdir(directory)
