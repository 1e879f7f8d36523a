"""`python evaluate.py`: pass@k of a model or of a file of programs; see `evaluation.command`."""

import sys

from evaluation.command import main

if __name__ == "__main__":
    sys.exit(main())
