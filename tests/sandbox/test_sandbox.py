"""What a verdict says, and what a sandbox leaves behind: nothing."""

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

from errors import UserError
from problems.types import AssertTest, CallTest, CheckTest, Problem, StdinTest, Test
from sandbox import asserts, selftest
from sandbox.asserts import plan
from sandbox.jobs import CallJob, CheckJob, End, ExpressionJob, Job, StdinJob
from sandbox.limits import Limits
from sandbox.process import Jail
from sandbox.sandbox import Sandbox
from sandbox.verdict import Isolation, Outcome
from tests.sandbox import threats

LIMITS = Limits(cpu_s=0.5, wall_s=2.0, program_wall_s=20, program_cpu_s=2.0)
SECRET = "s3cr3t-expectation"
RIGHT = "print(int(input()) ** 2)"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(LIMITS, require=Isolation.LANDLOCK) as sandbox:
        yield sandbox


def problem(*tests: Test, prefix: str = "") -> Problem:
    return Problem("p", "tests", "", tests, entry_point="f", code_prefix=prefix)


def kill(jail: Jail) -> None:
    """Kill the jail's first process, and with it all others."""
    init = jail._init if jail._init is not None else os.pidfd_open(jail._process.pid)
    signal.pidfd_send_signal(init, signal.SIGKILL)
    select.select([init], [], [], 30)


def squares(count: int) -> Problem:
    return problem(*(StdinTest(f"{i}\n", f"{i * i}\n") for i in range(count)))


def test_every_test_has_its_own_outcome(sandbox: Sandbox) -> None:
    program = (
        "n = int(input())\nif n == 1: print(7)\nelif n == 2: 1 / 0\nelif n == 3: bytearray(10**13)\nelse: print(n * n)"
    )
    verdict = sandbox.grade(squares(5), program, "c")
    assert verdict.tests == (
        Outcome.PASSED,
        Outcome.FAILED,
        Outcome.RUNTIME_ERROR,
        Outcome.MEMORY_LIMIT,
        Outcome.PASSED,
    )
    assert verdict.outcome is Outcome.RUNTIME_ERROR
    assert verdict.pass_ratio == 0.4
    assert verdict.error is not None
    assert (verdict.error.type, verdict.error.line) == ("ZeroDivisionError", 3)
    assert verdict.isolation is sandbox.isolation
    assert (verdict.task_id, verdict.completion_id) == ("p", "c")


def test_after_a_timeout_the_remaining_tests_are_skipped(sandbox: Sandbox) -> None:
    verdict = sandbox.grade(squares(4), "n = int(input())\nwhile n == 1: pass\nprint(n * n)", "c")
    assert verdict.tests == (Outcome.PASSED, Outcome.TIMEOUT, Outcome.SKIPPED, Outcome.SKIPPED)
    assert verdict.outcome is Outcome.TIMEOUT
    assert 0.5 <= verdict.cpu_seconds < 0.7


def test_no_program_gets_more_than_its_total_budget(sandbox: Sandbox) -> None:
    program = "import time\nwhile time.process_time() < 0.3: pass\nprint(int(input()) ** 2)"
    verdict = sandbox.grade(squares(20), program, "c")
    assert verdict.outcome is Outcome.TIMEOUT
    assert verdict.tests[0] is Outcome.PASSED
    assert verdict.tests[-1] is Outcome.SKIPPED
    assert verdict.cpu_seconds < 2.5


def test_syntax_error_is_that_of_all_tests_with_its_place(sandbox: Sandbox) -> None:
    verdict = sandbox.grade(squares(3), "x = 1\nif x\n  print(x)\n", "c")
    assert set(verdict.tests) == {Outcome.SYNTAX_ERROR}
    assert verdict.error is not None
    assert (verdict.error.type, verdict.error.line, verdict.error.column) == ("SyntaxError", 2, 4)


def test_columns_count_characters(sandbox: Sandbox) -> None:
    for program in ("é = '日本'; 1 / 0", "é = '日本'; x ="):
        verdict = sandbox.grade(squares(1), program, "c")
        assert verdict.error is not None
        assert verdict.error.line == 1
        assert verdict.error.column is not None
        assert program[: verdict.error.column].startswith("é = '日本'; ")


