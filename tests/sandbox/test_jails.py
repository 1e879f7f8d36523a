"""The life of a jail: what it keeps apart, what replaces it when it breaks, and what it leaves behind (nothing)."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rltf.errors import UserError
from rltf.problems.types import AssertTest, CallTest, CheckTest, StdinTest, Test
from rltf.sandbox import process, selftest
from rltf.sandbox.jobs import CallJob, End, ExpressionJob, Job, StdinJob
from rltf.sandbox.process import Jail
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import SandboxSettings
from tests.sandbox import threats
from tests.sandbox.programs import LIMITS, RIGHT, problem, squares

SECRET = "s3cr3t-expectation"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
        yield sandbox


def kill(jail: Jail) -> None:
    """Kill the jail's first process, and with it all others."""
    init = jail._init if jail._init is not None else os.pidfd_open(jail._process.pid)
    signal.pidfd_send_signal(init, signal.SIGKILL)
    select.select([init], [], [], 30)


@pytest.mark.parametrize(
    "test",
    [
        StdinTest(f"{SECRET[::-1]}\n", SECRET),
        CallTest("f", (SECRET[::-1],), SECRET),
        AssertTest(f"assert f(1) == {SECRET!r}"),
    ],
    ids=["stdin", "call", "assert"],
)
def test_expected_values_are_nowhere_in_the_jail(sandbox: Sandbox, test: Test) -> None:
    needle = SECRET[:9][::-1]
    search = (
        f"import gc, sys, os\nneedle = {needle!r}[::-1]\nfound = []\nseen = set()\n"
        "def look(o, depth=0):\n"
        "  if id(o) in seen or depth > 20: return\n"
        "  seen.add(id(o))\n"
        "  if isinstance(o, (bytes, bytearray)): o = o.decode('latin-1')\n"
        "  if isinstance(o, str):\n"
        "    if needle in o and o is not needle: found.append(o)\n"
        "  else:\n"
        "    for child in gc.get_referents(o): look(child, depth + 1)\n"
        "def search():\n"
        "  frame = sys._getframe()\n"
        "  while frame: look(frame.f_locals); look(frame.f_globals); frame = frame.f_back\n"
        "  for o in gc.get_objects(): look(o)\n"
        "  for descriptor in range(3, 64):\n"
        "    try: look(os.pread(descriptor, 1 << 20, 0))\n"
        "    except OSError: pass\n"
        "  return found[0] if found else 'nothing'\n"
    )
    jobs: dict[type[Test], tuple[str, Job]] = {
        StdinTest: (search + "print(search())", StdinJob(f"{SECRET[::-1]}\n".encode())),
        CallTest: (search + "f = lambda s: search()", CallJob("f", (SECRET[::-1],))),
        AssertTest: (search + "f = lambda n: search()", ExpressionJob("f(1)")),
    }
    source, job = jobs[type(test)]
    (result,) = sandbox.run(source, [job])
    assert result.end is End.OK, result
    assert (result.value or result.stdout.decode().strip()) == "nothing"
    assert sandbox.grade(problem(test), source, "c").outcome is Outcome.FAILED


def test_jobs_of_a_program_do_not_see_one_another(sandbox: Sandbox) -> None:
    program = (
        "import os\nstate = []\n"
        "def f(n):\n  state.append(n)\n  left = os.listdir('/tmp') if os.access('/tmp', os.W_OK) else []\n"
        "  if os.access('/tmp', os.W_OK): open(f'/tmp/{n}', 'w')\n  return state, left\n"
    )
    results = sandbox.run(program, [CallJob("f", (n,)) for n in range(3)])
    assert [result.value for result in results] == [([n], []) for n in range(3)]


def test_random_numbers_repeat_from_run_to_run(sandbox: Sandbox) -> None:
    program = "import random\ndef f(): return [random.random(), hash('x')]"
    first = sandbox.run(program, [CallJob("f", ()), CallJob("f", ())])
    again = sandbox.run(program, [CallJob("f", ()), CallJob("f", ())])
    assert [result.value for result in first] == [result.value for result in again]
    assert first[0].value != first[1].value


def test_large_inputs_and_outputs_pass(sandbox: Sandbox) -> None:
    lines = "x" * 99 + "\n"
    (result,) = sandbox.run("import sys\nprint(len(sys.stdin.read()))", [StdinJob(lines.encode() * 100_000)])
    assert result.stdout == b"10000000\n"
    (result,) = sandbox.run("for _ in range(10000): print('x' * 99)", [StdinJob(b"")])
    assert result.stdout == lines.encode() * 10_000
    (result,) = sandbox.run("def f(s): return len(s)", [CallJob("f", ("x" * 10_000_000,))])
    assert result.value == 10_000_000


