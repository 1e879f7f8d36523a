"""`python evaluate.py`: pass@k of a model or of a file of programs; see `evaluation.command`."""

import sys

from entry import run_command


def main() -> int:
    """Evaluate and return the exit status."""
    from evaluation.command import main as evaluate  # not before signals are caught

    return evaluate()


if __name__ == "__main__":
    sys.exit(run_command("evaluate.py", main))
