"""A file server of another directory; a module of its own, so that Ray's processes can import it."""

from __future__ import annotations

import os
from pathlib import Path

from transport.folders import _FileServer


class Elsewhere(_FileServer):
    """Relative paths are of the directory it is given."""

    def __init__(self, directory: Path) -> None:
        os.chdir(directory)
