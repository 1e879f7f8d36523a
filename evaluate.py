"""`python evaluate.py`: pass@k of a model or of a file of programs; see `rltf.evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rltf.entry import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate and return the exit status."""
    return run_command("evaluate.py", lambda: _evaluate(arguments))


def _evaluate(arguments: Sequence[str] | None) -> int:
    from rltf.evaluate import main  # not before signals are caught

    return main(arguments)


if __name__ == "__main__":
    sys.exit(main())
