"""The grader on its own: `python -m sandbox grade` and `python -m sandbox doctor`."""

import sys

from rltf.entry import run_command
from rltf.sandbox.command import main

if __name__ == "__main__":
    sys.exit(run_command("python -m sandbox", main))
