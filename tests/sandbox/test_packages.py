"""Packages that programs may import: what a jail gets of them, what is imported before a program, what stays out."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from rltf.errors import UserError
from rltf.problems.types import AssertTest, CallTest, CheckTest, StdinTest, Test
from rltf.sandbox import process, selftest
from rltf.sandbox.admission import reason_to_refuse
from rltf.sandbox.jobs import CallJob, End, StdinJob
from rltf.sandbox.packages import Packages, find_packages
from rltf.sandbox.process import Jail
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import MIB, SandboxSettings
from tests.sandbox.programs import LIMITS, problem
from tests.tiers import first_fast

WITH_NUMPY = LIMITS.model_copy(update={"packages": ("numpy",), "memory_bytes": 160 * MIB, "cpu_s": 4.0, "wall_s": 10.0})
IMPORT = "import numpy as np\n"
MULTIPLY = IMPORT + "a = np.ones((600, 600))\nprint(int((a @ a).sum()))"


LEVELS = (Isolation.NAMESPACES, Isolation.NAMESPACES_CGROUP, Isolation.LANDLOCK)


@pytest.fixture(scope="module", params=first_fast(LEVELS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox with numpy at each level that this machine can give."""
    if reason := selftest.find_level(LIMITS).reasons.get(request.param):
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selftest, "find_level", lambda _: selftest.Finding(request.param))
        with Sandbox(WITH_NUMPY, request.param) as sandbox:
            yield sandbox


def output(sandbox: Sandbox, program: str) -> str:
    (result,) = sandbox.run(program, [StdinJob(b"")])
    assert result.end is End.OK, result
    return result.stdout.decode()


def install(folder: Path, name: str, files: dict[str, str], requires: tuple[str, ...] = ()) -> None:
    """Install a package with these files the way pip does."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {one}" for one in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in (*files, f"{info.name}/METADATA")))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that packages can be installed in."""
    monkeypatch.syspath_prepend(tmp_path)
    find_packages.cache_clear()
    yield tmp_path
    find_packages.cache_clear()


def jail_with(*packages: str) -> Jail:
    level = selftest.find_level(LIMITS).level
    assert level is not None
    return Jail(level, LIMITS.model_copy(update={"packages": packages}))


def printed(jail: Jail, program: str) -> str:
    (result,) = jail.run(program, [StdinJob(b"")])
    assert result.end is End.OK, result
    return result.stdout.decode()


def test_numpy_works_and_is_loaded_before_the_program(sandbox: Sandbox) -> None:
    assert output(sandbox, MULTIPLY) == f"{600**3}\n"
    assert output(sandbox, "import sys\nprint('numpy' in sys.modules)") == "True\n"
    names = "import os, threading\nprint(os.environ['OPENBLAS_NUM_THREADS'], len(threading.enumerate()))"
    assert output(sandbox, names) == "1 1\n"


def test_threads_start_and_end_as_usual(sandbox: Sandbox) -> None:
    program = (
        "import threading\nlines = []\n"
        "t = threading.Thread(target=lambda: lines.append(threading.current_thread() is t))\n"
        "t.start(); t.join()\nprint(lines, threading.current_thread() is threading.main_thread())\n"
        "threading.Thread(target=print, args=('last',)).start()"
    )
    assert output(sandbox, program) == "[True] True\nlast\n"


def test_programs_cannot_change_the_package_for_one_another(sandbox: Sandbox) -> None:
    spoiled = IMPORT + "np.sum = lambda a: 7\nnp.add = None\nprint(np.sum([1, 2]))"
    assert output(sandbox, spoiled) == "7\n"
    assert output(sandbox, IMPORT + "print(np.sum([1, 2]), np.add(1, 2))") == "3 3\n"
    jobs = [CallJob("f", ())] * 2
    for result in sandbox.run(IMPORT + "def f():\n  n = np.sum([1, 2])\n  np.sum = len\n  return int(n)", jobs):
        assert result.value == 3  # nor can the tests of one program


def test_the_package_cannot_be_written_to(sandbox: Sandbox) -> None:
    for change in (
        "open(np.__file__, 'a')",
        "open(os.path.dirname(np.__file__) + '/new.py', 'w')",
        "open(os.path.dirname(os.path.dirname(np.__file__)) + '/new.py', 'w')",
        "os.remove(np.__file__)",
        "os.rename(os.path.dirname(np.__file__), '/tmp/numpy')",
    ):
        (result,) = sandbox.run(f"import os\n{IMPORT}{change}", [StdinJob(b"")])
        assert result.end is End.EXCEPTION, (change, result)
        assert result.error is not None
        assert result.error.type in ("PermissionError", "OSError"), (change, result)
    assert not Path(numpy.__file__).with_name("new.py").exists()


