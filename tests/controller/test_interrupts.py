"""A signal at any stage of a job ends it with one line, and so does a frozen Ray. Nothing is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from ray._common.utils import get_default_ray_temp_dir

from tests.jobs import ROOT, small_job

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(400)]


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "launch.py", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process prints up to the line with `text`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def assert_nothing_is_left(driver: int, children: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    assert list(Path(get_default_ray_temp_dir()).glob(f"session_*_{driver}")) == []  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("Ray ...", signal.SIGINT),
        ("Ray ...", signal.SIGTERM),
        ("model ...", signal.SIGHUP),
        ("actors ...", signal.SIGINT),
        ("learner ...", signal.SIGTERM),
        ("generators ...", signal.SIGINT),
        ("evaluation before ...", signal.SIGTERM),
    ],
)
def test_before_the_first_update(stage: str, number: signal.Signals, tmp_path: Path) -> None:
    process = start(*small_job(tmp_path, "job"))
    output_until(process, stage)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, output
    assert output.splitlines()[-1] == ("launch.py: interrupted: nothing was learned yet; run the same command again"), (
        output
    )
    assert "Traceback" not in output
    assert not (tmp_path / "job").exists()
    assert_nothing_is_left(process.pid, children)


@pytest.mark.parametrize("line", ["step 1/", "evaluation after ..."])
def test_after_it(line: str, tmp_path: Path) -> None:
    process = start(*small_job(tmp_path, "job"))
    output_until(process, line)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert f"; continue with --resume {tmp_path / 'job'}" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert_nothing_is_left(process.pid, children)


LONG = ("--run.num_steps", "1000", "--generator.engine", "transformers", "--problems.evaluation", "[]")


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    process = start(*small_job(tmp_path, "job", *LONG, "--checkpoint.every", "1000", sft_steps=0))
    output_until(process, "step 3/")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (130, 143), output
    assert "Traceback" not in output
    assert not list((tmp_path / "job" / "checkpoints").glob("step-*"))
    assert_nothing_is_left(process.pid, children)


def test_it_continues_if_nobody_reads_its_output(tmp_path: Path) -> None:
    """As under `| head`."""
    process = start(*small_job(tmp_path, "job", *LONG[2:], sft_steps=0))
    output_until(process, "actors ...")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert (tmp_path / "job" / "checkpoints" / "step-4" / "SHA256SUMS").is_file()


def test_a_frozen_head_of_ray_ends_it_with_a_checkpoint(tmp_path: Path) -> None:
    """Without its head, Ray starts no actor. Those that run save the checkpoint."""
    process = start(*small_job(tmp_path, "job", *LONG, "--cluster.heartbeat_timeout_s", "15", sft_steps=0))
    try:
        output_until(process, "step 3/")
        children = psutil.Process(process.pid).children(recursive=True)
        (head,) = (child for child in children if child.name() == "gcs_server")
        head.suspend()
        output, _ = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 1, output
    assert "is frozen: it accepts connections, but has not answered for 15 s, since " in " ".join(output.split())
    assert "Traceback" not in output
    num_updates = (tmp_path / "job" / "metrics.jsonl").read_text().count("\n")
    assert (tmp_path / "job" / "checkpoints" / f"step-{num_updates}" / "SHA256SUMS").is_file()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []  # the folder of Ray's logs stays, as after every failure


def test_a_driver_that_was_killed_leaves_a_folder_that_the_next_one_removes(tmp_path: Path) -> None:
    killed = start(*small_job(tmp_path, "killed"))
    output_until(killed, "actors ...")
    children = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=90)  # Ray's agents look for their daemon now and then
    assert alive == []
    after = start(*small_job(tmp_path, "after"))
    output_until(after, "actors ...")
    after.send_signal(signal.SIGINT)
    after.communicate(timeout=120)
    assert_nothing_is_left(killed.pid, [])
    assert_nothing_is_left(after.pid, [])