def test_errors_in_an_indented_program_are_placed_as_it_was_submitted(sandbox: Sandbox) -> None:
    program = "   def f(n):\n       return n / 0\n"
    verdict = sandbox.grade(problem(CallTest("f", (2,), 4)), program, "c")
    assert verdict.error is not None
    assert verdict.error.type == "ZeroDivisionError"
    assert (verdict.error.line, verdict.error.column) == (2, program.split("\n")[1].index("n / 0"))
    prefix = 'def f(n):\n    """Square."""\n'
    verdict = sandbox.grade(problem(CallTest("f", (2,), 4), prefix=prefix), "return n / 0\n", "c")
    assert verdict.error is not None
    assert (verdict.error.line, verdict.error.column) == (1, 7)


def test_errors_behind_a_prefix_are_placed_in_the_program(sandbox: Sandbox) -> None:
    prefix = 'def f(n):\n    """Square."""\n'
    verdict = sandbox.grade(problem(CallTest("f", (2,), 4), prefix=prefix), "    return n * n\n", "c")
    assert verdict.passed
    verdict = sandbox.grade(problem(CallTest("f", (2,), 4), prefix=prefix), "    x = n\n    return x / 0\n", "c")
    assert verdict.error is not None
    assert (verdict.error.line, verdict.error.column) == (2, 11)
    in_prefix = problem(CallTest("f", (2,), 4), prefix="def f(n):\n    return g() / 0\n")
    verdict = sandbox.grade(in_prefix, "def g(): return 1\n", "c")
    assert verdict.error is not None
    assert verdict.error.line is None


def test_error_line_is_the_program_s_own_innermost(sandbox: Sandbox) -> None:
    program = "import json\ndef g(s):\n  return json.loads(s)\ndef f(n):\n  return g('{')\n"
    (result,) = sandbox.run(program, [CallJob("f", (1,))])
    assert result.error is not None
    assert (result.error.type, result.error.line) == ("JSONDecodeError", 3)


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


def test_values_keep_their_types(sandbox: Sandbox) -> None:
    values = (None, True, 1, 1.5, 2**20000, "é\0", b"\xff", [1, (2, {3})], {(1, 2): None}, frozenset({1}), 1j, range(3))
    (result,) = sandbox.run("def f(*x): return x", [CallJob("f", values)])
    assert result.value == values
    assert [type(value) for value in result.value] == [type(value) for value in values]


def test_large_inputs_and_outputs_pass(sandbox: Sandbox) -> None:
    lines = "x" * 99 + "\n"
    (result,) = sandbox.run("import sys\nprint(len(sys.stdin.read()))", [StdinJob(lines.encode() * 100_000)])
    assert result.stdout == b"10000000\n"
    (result,) = sandbox.run("for _ in range(10000): print('x' * 99)", [StdinJob(b"")])
    assert result.stdout == lines.encode() * 10_000
    (result,) = sandbox.run("def f(s): return len(s)", [CallJob("f", ("x" * 10_000_000,))])
    assert result.value == 10_000_000


def test_windows_line_ends_in_and_out(sandbox: Sandbox) -> None:
    windows = problem(StdinTest("5\r\n6\r\n", "25\r\n36\r\n"))
    assert sandbox.grade(windows, "for _ in 'ab': print(int(input()) ** 2)", "c").passed


def test_check_runs_in_a_process_of_its_own(sandbox: Sandbox) -> None:
    check = "def check(candidate):\n  for n in range(4): assert candidate(n) == n * n\n"
    graded = problem(CheckTest(check, "f"))
    outcomes = {
        "def f(n): return n * n": Outcome.PASSED,
        "class Solution:\n  def f(self, n): return n * n": Outcome.PASSED,
        "def f(n): return n": Outcome.FAILED,
        "def f(n): return 1 / 0": Outcome.RUNTIME_ERROR,
        "def f(n):\n  while True: pass": Outcome.TIMEOUT,
        "import time\ndef f(n): time.sleep(100)": Outcome.TIMEOUT,
        "import os\ndef f(n): os._exit(0)": Outcome.FAILED,
        "import os\ndef f(n): os._exit(1)": Outcome.RUNTIME_ERROR,
        "import os\ndef f(n):\n  for d in (1, 2, 3, 6): os.write(d, b'P' * 9)": Outcome.FAILED,
        "import sys\nsys.modules['check'] = None\ncheck = lambda c: None\ndef f(n): return 0": Outcome.FAILED,
        "import builtins\nbuiltins.AssertionError = ValueError\ndef f(n): return 5": Outcome.FAILED,
        "class E(int):\n  __eq__ = lambda s, o: True\ndef f(n): return E(7)": Outcome.FAILED,
        "def g(n): pass": Outcome.RUNTIME_ERROR,
        "def f(n) pass": Outcome.SYNTAX_ERROR,
    }
    for program, outcome in outcomes.items():
        assert sandbox.grade(graded, program, "c").outcome is outcome, program


