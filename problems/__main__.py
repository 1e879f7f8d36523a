"""`python -m problems augment` is `rltf augment`. This shim is the only import in this room that points upwards."""

import sys
from collections.abc import Sequence

from rltf.augmentation.__main__ import main as augment
from rltf.entry import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    words = sys.argv[1:] if arguments is None else arguments
    return augment(words[1:] if words[:1] == ["augment"] else words)


if __name__ == "__main__":
    sys.exit(run_command("python -m problems", main))
