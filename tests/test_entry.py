"""How commands leave their process: a signal gives one line and a status, and a closed output ends nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STATUSES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def start(body: str, stdout: int | None = subprocess.PIPE) -> subprocess.Popen[str]:
    """Run `body` as a command in its own process."""
    program = f"""
import asyncio, logging, sys, time
from rltf.entry import run_command, run_until_interrupted, signals_ignored

def command():
{textwrap.indent(textwrap.dedent(body), "    ")}
    return 0

sys.exit(run_command("command", command))
"""
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True)


def signaled(process: subprocess.Popen[str], *numbers: signal.Signals) -> tuple[str, str]:
    """What the process still prints if it gets a signal at each of its first lines."""
    assert process.stdout is not None
    for number in numbers:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
    return process.communicate(timeout=60)


@pytest.mark.parametrize(("number", "status"), STATUSES)
def test_a_signal_gives_one_line_and_its_status(number: signal.Signals, status: int) -> None:
    process = start("print('ready', flush=True)\ntime.sleep(60)")
    _, shown = signaled(process, number)
    assert (shown, process.returncode) == ("command: interrupted\n", status)


def test_the_line_says_what_is_kept() -> None:
    process = start("""
        try:
            print('ready', flush=True)
            time.sleep(60)
        except KeyboardInterrupt as error:
            error.add_note("3 rows are kept")
            raise
    """)
    _, shown = signaled(process, signal.SIGTERM)
    assert shown == "command: interrupted: 3 rows are kept\n"


def test_what_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    process = start("""
        import signal
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return run_command("inner", lambda: print('ready', flush=True) or time.sleep(0.5) or 7)
    """)
    _, shown = signaled(process, signal.SIGHUP)
    assert (shown, process.returncode) == ("", 7)


def test_a_cleanup_is_not_interrupted() -> None:
    process = start("""
        with signals_ignored():
            print('ready', flush=True)
            time.sleep(0.5)
        print('clean')
    """)
    shown, errors = signaled(process, signal.SIGTERM)
    assert (shown, errors, process.returncode) == ("clean\n", "", 0)


LOOP = """
    async def work():
        try:
            print('ready', flush=True)
            await asyncio.sleep(60)
        finally:
            print('ready', flush=True)
            await asyncio.sleep({save_s})
            print('saved', flush=True)
    run_until_interrupted(work(), lambda count: print(f'signal {{count}}', file=sys.stderr, flush=True))
"""


@pytest.mark.parametrize(("number", "status"), STATUSES)
def test_a_loop_can_save_its_work_when_a_signal_comes(number: signal.Signals, status: int) -> None:
    process = start(LOOP.format(save_s=0))
    shown, errors = signaled(process, number)
    assert "saved" in shown
    assert (errors, process.returncode) == ("signal 1\ncommand: interrupted\n", status)


def test_a_second_signal_stops_at_once() -> None:
    process = start(LOOP.format(save_s=60))
    shown, errors = signaled(process, signal.SIGINT, signal.SIGTERM)
    assert "saved" not in shown
    assert (errors, process.returncode) == ("signal 1\nsignal 2\ncommand: interrupted\n", 130)


def test_a_command_goes_on_when_nobody_reads_its_output(tmp_path: Path) -> None:
    process = start(f"""
        logging.basicConfig(filename={str(tmp_path / "log")!r}, level=logging.INFO)
        from rich.console import Console
        print('ready', flush=True)
        time.sleep(0.5)
        Console().print('x' * 100000, highlight=False, soft_wrap=True)
        for _ in range(100):
            print('x' * 1000)
        sys.stderr.write('done')
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == "done"
    assert process.wait(timeout=60) == 0
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "<stdout> cannot be written any more (Broken pipe): continuing without it" in line


def test_help_can_be_cut_off() -> None:
    command = f"{sys.executable} -m rltf.cli --help all | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.count("\n") == 1
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_terminal_lacks_are_replaced(encoding: str) -> None:
    program = (
        "import sys\nfrom rltf.entry import run_command\nsys.exit(run_command('c', lambda: print('█ \\ud800') or 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("? ?\n", "", 0)


def test_every_room_with_a_command_is_entered_the_same_way() -> None:
    rooms = ["augmentation", "problems", "reporting", "rewards", "sandbox"]
    code = f"""
import runpy
from rltf import entry
def enter(program, command):
    print(program)
    return 0
entry.run_command = enter
for room in {rooms}:
    try:
        runpy.run_module(room, run_name="__main__")
    except SystemExit as end:
        assert end.code == 0
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "".join(f"python -m {room}\n" for room in rooms)), done.stderr
