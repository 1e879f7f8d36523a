"""Before `ray start`: `python scripts/check_ports.py PORT ...` says which of its ports something else has taken.

Ray itself does not say so of every port, and takes more than a minute to fail. Exit status 1 where one is taken.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

import psutil


def main(ports: Sequence[str]) -> int:
    """Print a line for each port that is taken, with its holder and the cure."""
    taken = [int(port) for port in ports if not _is_free(int(port))]
    for port in taken:
        print(
            f"check_ports: port {port}, which Ray is to listen on, is taken by {_holder(port) or 'another process'}: "
            "end it, or give Ray another port in the `ray start` commands of the cluster's file",
            file=sys.stderr,
        )
    return 1 if taken else 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    """The process that listens there, as far as this user may see it."""
    try:
        pids = {each.pid for each in psutil.net_connections("tcp") if each.laddr and each.laddr.port == port}
        return ", ".join(f"{psutil.Process(pid).name()} (process {pid})" for pid in sorted(filter(None, pids)))
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
