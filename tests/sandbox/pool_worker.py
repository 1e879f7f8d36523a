"""Workers that die, stall and fail on demand, in a module that Ray's processes can import."""

from __future__ import annotations

import os
import signal
import time

import ray

from rltf.errors import UserError
from rltf.sandbox.worker import SandboxWorker


class Worker(SandboxWorker):
    """Has methods that die, stall and fail."""

    def die_once(self, mark: str) -> str:
        if not os.path.exists(mark):
            with open(mark, "w"):
                os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    def freeze_once(self, mark: str) -> str:
        if not os.path.exists(mark):
            with open(mark, "w"):
                os.kill(os.getpid(), signal.SIGSTOP)
            # The main thread gets the signal, and stops this one only when it has a core: it must not answer till then.
            time.sleep(600)
        return "thawed"

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def refuse(self) -> None:
        raise ValueError("not this one")

    def work(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()


class RefusingWorker(SandboxWorker):
    """Runs on a machine that gives too little isolation."""

    def start(self) -> None:
        raise UserError("isolation level `namespaces` is required, this machine gives `landlock`")


class FussyWorker(Worker):
    """Starts only while its machine gives enough isolation: until there is a file that its problem `mark` names."""

    def start(self) -> None:
        if os.path.exists(self.problems["mark"].statement):
            raise UserError("isolation level `namespaces` is required, this machine gives `landlock`")
        super().start()


class FreezingWorker(Worker):
    """The first one freezes while it starts, and makes the file that its problem `mark` names."""

    def start(self) -> None:
        self.freeze_once(self.problems["mark"].statement)
        super().start()


class PlacedWorker(SandboxWorker):
    """Says on which node of the cluster it runs. Needs no isolation."""

    def start(self) -> None: ...

    def where(self, seconds: float) -> str:
        time.sleep(seconds)
        return ray.get_runtime_context().get_node_id()

    def close(self) -> None: ...
