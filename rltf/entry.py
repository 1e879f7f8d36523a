"""How every command enters and leaves its process: signals, an output that nobody reads any more, the last line.

Imports hardly more than the standard library, so that a command can be interrupted while it still imports the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TextIO, TypeVar, cast

from rltf.errors import UserError

T = TypeVar("T")

logger = logging.getLogger("launch")

# Ctrl-C; what SLURM, Kubernetes and `kill` send; a terminal that is closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_UNUSABLE = 2
_skips_exit_handlers = threading.Event()


class Interrupted(KeyboardInterrupt):
    """A signal asked this program to stop. Its notes (`add_note`) say what is kept and how to continue."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def run_command(program: str, command: Callable[[], int]) -> int:
    """Run `command` and return its exit status.

    A signal raises `Interrupted` in it, wherever it is, and ends it with one line and status 128 + signal. It can print
    whatever happens to the terminal or the pipe that it prints to. After `skip_exit_handlers`, it does not return.
    """
    status = _status(program, command)
    if _skips_exit_handlers.is_set():
        os._exit(status)
    return status


def skip_exit_handlers() -> None:
    """Have the process end right after its command, because what a library does at exit would hang."""
    _skips_exit_handlers.set()


def _status(program: str, command: Callable[[], int]) -> int:
    with contextlib.redirect_stdout(_lasting(sys.stdout)), contextlib.redirect_stderr(_lasting(sys.stderr)):
        before = {number: signal.getsignal(number) for number in SIGNALS}
        catch_signals()
        try:
            return command()
        except KeyboardInterrupt as error:
            sys.stderr.write(": ".join([program, "interrupted", *getattr(error, "__notes__", [])]) + "\n")
            return error.status if isinstance(error, Interrupted) else 128 + signal.SIGINT
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            sys.stdout.flush()


def exit_status(command: Callable[[argparse.Namespace], int | None], options: argparse.Namespace) -> int:
    """Run a command and return its exit status, by default 0; what the user has to fix goes to standard error."""
    try:
        return command(options) or 0
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_UNUSABLE


def catch_signals() -> None:
    """From now on, SIGNALS raise Interrupted in the main thread. Those that this process ignores (nohup) stay so."""
    for number in _heeded():
        signal.signal(number, _raise)


@contextlib.contextmanager
def signals_ignored() -> Iterator[None]:
    """Ignore signals while something short is cleaned up."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_until_interrupted(work: Coroutine[Any, Any, T], on_signal: Callable[[int], None]) -> T:
    """Run `work` in an event loop of its own. A signal calls `on_signal(how many there were)` and cancels `work`.

    Raises what `work` raises, and Interrupted if that is the cancellation.
    """
    received: list[int] = []

    async def run() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

        def interrupt(number: int) -> None:
            received.append(number)
            on_signal(len(received))
            task.cancel()

        for number in _heeded():
            loop.add_signal_handler(number, interrupt, number)
        return await task

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if not received:
            raise
        raise Interrupted(received[0]) from None
    finally:
        catch_signals()  # the loop has put the default ones back


def _heeded() -> list[signal.Signals]:
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


class _Lasting:
    """A text stream that loses what can no longer be written, and replaces characters that its encoding lacks."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        """Have the descriptor lead nowhere, so that later writes, and the interpreter's last one, succeed."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        logger.info("%s cannot be written any more (%s): continuing without it", self._stream.name, error.strerror)


def _lasting(stream: TextIO) -> TextIO:
    return cast(TextIO, _Lasting(stream))