def test_killed_jail_is_replaced_and_the_program_runs_again() -> None:
    with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
        for _ in range(2):
            jail = sandbox._jail
            assert jail is not None
            kill(jail)
            assert sandbox.grade(squares(2), RIGHT, "c").passed
        assert sandbox.num_restarts == 2


def test_jail_that_keeps_dying_is_an_infrastructure_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
        start = sandbox._start

        def start_and_kill() -> Jail:
            jail = start()
            kill(jail)
            return jail

        sandbox._drop_jail()
        monkeypatch.setattr(sandbox, "_start", start_and_kill)
        verdict = sandbox.grade(squares(2), RIGHT, "c")
        assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
        monkeypatch.undo()
        assert sandbox.grade(squares(2), RIGHT, "c").passed


@pytest.mark.slow
def test_nothing_is_left_behind() -> None:
    def left() -> tuple[object, ...]:
        gc.collect()
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        segments = [Path(f"/proc/sysvipc/{kind}").read_text() for kind in ("shm", "sem", "msg")]
        folders = [sorted(os.listdir(path)) for path in ("/dev/shm", "/dev/mqueue") if os.path.isdir(path)]
        return len(os.listdir("/proc/self/fd")), groups, segments, folders, children()

    def children() -> list[str]:
        return [pid for pid in os.listdir("/proc") if pid.isdigit() and parent_of(pid) == os.getpid()]

    def parent_of(pid: str) -> int:
        try:
            return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except FileNotFoundError:
            return -1

    hostile = [threat for threat in threats.STDIN if Outcome.TIMEOUT not in threat.outcomes]
    with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK):
        pass
    before = left()
    with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
        jail = sandbox._jail
        assert jail is not None
        sandbox.grade(squares(2), RIGHT, "c")
        descriptors = len(os.listdir("/proc/self/fd"))
        for threat in hostile[:60]:
            sandbox.grade(squares(1), threat.source, "c")
        assert len(os.listdir("/proc/self/fd")) == descriptors
        jail = sandbox._jail
        assert jail is not None
        groups = [] if jail.cgroup is None else list(jail.cgroup.folders)
        if sandbox.num_restarts == 0 and jail.cgroup is not None:
            # bubblewrap's two processes, and the zygote
            assert len((jail.cgroup.folders[0] / "cgroup.procs").read_text().split()) == 3
    assert left() == before
    assert not any(folder.exists() for folder in groups)


@pytest.mark.slow
def test_jail_ends_with_the_process_that_started_it() -> None:
    code = (
        "import os, signal, sys\nfrom rltf.sandbox.sandbox import Sandbox\nfrom rltf.settings import SandboxSettings\n"
        "from rltf.sandbox.verdict import Isolation\n"
        "s = Sandbox(SandboxSettings(), Isolation.LANDLOCK)\nprint(s._jail._process.pid, flush=True)\n"
        "import threading, time\nfrom rltf.sandbox.jobs import StdinJob\n"
        "threading.Thread(target=s.run, args=('while True: pass', [StdinJob(b'')]), daemon=True).start()\n"
        "time.sleep(0.3)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")


def test_too_little_isolation_is_refused_with_reason_and_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    selftest.measured_level.cache_clear()
    try:
        with pytest.raises(UserError, match=r"(?s)bubblewrap is not installed.*fix: .*bubblewrap"):
            Sandbox(LIMITS, min_isolation=Isolation.NAMESPACES)
        with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
            verdict = sandbox.grade(squares(1), RIGHT, "c")
            assert verdict.passed
            assert verdict.isolation is Isolation.LANDLOCK
    finally:
        selftest.measured_level.cache_clear()


def test_canary_that_survives_lowers_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    survivor = selftest.Canary("a wall that is not there", "print('out')", levels=frozenset({selftest.LEVELS[0]}))
    monkeypatch.setattr(selftest, "CANARIES", (*selftest.CANARIES, survivor))
    selftest.measured_level.cache_clear()
    try:
        finding = selftest.find_level(LIMITS)
        assert finding.level is not selftest.LEVELS[0]
        assert selftest.LEVELS[0] in finding.reasons
    finally:
        selftest.measured_level.cache_clear()


