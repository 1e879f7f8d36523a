import json
import math
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rltf.controller.events import Evaluated, Refreshed, Rewound
from rltf.errors import UserError
from rltf.files import RowWriter, read_rows
from rltf.reporting.run_folder import RunFolder
from rltf.settings import Settings
from tests.reporting.runs import (
    PROBLEMS,
    evaluated,
    evaluation_result,
    evaluation_row,
    failed_sample,
    step_event,
    step_row,
    wrong_sample,
)

# Every row of metrics.jsonl has these fields; other programs rely on them.
# fmt: off
STEP_FIELDS = frozenset({
    "step", "weights_version", "loss", "loss_sl", "loss_coarse", "loss_fine", "loss_adaptive", "reward_mean",
    "pass_rate", "outcomes", "staleness_mean", "staleness_max", "tokens_per_s", "buffer_size", "seconds",
})
# fmt: on
SETTINGS = Settings()


def test_a_run_writes_every_promised_file(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", SETTINGS, PROBLEMS) as folder:
        folder.metrics(step_row(1))
        folder.evaluation(evaluation_row(1, 0.5))
        folder.samples(1, [failed_sample(), wrong_sample()])
    assert Settings(**yaml.safe_load((folder.path / "settings.yaml").read_text())) == SETTINGS
    assert read_rows(folder.path / "metrics.jsonl") == [step_row(1)]
    assert read_rows(folder.path / "evaluations.jsonl") == [evaluation_row(1, 0.5)]
    sample, wrong = read_rows(folder.path / "samples" / "refresh-000001.jsonl")
    assert sample["outcome"] == "runtime_error"
    assert sample["failing_test"] == "input:\n5\nexpected output:\n10"
    assert "".join(text for text, _ in sample["tokens"]) == sample["program"]
    assert sample["completion"] == f"Sure:\n{sample['program']}"
    assert (wrong["failing_test"], wrong["actual"]) == ("total([1, 2]) == 3", "2")
    assert (folder.path / "report.html").is_file()


def test_events_become_rows(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", SETTINGS, PROBLEMS) as folder:
        folder.emit(Refreshed(1, (failed_sample(),), 0.5))
        folder.emit(Evaluated(0, evaluation_result(0.4), {"sum/1": 2}))
        for step in (1, 2, 3):
            folder.emit(step_event(step))
        folder.emit(Rewound(2, "the learner died"))
        folder.emit(Refreshed(2, (), 0.25))
        folder.emit(step_event(3))
    rows = read_rows(folder.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row.keys() >= STEP_FIELDS for row in rows)
    assert [row["publish_s"] for row in rows] == [0.5, 0.0, 0.25]
    assert rows[0]["num_tests"] == 1250
    assert rows[0]["elapsed_s"] >= 0
    (evaluation,) = read_rows(folder.path / "evaluations.jsonl")
    assert evaluation["pass@1"] == {"all": 0.4}
    assert evaluation["num_passed"] == {"sum/1": 2}
    assert json.loads((folder.path / "ledger.json").read_text())["step"] == 3
    assert len(read_rows(folder.path / "samples" / "refresh-000001.jsonl")) == 1


def test_named_sets_are_in_the_row_and_have_curves(tmp_path: Path) -> None:
    settings = Settings(problems={"evaluation": {"mbpp": ["mbpp:a", "mbpp:b"], "humaneval": "humaneval:c"}})
    with RunFolder.create(tmp_path, settings, PROBLEMS) as folder:
        folder.emit(evaluated(2, 0.5, mbpp=0.6, humaneval=0.3))
    (row,) = read_rows(tmp_path / "evaluations.jsonl")
    assert row["problems"] == "mbpp: mbpp:a, mbpp:b; humaneval: humaneval:c"
    assert row["pass@1"] == {"all": 0.5, "mbpp": 0.6, "humaneval": 0.3}
    assert row["sets"]["mbpp"] == {"problems": "mbpp:a, mbpp:b", "task_ids": ["mbpp/1", "mbpp/2"]}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    curves = [events.Scalars(f"evaluation/pass_at_1/{name}")[0].value for name in ("mbpp", "humaneval")]
    assert curves == pytest.approx([0.6, 0.3])


def test_rows_are_on_disk_as_soon_as_they_are_written(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, SETTINGS, PROBLEMS)
    folder.metrics(step_row(1))
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1]
    folder.close()


def test_numbers_reach_tensorboard(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, SETTINGS, PROBLEMS) as folder:
        folder.metrics(step_row(1))
        folder.metrics(step_row(2))
        folder.evaluation(evaluation_row(2, 0.5))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/reward_mean")] == [1, 2]
    assert events.Scalars("evaluation/pass_at_1/all")[0].value == 0.5
    assert "train/outcomes/passed" in events.Tags()["scalars"]


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", SETTINGS, PROBLEMS).close()
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(UserError, match=r"not empty.*--resume"):
        RunFolder.create(tmp_path / "run", SETTINGS, PROBLEMS)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty") as caught:
        RunFolder.create(tmp_path, SETTINGS, PROBLEMS)
    assert "--resume" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_path_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        RunFolder.create(tmp_path / "file" / "run", SETTINGS, PROBLEMS)


def test_resume_drops_later_rows(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, SETTINGS, PROBLEMS) as folder:
        for step in range(1, 8):
            folder.metrics(step_row(step))
        folder.evaluation(evaluation_row(5, 0.5))
        folder.evaluation(evaluation_row(7, 0.6))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    with RunFolder.resume(tmp_path, SETTINGS, PROBLEMS, step=5) as folder:
        folder.metrics(step_row(6))
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in read_rows(tmp_path / "evaluations.jsonl")] == [5]


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no settings\.yaml"):
        RunFolder.resume(tmp_path, SETTINGS, PROBLEMS, step=0)


def test_nan_and_infinity_become_null(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path / "rows.jsonl")
    writer.write_row({"a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf}})
    writer.close()
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {"a": None, "b": [None, 1.0], "c": {"d": None}}


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\nnonsense\n')
    with pytest.raises(UserError, match=r"rows\.jsonl:2"):
        read_rows(tmp_path / "rows.jsonl")
