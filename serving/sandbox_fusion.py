"""The API of SandboxFusion, so that its clients work when only the address changes: `POST /run_code` and `/submit`.

Names and shapes are SandboxFusion's. What this server does not do is answered with the status `SandboxError` and words,
as SandboxFusion answers what it cannot run.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from rltf.problems.types import AnswerRule, Limits, Problem, StdinTest
from rltf.sandbox.jobs import End, RunLimits, RunResult
from rltf.sandbox.verdict import Outcome, ProgramError, Verdict
from rltf.serving.exchange import RefusedError
from rltf.serving.grading import Name
from rltf.serving.known_problems import KnownProblems
from rltf.settings import MIB, SandboxSettings

_COMMON_OJ = "CommonOJDataset"
_PROGRAM_FILE = "<solution>"
_KILLED = 9
_TIMEOUTS = (End.CPU_TIMEOUT, End.WALL_TIMEOUT)

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Query(BaseModel):
    # Fields that this server does not know are ignored, as SandboxFusion ignores them.
    model_config = ConfigDict(extra="ignore", frozen=True)


class RunCodeRequest(_Query):
    """`RunCodeRequest`. There is nothing to compile in Python, so `compile_timeout` has no effect."""

    code: str
    language: str
    stdin: str | None = None
    compile_timeout: Seconds = 10.0
    run_timeout: Seconds = 10.0
    memory_limit_MB: int = Field(-1, ge=-1)  # noqa: N815
    files: dict[str, str | None] = {}
    fetch_files: list[str] = []

    @property
    def unsupported(self) -> str | None:
        """What the request asks for and this server does not do."""
        if self.language != "python":
            return f"language {self.language!r}: this server runs only python"
        if self.files or self.fetch_files:
            return "files, fetch_files: programs of this server get no files and leave none; use stdin and stdout"
        return None

    def limits(self, settings: SandboxSettings) -> RunLimits:
        """What the program may use. The memory is at most that of the server.

        Raises `RefusedError` for more time than the server gives.
        """
        _check_timeout("run_timeout", self.run_timeout, settings)
        asked = self.memory_limit_MB * MIB
        memory_bytes = min(asked, settings.memory_bytes) if asked > 0 else settings.memory_bytes
        return RunLimits(self.run_timeout, self.run_timeout, memory_bytes)


class StdioTest(_Query):
    """`GeneralStdioTest`: other names than `stdin` and `stdout` are files."""

    input: dict[str, str]
    output: dict[str, str]


class ProvidedData(_Query):
    """The tests of a problem that the request brings along."""

    test: list[StdioTest] = Field(min_length=1)


class SubmitConfig(_Query):
    """`TestConfig`, as far as it matters here."""

    dataset_type: Name | None = None
    language: str | None = None
    run_timeout: Seconds | None = None
    custom_extract_logic: str | None = None
    provided_data: dict[str, Any] | None = None


class SubmitRequest(_Query):
    """`SubmitRequest`. `id` names a preloaded problem of the benchmark `dataset`, unless the config has the data."""

    dataset: Name
    id: Name | int
    completion: str
    config: SubmitConfig

    def problem(self, known: KnownProblems, settings: SandboxSettings) -> Problem:
        """The problem with the request's limits. Raises `RefusedError` if there is none that can be used."""
        config = self.config
        if config.language not in (None, "python"):
            raise RefusedError(422, f"config.language: {config.language!r}; this server runs only python")
        if config.custom_extract_logic:
            raise RefusedError(422, "config.custom_extract_logic: not supported; leave it out")
        if config.provided_data is None:
            problem = known.find("id", self.id, self.dataset)
        elif config.dataset_type in (None, _COMMON_OJ):
            problem = known.usable("config.provided_data", _stdio_problem(self.id, config.provided_data))
        else:
            problem = known.from_row("config.provided_data", config.provided_data, config.dataset_type)
        if config.run_timeout is None:
            return problem
        _check_timeout("config.run_timeout", config.run_timeout, settings)
        return replace(problem, limits=Limits(config.run_timeout, problem.limits.memory_bytes))


def _check_timeout(place: str, seconds: float, settings: SandboxSettings) -> None:
    if seconds > settings.program_wall_s:
        raise RefusedError(
            422, f"{place}: {seconds:g} s is more than the {settings.program_wall_s:g} s of sandbox.program_wall_s"
        )


def _stdio_problem(task_id: str | int, data: dict[str, Any]) -> Problem:
    tests = _provided_tests(data)
    for number, test in enumerate(tests):
        if set(test["input"]) - {"stdin"} or set(test["output"]) != {"stdout"}:
            raise RefusedError(
                422, f"config.provided_data.test.{number}: expected an input of stdin and an output of stdout alone"
            )
    pairs = tuple(StdinTest(test["input"].get("stdin", ""), test["output"]["stdout"]) for test in tests)
    # SandboxFusion compares in lower case.
    return Problem(str(task_id), "sandbox-fusion", "-", pairs, checker=AnswerRule(ignore_case=True))


