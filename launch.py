"""Train a code model with reinforcement learning from unit-test feedback: `rltf train` under its older name.

        problems ──> generators ──> sandbox pool ──> scored samples ──> online buffer ──> learner
                      actors/         sandbox/          rewards/            learner/     learner/
                         ^                                                                  │
                         └───────────────── weights, every refresh_every updates ───────────┘

    python launch.py [--config configs/NAME.yaml] [--SECTION.FIELD VALUE ...] [--dry-run] [--resume RUN_DIR]
                     [--replay RUN_DIR] [--plan]

Every box is a Ray actor or a set of them. `job.py` wires them, and passes on ids, counts and references only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rltf.entry import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run_command("launch.py", lambda: _launch(sys.argv[1:] if arguments is None else arguments))


def _launch(arguments: Sequence[str]) -> int:
    from rltf import cli  # not before signals are caught

    return cli.launch(arguments)


if __name__ == "__main__":
    sys.exit(main())