def test_check_sees_exceptions_and_changed_arguments(sandbox: Sandbox) -> None:
    raises = (
        "def check(f):\n  try: f(-1)\n  except ValueError as e: assert str(e) == 'negative'\n  else: assert False\n"
    )
    sorts = "def check(f):\n  x = [3, 1, 2]\n  f(x)\n  assert x == [1, 2, 3]\n"
    program = "def f(x):\n  if x == -1: raise ValueError('negative')\n  x.sort()\n"
    # The plan marks which calls show what they did to their arguments.
    results = sandbox.run(program, [plan(CheckTest(source, "f")).job for source in (raises, sorts)])
    assert [result.end for result in results] == [End.OK, End.OK]


def test_broken_check_is_no_fault_of_the_program(sandbox: Sandbox) -> None:
    (result,) = sandbox.run("def f(n): return n", [CheckJob("def check(f) pass", "f")])
    assert result.end is End.INFRASTRUCTURE


def test_expected_value_that_is_an_expression_is_evaluated_in_a_clean_jail(sandbox: Sandbox) -> None:
    graded = problem(AssertTest("assert f(2) == set([1, 2])"), AssertTest("assert f(3) == set([1, 2, 3])"))
    assert sandbox.grade(graded, "def f(n): return set(range(1, n + 1))", "c").passed
    cheat = "import builtins\nbuiltins.set = list\nset = list\ndef f(n): return [*range(1, n + 1)]"
    assert sandbox.grade(graded, cheat, "c").outcome is Outcome.FAILED


def test_killed_jail_is_replaced_and_the_program_run_again() -> None:
    with Sandbox(LIMITS, require=Isolation.LANDLOCK) as sandbox:
        for _ in range(2):
            jail = sandbox._jail
            assert jail is not None
            kill(jail)
            assert sandbox.grade(squares(2), RIGHT, "c").passed
        assert sandbox.num_restarts == 2


def test_jail_killed_again_and_again_is_an_infrastructure_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(LIMITS, require=Isolation.LANDLOCK) as sandbox:
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
    with Sandbox(LIMITS, require=Isolation.LANDLOCK):
        pass
    before = left()
    with Sandbox(LIMITS, require=Isolation.LANDLOCK) as sandbox:
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


def test_jail_ends_with_the_process_that_started_it() -> None:
    code = (
        "import os, signal, sys\nfrom sandbox.sandbox import Sandbox\nfrom sandbox.limits import Limits\n"
        "from sandbox.verdict import Isolation\n"
        "s = Sandbox(Limits(), Isolation.LANDLOCK)\nprint(s._jail._process.pid, flush=True)\n"
        "import threading, time\nfrom sandbox.jobs import StdinJob\n"
        "threading.Thread(target=s.run, args=('while True: pass', [StdinJob(b'')]), daemon=True).start()\n"
        "time.sleep(0.3)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")


def test_too_little_isolation_is_refused_with_reason_and_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    selftest.find_level.cache_clear()
    try:
        with pytest.raises(UserError, match=r"(?s)bubblewrap is not installed.*cure: .*bubblewrap"):
            Sandbox(LIMITS, require=Isolation.NAMESPACES)
        with Sandbox(LIMITS, require=Isolation.LANDLOCK) as sandbox:
            verdict = sandbox.grade(squares(1), RIGHT, "c")
            assert verdict.passed
            assert verdict.isolation is Isolation.LANDLOCK
    finally:
        selftest.find_level.cache_clear()


def test_canary_that_survives_lowers_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    survivor = selftest.Canary("a wall that is not there", "print('out')", levels=frozenset({selftest.LEVELS[0]}))
    monkeypatch.setattr(selftest, "CANARIES", (*selftest.CANARIES, survivor))
    selftest.find_level.cache_clear()
    try:
        finding = selftest.find_level(LIMITS)
        assert finding.level is not selftest.LEVELS[0]
        assert selftest.LEVELS[0] in finding.reasons
    finally:
        selftest.find_level.cache_clear()


@pytest.mark.parametrize("changes", [{"cpu_s": 0}, {"memory_bytes": -1}, {"cpu_s": 5, "wall_s": 4}])
def test_limits_without_sense_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be greater than 0|is below"):
        Limits(**changes)  # type: ignore[arg-type]


