"""`python -m reporting`: see `reporting.command`."""

import sys

from rltf.entry import run_command
from rltf.reporting.command import main

if __name__ == "__main__":
    sys.exit(run_command("python -m reporting", main))
