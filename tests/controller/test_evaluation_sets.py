"""A run with simulated actors that is evaluated on two named sets, up to its table, its report and its comparison."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rltf.controller.events import Event
from rltf.controller.problems import load_problem_sets
from rltf.files import read_rows
from rltf.reporting.comparisons import comparison_table
from rltf.reporting.progress import Progress
from rltf.reporting.run_folder import RunFolder
from rltf.reporting.tables import print_summary
from rltf.settings import Settings
from tests.controller.simulation import start_controller
from tests.controller.virtual_cluster import Cluster, run_virtually


def write(path: Path, numbers: range) -> str:
    """A file of problems: the simulated policy of version n solves those with a number up to n."""
    tests = [{"stdin": "2", "expected": "4"}]
    rows = [{"task_id": f"{path.stem}/{n}", "statement": f"Problem {n}.", "tests": tests} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 updates, evaluated at 0, 2 and 4. Its sets `low` and `high` share the problem low/2."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    low = write(folder.parent / "low.jsonl", range(1, 3))
    high = [f"{low}[1:]", write(folder.parent / "high.jsonl", range(3, 4))]
    settings = Settings(
        run={"num_steps": 4, "dir": folder},
        problems={"train": [write(folder.parent / "train.jsonl", range(7))], "evaluation": {"low": low, "high": high}},
        generator={"num_generations": 2, "num_generators": 2, "max_num_seqs": 4},
        learner={"batch_size": 4, "fetch_timeout_s": 900.0},
        buffer={"capacity": 24, "refresh_every": 2, "max_off_policy_versions": 1},
        evaluation={"every": 2, "num_samples": 2, "ks": (1, 2)},
    )
    sets = load_problem_sets(settings.problems)
    said = io.StringIO()
    progress = Progress(4, Console(file=said, width=400))
    with RunFolder.create(folder, settings, sets.by_id) as run_folder:

        def emit(event: Event) -> None:
            run_folder.emit(event)
            progress.emit(event)

        controller = start_controller(Cluster(0, {}), settings, sets.train, emit, sets.held_out, sets.evaluation_sets)

        async def train() -> None:
            await controller.learner.start(None)
            await controller.generators.start()
            await controller.evaluate()
            await controller.run()
            await controller.evaluate()
            await controller.generators.close()

        run_virtually(train())
    (folder / "said.txt").write_text(said.getvalue())
    return folder


def test_every_evaluation_has_both_sets(run: Path) -> None:
    rows = read_rows(run / "evaluations.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert [row["pass@1"] for row in rows] == [
        {"all": pytest.approx(1 / 3), "low": 0.5, "high": 0.0},
        {"all": pytest.approx(2 / 3), "low": 1.0, "high": 0.5},
        {"all": 1.0, "low": 1.0, "high": 1.0},
    ]
    for row in rows:
        assert row["intervals"]["pass@2"].keys() == row["pass@2"].keys() == {"all", "low", "high"}
        assert {name: one["task_ids"] for name, one in row["sets"].items()} == {
            "low": ["low/1", "low/2"],
            "high": ["low/2", "high/3"],
        }
        assert row["problems"] == "; ".join(f"{name}: {one['problems']}" for name, one in row["sets"].items())
        assert (row["num_problems"], row["num_samples"]) == (3, 6)  # the shared problem is sampled once


def test_the_progress_line_names_each_set(run: Path) -> None:
    first, *_ = (run / "said.txt").read_text().splitlines()
    assert first == (
        "step 0: held-out low pass@1 50.0% [0.0%, 100.0%], pass@2 50.0% [0.0%, 100.0%]; "
        "high pass@1 0.0% [0.0%, 0.0%], pass@2 0.0% [0.0%, 0.0%]"
    )


def test_the_summary_has_a_row_for_each_set(run: Path) -> None:
    said = io.StringIO()
    print_summary(run, [], 1.0, Console(file=said, width=120))
    assert "Held-out problems (3), 95 % intervals" in said.getvalue()
    rows = [line.replace("│", " ").split() for line in said.getvalue().splitlines() if "pass@" in line]
    assert [row[:3] for row in rows] == [
        ["low", "(2)", "pass@1"],
        ["low", "(2)", "pass@2"],
        ["high", "(2)", "pass@1"],
        ["high", "(2)", "pass@2"],
    ]
    assert [row[-2] for row in rows] == ["+50.0", "+50.0", "+100.0", "+100.0"]


def test_runs_are_compared_set_by_set(run: Path) -> None:
    low, high = comparison_table([run]).split("**high**")
    assert low.startswith("**low**\n\n| run |")
    assert "Mean gain from training, over 1 seeds: 50.0 points" in low
    assert "| 0.0 % [0.0, 0.0] | 100.0 % [100.0, 100.0] | +100.0 |" in high
    assert "Mean gain from training, over 1 seeds: 100.0 points" in high