def test_setup_that_fails_by_itself_is_the_tests_fault(sandbox: Sandbox) -> None:
    broken = problem(AssertTest("assert f(x) == 1", "x = 1 / 0"))
    verdict = sandbox.grade(broken, "def f(x): return 1", "c")
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert verdict.error is not None
    assert "the set-up of test 0 fails (ZeroDivisionError" in verdict.error.message


def test_setup_that_only_fails_with_the_program_is_the_programs_fault(sandbox: Sandbox) -> None:
    needs_it = problem(AssertTest("assert f(x) == 1", "x = Point(1)"))
    assert sandbox.grade(needs_it, "def f(x): return 1", "c").outcome is Outcome.RUNTIME_ERROR
    sound = problem(AssertTest("assert f(x) == 1", "x = tuple(reversed([3, 1]))"))
    assert sandbox.grade(sound, "def f(x): return x[0]", "c").passed
    spoiled = "import builtins\ndef reversed(x): raise ValueError\nbuiltins.reversed = reversed\ndef f(x): return 1"
    assert sandbox.grade(sound, spoiled, "c").outcome is Outcome.RUNTIME_ERROR


def test_a_check_that_no_answer_passes_is_no_fault_of_the_program(sandbox: Sandbox) -> None:
    restarts = sandbox.num_restarts
    broken = problem(CheckTest("def check(c):\n  assert c(2) == 2 * undefined\n", "f"))
    verdict = sandbox.grade(broken, "def f(n): return n", "c")
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert verdict.error is not None
    assert (verdict.error.type, verdict.error.message) == (
        "GraderError",
        "the test fails whatever the program answers",
    )
    assert sandbox.num_restarts == restarts


def test_any_exception_while_a_verdict_is_made_is_that_verdicts_alone(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Outcome:
        raise OverflowError("too large")

    monkeypatch.setattr(asserts, "outcome_of", fails)
    verdict = sandbox.grade(squares(2), RIGHT, "c")
    assert verdict.tests == (Outcome.INFRASTRUCTURE_ERROR,) * 2
    assert verdict.error is not None
    assert (verdict.error.type, verdict.error.message) == ("GraderError", "OverflowError: too large")
    monkeypatch.undo()
    assert sandbox.grade(squares(2), RIGHT, "c").passed


def test_thousands_of_tests_of_one_program(sandbox: Sandbox) -> None:
    verdict = sandbox.grade(squares(6000), "import sys; sys.exit(3)", "c")
    assert verdict.tests[:600] == (Outcome.RUNTIME_ERROR,) * 600
    assert len(verdict.tests) == 6000


def test_threads_of_a_program_do_not_keep_a_check_from_running(sandbox: Sandbox) -> None:
    hog = (
        "import threading, time\nfor _ in range(1000):\n"
        "  try: threading.Thread(target=time.sleep, args=(100,), daemon=True).start()\n"
        "  except RuntimeError: break\n"
        "def f(n): return n + 1\n"
    )
    check = problem(*[CheckTest("def check(c):\n  for n in range(3): assert c(n) == n * n\n", "f")] * 2)
    assert sandbox.grade(check, hog, "c").outcome is Outcome.FAILED


def test_a_program_may_write_so_much_in_all_and_no_more() -> None:
    limits = Limits(program_output_bytes=1 << 20)
    with Sandbox(limits, require=Isolation.LANDLOCK) as sandbox:
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


def test_a_program_may_set_its_limits_to_what_they_are_and_copy_files(sandbox: Sandbox) -> None:
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


def test_signals_that_the_grader_ignores_end_programs_all_the_same() -> None:
    """Dispositions and masks are inherited, also by what is executed; the numbers 32 and 33 are the C library's own."""
    code = (
        "import ctypes, os, signal\n"
        "from sandbox.jobs import StdinJob\nfrom sandbox.limits import Limits\nfrom sandbox.sandbox import Sandbox\n"
        "from sandbox.verdict import Isolation\n"
        "call = {'x86_64': 13, 'aarch64': 134}[os.uname().machine]\n"
        "ignore = (1).to_bytes(8, 'little') + bytes(24)\n"
        "for number in (1, 32, 33, 40): ctypes.CDLL(None).syscall(call, number, ignore, None, 8)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [15])\n"
        "with Sandbox(Limits(), Isolation.LANDLOCK) as sandbox:\n"
        "  for number in (1, 15, 32, 33, 40):\n"
        "    (result,) = sandbox.run(f'import os\\nos.kill(os.getpid(), {number})', [StdinJob(b'')])\n"
        "    print(result.signal)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["1", "15", "32", "33", "40"]
