"""`python -m rewards explain`: see `rewards.command`."""

import sys

from rltf.entry import run_command
from rltf.rewards.command import main

if __name__ == "__main__":
    sys.exit(run_command("python -m rewards", main))
