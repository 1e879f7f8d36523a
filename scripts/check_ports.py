"""Check ports before `ray start`: `python scripts/check_ports.py PORT ...` names the ones that are already in use.

Ray does not say this about every port, and takes more than a minute to fail. The exit status is 1 if one is in use.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

import psutil


def main(ports: Sequence[str]) -> int:
    """Print a line for each port in use: who uses it, and what to do."""
    taken = [int(port) for port in ports if not _is_free(int(port))]
    for port in taken:
        print(
            f"check_ports: Ray needs port {port}, but {_holder(port) or 'another process'} is using it. Stop that "
            "process, or change the port in the `ray start` commands of the cluster's file",
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
    """The processes that use a port, as far as this user is allowed to see them."""
    try:
        pids = {each.pid for each in psutil.net_connections("tcp") if each.laddr and each.laddr.port == port}
        return ", ".join(f"{psutil.Process(pid).name()} (process {pid})" for pid in sorted(filter(None, pids)))
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