@pytest.mark.parametrize("changes", [{"cpu_s": 0}, {"memory_bytes": -1}, {"cpu_s": 5, "wall_s": 4}])
def test_senseless_limits_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"should be greater than 0|is below"):
        SandboxSettings(**changes)


@pytest.mark.slow
def test_thousands_of_tests_of_one_program(sandbox: Sandbox) -> None:
    verdict = sandbox.grade(squares(6000), "import sys; sys.exit(3)", "c")
    assert verdict.tests[:600] == (Outcome.RUNTIME_ERROR,) * 600
    assert len(verdict.tests) == 6000


def test_threads_of_a_program_do_not_block_a_check(sandbox: Sandbox) -> None:
    hog = (
        "import threading, time\nfor _ in range(1000):\n"
        "  try: threading.Thread(target=time.sleep, args=(100,), daemon=True).start()\n"
        "  except RuntimeError: break\n"
        "def f(n): return n + 1\n"
    )
    check = problem(*[CheckTest("def check(c):\n  for n in range(3): assert c(n) == n * n\n", "f")] * 2)
    assert sandbox.grade(check, hog, "c").outcome is Outcome.FAILED


def test_total_output_of_a_program_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PROGRAM_OUTPUT_BYTES", 1 << 20)
    with Sandbox(min_isolation=Isolation.LANDLOCK) as sandbox:
        verdict = sandbox.grade(squares(4), "print('x' * 600_000)", "c")
    outcomes = (Outcome.FAILED, Outcome.FAILED, Outcome.OUTPUT_LIMIT, Outcome.SKIPPED)
    assert verdict.tests == outcomes


def test_scratch_folders_of_any_depth_are_emptied(sandbox: Sandbox) -> None:
    if sandbox.isolation not in (Isolation.NAMESPACES, Isolation.NAMESPACES_CGROUP):
        pytest.skip("no scratch folder at this level")
    restarts = sandbox.num_restarts
    deep = "import os\nprint(len(os.listdir('/tmp')))\nfor _ in range(2000): os.mkdir('0'); os.chdir('0')"
    shut = "import os\nprint(len(os.listdir('/tmp')))\nos.makedirs('/tmp/a/b')\nos.umask(0o777)\nos.mkdir('/tmp/c', 0)"
    for program in (deep, shut):
        results = sandbox.run(program, [StdinJob(b"")] * 3)
        assert [result.stdout for result in results] == [b"0\n"] * 3
    assert sandbox.num_restarts == restarts


def test_a_program_may_keep_its_limits_and_copy_files(sandbox: Sandbox) -> None:
    limits = (
        "import resource as r\nfor kind in (r.RLIMIT_CPU, r.RLIMIT_FSIZE, r.RLIMIT_STACK): "
        "r.setrlimit(kind, r.getrlimit(kind))\nprint('set')"
    )
    copies = (
        "import shutil\nopen('a', 'w').write('x')\n"
        "print(shutil.copy('a', 'b'), shutil.copy2('a', 'c'), shutil.move('a', 'd'))"
    )
    (result,) = sandbox.run(limits, [StdinJob(b"")])
    assert result.stdout == b"set\n", result
    if sandbox.isolation in (Isolation.NAMESPACES, Isolation.NAMESPACES_CGROUP):
        (result,) = sandbox.run(copies, [StdinJob(b"")])
        assert result.stdout == b"b c d\n", result


def test_signals_that_the_grader_ignores_still_end_programs() -> None:
    """Dispositions and masks are inherited, even across exec. The C library reserves the numbers 32 and 33."""
    code = (
        "import ctypes, os, signal\n"
        "from rltf.sandbox.jobs import StdinJob\nfrom rltf.settings import SandboxSettings\n"
        "from rltf.sandbox.sandbox import Sandbox\n"
        "from rltf.sandbox.verdict import Isolation\n"
        "call = {'x86_64': 13, 'aarch64': 134}[os.uname().machine]\n"
        "ignore = (1).to_bytes(8, 'little') + bytes(24)\n"
        "for number in (1, 32, 33, 40): ctypes.CDLL(None).syscall(call, number, ignore, None, 8)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [15])\n"
        "with Sandbox(SandboxSettings(), Isolation.LANDLOCK) as sandbox:\n"
        "  for number in (1, 15, 32, 33, 40):\n"
        "    (result,) = sandbox.run(f'import os\\nos.kill(os.getpid(), {number})', [StdinJob(b'')])\n"
        "    print(result.signal)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["1", "15", "32", "33", "40"]
