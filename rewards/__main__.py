"""`python -m rewards explain`: see `rewards.command`."""

import sys

from rewards.command import main

if __name__ == "__main__":
    sys.exit(main())