def _provided_tests(data: dict[str, Any]) -> list[dict[str, dict[str, str]]]:
    """The tests in `provided_data`, which may be JSON in a string."""
    try:
        test = data.get("test")
        given = {"test": json.loads(test) if isinstance(test, str) else test}
        return ProvidedData.model_validate(given).model_dump()["test"]  # type: ignore[no-any-return]
    except (ValueError, RecursionError) as error:
        example = '[{"input": {"stdin": ...}, "output": {"stdout": ...}}]'
        raise RefusedError(422, f"config.provided_data.test: expected {example}") from error


def run_code_answer(result: RunResult) -> dict[str, Any]:
    """`RunCodeResponse` of a program that has been run."""
    if result.end is End.INFRASTRUCTURE:
        return sandbox_error("the sandbox failed twice; its log says why")
    return _response(
        "Success" if result.end is End.OK else "Failed",
        "TimeLimitExceeded" if result.end in _TIMEOUTS else "Finished",
        _return_code(result),
        result.wall_seconds,
        result.stdout.decode("utf-8", "replace"),
        _stderr(result.end, result.error),
    )


def sandbox_error(message: str) -> dict[str, Any]:
    """`RunCodeResponse` for what says nothing about the program."""
    return {**_response("SandboxError", "Error", None, None, "", message), "message": message, "run_result": None}


def submit_answer(query: SubmitRequest, problem: Problem, span: tuple[int, int], verdict: Verdict) -> dict[str, Any]:
    """`EvalResult`. It holds the tests only if the request has brought them."""
    provided = query.config.provided_data
    infos: list[Any] = [None] * len(verdict.tests)
    if provided is not None and query.config.dataset_type in (None, _COMMON_OJ):
        infos = list(_provided_tests(provided))
    first = next((n for n, outcome in enumerate(verdict.tests) if outcome is not Outcome.PASSED), -1)
    tests = [
        {
            "passed": outcome is Outcome.PASSED,
            "exec_info": _test_answer(outcome, verdict if number == first else None),
            "test_info": info,
        }
        for number, (outcome, info) in enumerate(zip(verdict.tests, infos, strict=True))
    ]
    return {
        "id": query.id,
        "accepted": verdict.passed,
        "extracted_code": query.completion[slice(*span)],
        "full_code": None,
        "test_code": None,
        "tests": tests,
        "extracted_type": None,
        "extra": None,
    }


_TEST_ENDS = {
    Outcome.PASSED: End.OK,
    Outcome.FAILED: End.OK,
    Outcome.RUNTIME_ERROR: End.EXCEPTION,
    Outcome.SYNTAX_ERROR: End.SYNTAX_ERROR,
    Outcome.TIMEOUT: End.CPU_TIMEOUT,
    Outcome.SKIPPED: End.SKIPPED,
    Outcome.MEMORY_LIMIT: End.MEMORY,
    Outcome.OUTPUT_LIMIT: End.OUTPUT,
}


def _test_answer(outcome: Outcome, verdict: Verdict | None) -> dict[str, Any]:
    """`RunCodeResponse` of one test. `verdict` is given for the test that its error and its output belong to."""
    error = verdict.error if verdict is not None else None
    if outcome is Outcome.INFRASTRUCTURE_ERROR:
        return sandbox_error(error.message if error else "the grader failed")
    stdout = (verdict.actual or "") if verdict is not None else ""
    return run_code_answer(RunResult(_TEST_ENDS[outcome], stdout=stdout.encode("utf-8", "replace"), error=error))


def _response(
    status: str, run_status: str, return_code: int | None, seconds: float | None, stdout: str, stderr: str
) -> dict[str, Any]:
    run_result = {
        "status": run_status,
        "execution_time": seconds,
        "return_code": return_code,
        "stdout": stdout,
        "stderr": stderr,
    }
    return {
        "status": status,
        "message": "",
        "compile_result": None,
        "run_result": run_result,
        "executor_pod_name": None,
        "files": {},
    }


def _return_code(result: RunResult) -> int | None:
    """The exit status, as `subprocess` gives it; None for a program that was ended for its time."""
    match result.end:
        case End.OK:
            return 0
        case End.CPU_TIMEOUT | End.WALL_TIMEOUT:
            return None
        case End.EXIT_STATUS:
            return result.exit_status
        case End.SIGNAL:
            return -(result.signal or _KILLED)
        case End.MEMORY:
            return -_KILLED
        case _:
            return 1


def _stderr(end: End, error: ProgramError | None) -> str:
    """The end of the traceback, which is all that the grader knows of what a program writes to standard error."""
    if error is not None:
        place = f'  File "{_PROGRAM_FILE}", line {error.line}\n' if error.line is not None else ""
        return f"Traceback (most recent call last):\n{place}{error.type}: {error.message}\n"
    return {
        End.MEMORY: "MemoryError: the program used up its memory\n",
        End.OUTPUT: "OSError: the program wrote more than it may\n",
        End.SKIPPED: "not run: an earlier test used up the program's time\n",
    }.get(end, "")
