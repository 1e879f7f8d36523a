"""A small job in which every part is real. It runs once, and the tests look at different sides of it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rltf.learner.ranks import ALONE
from tests.controller.conftest import FinishedJob
from tests.controller.written_run import ROW, kinds, write_run, write_train
from tests.jobs import ROOT, small_job

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# What other programs read from metrics.jsonl.
PROMISED = {
    *("step", "weights_version", "loss", "loss_sl", "loss_coarse", "loss_fine", "loss_adaptive", "reward_mean"),
    *("pass_rate", "outcomes", "staleness_mean", "staleness_max", "tokens_per_s", "buffer_size", "seconds"),
}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_update_has_a_complete_row(job: FinishedJob) -> None:
    metrics = rows(job.folder / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    for row in metrics:
        assert row.keys() >= PROMISED
        assert sum(row["outcomes"].values()) == row["num_samples"] == 16
        assert row["staleness_max"] <= 1
        assert row["num_faults"] == 0
        assert row["mismatch_mean"] < 0.5
        assert row["custom_reward_mean"] == 0.5
        assert row["loss_custom"] == 0, "all programs get the same"
    assert all(level.startswith("namespaces") for row in metrics for level in row["isolation"])
    assert sum(sum(row["isolation"].values()) for row in metrics) >= 4 * 16
    assert metrics[0]["mismatch_max"] < 1e-4, "sampler and learner disagree on log-probabilities"


def test_held_out_problems_are_evaluated_before_during_and_after(job: FinishedJob) -> None:
    evaluations = rows(job.folder / "evaluations.jsonl")
    assert [row["step"] for row in evaluations] == [0, 2, 4]
    for row in evaluations:
        low, high = row["intervals"]["pass@1"]["all"]
        assert low <= row["pass@1"]["all"] <= high
        assert row["num_samples"] == 12
        assert {name: len(one["task_ids"]) for name, one in row["sets"].items()} == {"first": 2, "second": 4}
        first, second = (row["pass@1"][name] for name in ("first", "second"))
        assert row["pass@1"]["all"] == pytest.approx((2 * first + 4 * second) / 6)


def test_transformers_loads_the_checkpoint(job: FinishedJob) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = job.folder / "checkpoints" / "step-4"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("Write solve(xs).", return_tensors="pt")
    logits = model(**prompt).logits
    assert logits.shape == (1, prompt["input_ids"].shape[1], len(tokenizer))


def test_the_run_has_samples_and_a_report(job: FinishedJob) -> None:
    shown = [row for path in sorted((job.folder / "samples").glob("*.jsonl")) for row in rows(path)]
    assert shown
    for row in shown:
        assert "".join(text for text, _ in row["tokens"]) == row["program"]
        assert row["isolation"].startswith("namespaces")
        assert len(row["tests"]) == 3  # `sandbox.max_tests`
        assert (row["failing_test"] is None) == (row["outcome"] == "passed")
    assert "<html" in (job.folder / "report.html").read_text()


def test_damage_is_tried_on_every_kind_of_file(job: FinishedJob, tiny_model_dir: Path, tmp_path: Path) -> None:
    """`test_resume_path` damages the files of a written run, so that has to have all that a real one has."""
    options = (
        "--problems.train",
        write_train(tmp_path, ROW),
        "--run.log_batches",
        "2",
        "--learner.loss.kl_loss_coef",
        "0.1",
    )
    write_run(ALONE, small_job(tmp_path, "run", *options), tiny_model_dir)
    assert kinds(job.folder) <= kinds(tmp_path / "run")


def test_bulk_data_does_not_pass_through_the_driver(job: FinishedJob) -> None:
    """Each published version of the weights is 1.7 MB. Prompts, tokens and log-probabilities come on top of that.

    In so small a job, half of the samples are shown to people, with all of their turns.
    """
    weights = sum(path.stat().st_size for path in (job.folder / "checkpoints" / "step-4").glob("*.safetensors"))
    num_samples = sum(row["num_samples"] for row in rows(job.folder / "metrics.jsonl"))
    assert weights > 1_000_000
    assert 0 < job.driver_bytes < 400_000
    assert job.driver_bytes / num_samples < 6_000


def test_the_last_lines_show_the_gain_and_what_to_do_next(job: FinishedJob) -> None:
    assert re.search(r"pass@1.*points", job.output)
    assert "step-4" in job.output
    assert "evaluate.py --model" in job.output


def test_a_finished_run_goes_on_with_two_learner_workers_and_an_interrupt_leaves_a_checkpoint(job: FinishedJob) -> None:
    run = job.runs / "resumed"
    shutil.copytree(job.folder, run)
    workers = ("--learner.num_workers", "2", "--learner.num_cpus", "0.5", "--run.log_batches", "0")
    more = ("--run.dir", str(run), "--run.num_steps", "1000", *workers)
    command = [sys.executable, "launch.py", "--resume", str(run), *more]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 360
        while len(rows(run / "metrics.jsonl")) < 6:
            assert process.poll() is None, "the job ended before its next updates"
            assert time.monotonic() < deadline, "the job did not reach its next updates in time"
            time.sleep(0.2)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=90)
    finally:
        process.kill()  # a job that a failed test leaves behind would slow down all others
    assert process.returncode == 143, output
    metrics = rows(run / "metrics.jsonl")
    newest = run / "checkpoints" / f"step-{len(metrics)}"
    *_, saving, last = (line for line in output.splitlines() if "interrupt" in line)
    assert saving == "interrupted: saving a checkpoint (interrupt again to stop at once)"
    assert last == f"launch.py: interrupted: the model is in {newest}; continue with --resume {run}"
    assert output.splitlines()[-1] == last
    assert "Traceback" not in output
    assert psutil.wait_procs(children, timeout=20)[1] == []
    assert list(Path("/tmp/ray").glob(f"session_*_{process.pid}")) == []
    assert [row["step"] for row in metrics] == list(range(1, len(metrics) + 1))
    versions = [row["weights_version"] for row in metrics]
    assert versions == sorted(versions)
    assert (newest / "config.json").is_file()