def test_other_packages_stay_out(sandbox: Sandbox) -> None:
    others = Path(numpy.__file__).parents[1]
    for program in (
        "import pydantic",
        f"import sys\nsys.path.append({str(others)!r})\nimport pydantic",
        f"import os, numpy\nsite = {str(others)!r}\nos.listdir(site)",
        "import os, numpy\nos.listdir(os.path.dirname(os.path.dirname(numpy.__file__)) + '/pydantic')",
        f"open({str(others / 'pydantic' / '__init__.py')!r})",
    ):
        (result,) = sandbox.run(program, [StdinJob(b"")])
        assert result.end is End.EXCEPTION, (program, result)


def test_random_numbers_repeat_from_run_to_run(sandbox: Sandbox) -> None:
    program = IMPORT + (
        "def f():\n  own = np.random.default_rng(), np.random.RandomState(), np.random.default_rng(3)\n"
        "  return [float(np.random.rand()), *(float(one.normal()) for one in own)]"
    )
    first = sandbox.run(program, [CallJob("f", ())] * 2)
    again = sandbox.run(program, [CallJob("f", ())] * 2)
    assert [result.value for result in first] == [result.value for result in again]
    differing = [one != other for one, other in zip(first[0].value, first[1].value, strict=True)]
    assert differing == [True, True, True, False]
    assert first[0].value[3] == numpy.random.default_rng(3).normal()


@pytest.mark.slow
def test_the_memory_of_a_test_is_its_own(sandbox: Sandbox) -> None:
    """The limit leaves out what the package itself takes, in the address space too."""
    fill = IMPORT + "a = np.ones({} << 20, dtype=np.uint8)\nb = np.ones((200, 200))\nprint(int((b @ b).sum()))"
    assert output(sandbox, fill.format(140)) == f"{200**3}\n"
    (result,) = sandbox.run(fill.format(200), [StdinJob(b"")])
    assert result.end is End.MEMORY, result
    (result,) = sandbox.run("print(1)", [StdinJob(b"")])
    with Jail(sandbox.isolation, LIMITS) as bare:
        (without,) = bare.run("print(1)", [StdinJob(b"")])
    assert abs(result.peak_memory_bytes - without.peak_memory_bytes) < 4 * MIB


def test_scalars_count_as_values_of_python(sandbox: Sandbox) -> None:
    answers: list[tuple[str, object]] = [
        ("np.int64(25)", 25), ("np.bool_(True)", True), ("np.float64(0.5)", 0.5), ("np.str_('x')", "x"),
        ("[np.int32(1), (np.uint8(2),)]", [1, (2,)]), ("{np.int64(1): np.float32(0.5)}", {1: 0.5}),
    ]  # fmt: skip
    for text, value in answers:
        assert sandbox.grade(problem(CallTest("f", (), value)), f"{IMPORT}def f(): return {text}", "c").passed, text
    lying = IMPORT + "class F(np.float64):\n  item = __float__ = lambda self: 25.0\ndef f(): return F(1)"
    assert sandbox.grade(problem(CallTest("f", (), 25.0)), lying, "c").outcome is Outcome.FAILED
    fake = "import sys, types\nm = sys.modules['numpy'] = types.ModuleType('numpy')\n{}\ndef f(): return A()"
    for definition in ("class A: item = 25\nm.generic = A", "class A: pass\nm.generic = A", "class A: pass"):
        assert not sandbox.grade(problem(CallTest("f", (), 25)), fake.format(definition), "c").passed
    (result,) = sandbox.run(IMPORT + "def f(): return np.ones(2)", [CallJob("f", ())])
    assert str(result.value) == "Opaque('ndarray')"


def test_errors_keep_their_lines(sandbox: Sandbox) -> None:
    for line, kind in (("np.ones(2) + np.ones(3)", "ValueError"), ("np.linalg.inv([[0]])", "LinAlgError")):
        verdict = sandbox.grade(problem(StdinTest("", "")), f"{IMPORT}x = 1\n{line}", "c")
        assert verdict.outcome is Outcome.RUNTIME_ERROR
        assert verdict.error is not None
        assert (verdict.error.type, verdict.error.line) == (kind, 3)


@pytest.mark.parametrize(
    "test",
    [
        AssertTest("assert np.isclose(f(2), 4.0)", IMPORT),
        AssertTest("assert f(2) == np.float64(4)", IMPORT),
        CheckTest("from numpy import allclose\ndef check(c):\n  assert allclose([c(2), c(3)], [4, 9])\n", "f"),
        CheckTest("import numpy as np\ndef check(c):\n  assert c(np.int64(2)) == np.array([4, 9]).min()\n", "f"),
    ],
)
def test_tests_may_import_the_package(sandbox: Sandbox, test: Test) -> None:
    one = problem(test)
    assert reason_to_refuse(WITH_NUMPY)(one) is None
    assert "imports numpy, which is neither" in str(reason_to_refuse(LIMITS)(one))
    assert sandbox.grade(one, IMPORT + "def f(n): return np.square(n)", "c").passed
    assert sandbox.grade(
        one, IMPORT + "np.isclose = np.allclose = lambda *_: True\ndef f(n): return n", "c"
    ).outcome is (Outcome.FAILED)


