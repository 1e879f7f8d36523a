from pathlib import Path

import pytest
from matplotlib.image import imread

from rltf.files import RowWriter
from rltf.reporting.command import main
from rltf.reporting.run_folder import RunFolder
from rltf.settings import Settings
from tests.reporting.runs import PROBLEMS, evaluated, evaluation_row


def run_folder(path: Path, gain: float, steps: tuple[int, ...] = (0, 20, 40)) -> str:
    path.mkdir()
    writer = RowWriter(path / "evaluations.jsonl")
    for step in steps:
        writer.write_row(evaluation_row(step, 0.4 + gain * step))
    writer.close()
    return str(path)


def test_groups_are_drawn_on_a_transparent_background(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / f"rl-{seed}", 0.01 + 0.001 * seed) for seed in range(3)]
    control = run_folder(tmp_path / "control", 0.0)
    output = tmp_path / "images" / "curve.png"
    assert main(["figure", "--group", "RL", *runs, "--group", "control", control, "--output", str(output)]) == 0
    picture = imread(output)
    assert picture[0, 0, 3] == 0  # transparent, for white and dark pages
    assert len({tuple(pixel) for pixel in picture[::4, ::4].reshape(-1, 4).round(1)}) > 5


def test_labels_show_the_number_of_seeds(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / f"rl-{seed}", 0.01) for seed in range(2)]
    output = tmp_path / "curve.svg"
    main(["figure", "--group", "RL", *runs, "--output", str(output)])
    assert "RL, mean of 2 seeds" in output.read_text()


def test_a_named_set_is_drawn_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(problems={"evaluation": {"mbpp": "mbpp:a", "humaneval": "humaneval:b"}})
    with RunFolder.create(tmp_path / "run", settings, PROBLEMS) as folder:
        for step in (0, 20):
            folder.emit(evaluated(step, 0.5, mbpp=0.9, humaneval=0.1))
    output = tmp_path / "curve.svg"
    arguments = ["figure", "--group", "RL", str(folder.path), "--output", str(output), "--set"]
    assert main([*arguments, "humaneval"]) == 0
    assert "humaneval pass@1, %" in output.read_text()
    assert main([*arguments, "apps"]) == 2
    assert "has no evaluation of pass@1 on apps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: [], "name at least one run folder"),
        (lambda folder: [str(folder / "missing")], "has no evaluation of pass@1"),
        (lambda folder: [run_folder(folder / "a", 0.1), run_folder(folder / "b", 0.1, (0, 30))], "at different steps"),
    ],
)
def test_unusable_groups_are_refused(
    tmp_path: Path, make: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(make)
    assert main(["figure", "--group", "RL", *make(tmp_path), "--output", str(tmp_path / "x.png")]) == 2
    assert message in capsys.readouterr().err
