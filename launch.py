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

import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return cli.launch(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
