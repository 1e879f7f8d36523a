"""`python -m reporting`: see `reporting.command`."""

import sys

from reporting.command import main

if __name__ == "__main__":
    sys.exit(main())