def test_packages_bring_what_they_require(site: Path) -> None:
    extra = "never; extra == 'more'"
    install(site, "tool", {"tool/__init__.py": "import helper\nvalue = helper.value + 1"}, ("help-er>=1", extra))
    install(site, "help_er", {"helper.py": "value = 1"}, ("other; python_version < '3'",))
    install(site, "unrelated", {"unrelated.py": ""})
    with jail_with("Tool") as jail:
        assert printed(jail, "import sys, tool\nprint(tool.value, 'helper' in sys.modules)") == "2 True\n"
        (result,) = jail.run("import unrelated", [StdinJob(b"")])
        assert result.end is End.EXCEPTION


def test_the_standard_library_comes_first(site: Path) -> None:
    install(site, "backport", {"bisect.py": "raise SystemExit", "zipapp.py": "raise SystemExit", "mine.py": "x = 1"})
    with jail_with("backport") as jail:
        assert printed(jail, "import bisect, mine, zipapp\nprint(bisect.bisect([1], 2), mine.x)") == "1 1\n"


@pytest.mark.parametrize("level", [Isolation.NAMESPACES, Isolation.LANDLOCK])
def test_a_package_may_be_in_the_interpreters_own_folder(level: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    """This interpreter may be one that only root can enter."""
    if reason := selftest.find_level(LIMITS).reasons.get(level):
        pytest.skip(reason)
    path = sysconfig.get_path("purelib", vars={"base": sys.base_prefix}) + "/pip"
    if not os.path.isfile(f"{path}/__init__.py"):
        pytest.skip("nothing is installed there")
    found = Packages({"pip": "1"}, (path,), {"pip": path}, ("pip",))
    monkeypatch.setattr(process, "find_packages", lambda _: found)
    with Jail(level, LIMITS) as jail:
        assert printed(jail, "import pip\nprint(pip.__name__)") == "pip\n"
        (result,) = jail.run("import setuptools", [StdinJob(b"")])
        assert result.end is End.EXCEPTION


def test_what_a_package_prints_is_not_the_programs_output(site: Path) -> None:
    install(site, "loud", {"loud.py": "import sys\nprint('hello')\nprint('hello', file=sys.stderr)"})
    with jail_with("loud") as jail:
        assert printed(jail, "import loud\nprint(1)") == "1\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("open('/proc/self/status')", r"broken cannot be imported in the jail: \w+Error: .*/proc/self/status"),
        ("import absent", r"broken cannot be imported in the jail: ModuleNotFoundError: No module named 'absent'"),
        ("raise SystemExit(3)", r"broken cannot be imported in the jail: SystemExit: 3"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()", r"broken starts threads"),
    ],
)
def test_packages_that_cannot_be_used_are_refused(site: Path, source: str, message: str) -> None:
    install(site, "broken", {"broken.py": source})
    with pytest.raises(UserError, match=r"^sandbox\.packages: " + message):
        jail_with("broken")


def test_packages_that_are_not_there_are_refused(site: Path) -> None:
    install(site, "needy", {"needy.py": ""}, ("absent>=2",))
    install(site, "empty", {"__editable___empty_finder.py": ""})
    for names, message in (
        (("absent",), r"sandbox\.packages: 'absent' is not installed here: run `.*pip install absent`"),
        (("needy",), r"'absent' \(required by needy\) is not installed here: run `.*pip install needy`"),
        (("empty",), r"empty is installed without modules that the sandbox can bind"),
    ):
        with pytest.raises(UserError, match=message):
            find_packages(names)
        with pytest.raises(UserError, match=message):
            reason_to_refuse(SandboxSettings(packages=names))


def test_a_worker_leaves_nothing_of_a_package_that_was_refused(site: Path) -> None:
    install(site, "broken", {"broken.py": "1 / 0"})
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UserError, match="ZeroDivisionError"):
        jail_with("broken")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_graders_own_modules_are_out_of_reach(sandbox: Sandbox) -> None:
    named = "import sys\nprint([name for name in sys.modules if name.partition('.')[0] in ('rltf', 'sandbox')])"
    assert output(sandbox, named) == "[]\n"
    tried = "try:\n    import rltf\nexcept ImportError:\n    print('no')"
    assert output(sandbox, tried) == "no\n"
