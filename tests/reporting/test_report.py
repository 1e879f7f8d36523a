import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rltf.reporting.command import main
from rltf.reporting.run_folder import RunFolder
from rltf.settings import Settings
from scripts.browser import CHROMIUM, Browser
from tests.reporting.pages import Page
from tests.reporting.runs import (
    PROBLEMS,
    evaluated,
    evaluation_row,
    failed_sample,
    passed_sample,
    step_row,
    wrong_sample,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    with RunFolder.create(path, Settings(), PROBLEMS) as folder:
        for step in range(1, 2001):
            folder.metrics(step_row(step, 2000))
        for step in (0, 1000, 2000):
            folder.evaluation(evaluation_row(step, 0.4 + step / 8000))
        for refresh in range(60):
            folder.samples(refresh, [failed_sample(), passed_sample(), wrong_sample()])
    return path / "report.html"


def test_it_asks_for_nothing_from_outside(report: Path) -> None:
    text = report.read_text()
    for tag, attributes in Page(report).elements:
        assert tag not in ("link", "img", "iframe", "object")
        assert not {"src", "href"} & attributes.keys()
    assert "url(" not in text
    assert "@import" not in text


def test_curves_are_averaged_and_have_their_intervals(report: Path) -> None:
    page = Page(report)
    axes = page.data["axes"]
    for chart in page.data["charts"]:
        for curve in chart["curves"]:
            axis = axes[curve["axis"]]
            assert len(curve["y"]) == len(axis["step"]) == len(axis["time"]) <= 1000
    assert axes[0]["step"][0] == 1.5  # 2000 updates, two to a point
    assert axes[0]["time"][-1] == pytest.approx(2000 * 5 / 60, rel=1e-3)
    pass_at_1, _ = page.chart("pass@k on starter:test")["curves"]
    assert (pass_at_1["y"][-1], pass_at_1["low"][-1], pass_at_1["high"][-1]) == pytest.approx((0.65, 0.6, 0.7))
    assert axes[pass_at_1["axis"]]["step"] == [0, 1000, 2000]
    assert axes[pass_at_1["axis"]]["time"][0] == 0
    assert "40 % before, at step 0" in report.read_text()


def test_training_pass_rate_is_that_of_several_updates(tmp_path: Path) -> None:
    """A single update of few samples may have no program that passes, whatever the run has learned."""
    with RunFolder.create(tmp_path / "run", Settings(), PROBLEMS) as folder:
        for step in range(1, 13):
            folder.metrics(step_row(step, 12) | {"pass_rate": 0.0 if step == 12 else 0.5, "reward_mean": -0.2})
    text = (tmp_path / "run" / "report.html").read_text()
    assert "<span>training pass rate</span><strong>45 %</strong>" in text
    assert "reward -0.200, over the last 10 updates" in text


def test_each_named_set_has_a_curve(tmp_path: Path) -> None:
    settings = Settings(problems={"evaluation": {"mbpp": "mbpp:a", "humaneval": "humaneval:b"}})
    with RunFolder.create(tmp_path / "run", settings, PROBLEMS) as folder:
        for step, mbpp, humaneval in ((0, 0.2, 0.3), (5, 0.6, 0.4)):
            folder.emit(evaluated(step, 0.5, mbpp=mbpp, humaneval=humaneval))
    path = tmp_path / "run" / "report.html"
    page = Page(path)
    assert [chart["title"] for chart in page.data["charts"]] == ["pass@k on mbpp", "pass@k on humaneval"]
    for title, note, values in (("mbpp", "mbpp:a. ", [0.2, 0.6]), ("humaneval", "humaneval:b. ", [0.3, 0.4])):
        chart = page.chart(f"pass@k on {title}")
        assert chart["note"].startswith(note)
        (curve,) = chart["curves"]
        assert curve["y"] == values
        assert curve["low"] == pytest.approx([value - 0.05 for value in values])
        assert page.data["axes"][curve["axis"]]["step"] == [0, 5]
    assert "<span>pass@1 on humaneval</span><strong>40 %</strong>" in path.read_text()
    assert "30 % before, at step 0" in path.read_text()


def test_an_evaluation_without_one_of_its_sets_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(problems={"evaluation": {"mbpp": "mbpp:a"}})
    with RunFolder.create(tmp_path / "run", settings, PROBLEMS) as folder:
        folder.emit(evaluated(1, 0.5, mbpp=0.6))
    rows = tmp_path / "run" / "evaluations.jsonl"
    rows.write_text(rows.read_text().replace('"mbpp": 0.6', '"humaneval": 0.6'))
    assert main([str(tmp_path / "run")]) == 2
    assert (
        "evaluations.jsonl:1: Value error, pass@1: expected a number and an interval for mbpp"
        in capsys.readouterr().err
    )


def test_program_text_stays_data(report: Path) -> None:
    samples = Page(report).data["samples"]
    assert {sample["outcome"] for sample in samples} == {"passed", "runtime_error", "failed"}
    assert any("</script><b>" in text for text, _ in samples[0]["tokens"])


def test_programs_come_from_the_whole_run_the_newest_first(report: Path) -> None:
    refreshes = [sample["refresh"] for sample in Page(report).data["samples"]]
    assert refreshes == sorted(refreshes, reverse=True)
    assert refreshes[0] == 59
    assert refreshes[-1] < 10
    assert len(set(refreshes)) <= 24


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_programs_with_error_and_penalized_tokens(report: Path, tmp_path: Path) -> None:
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--dump-dom",
    ]
    dom = subprocess.run([*command, report.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    assert dom.count('class="program"') == 10
    assert re.search(r'class="row error" data-line="2"', dom)
    assert "<summary>What came out</summary><pre>2</pre>" in dom
    assert "rgba(var(--bad)" in dom
    assert "NameError in line 2" in dom
    assert "expected output:" in dom


def test_the_command_writes_it_again(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.unlink()
    assert main([str(report.parent)]) == 0
    assert capsys.readouterr().out.strip() == str(report)
    assert report.is_file()


def test_help_and_report_load_no_heavy_library(report: Path) -> None:
    code = (
        "import sys; from rltf.reporting.command import main; main(sys.argv[1:2])\n"
        "try: main(['--help'])\n"
        "except SystemExit: assert not {'ray', 'torch', 'vllm', 'transformers', 'matplotlib'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code, str(report.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: rltf report" in done.stdout


def test_a_new_run_has_a_report(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", Settings(), PROBLEMS).close()
    assert "Nothing has been measured yet" in (tmp_path / "run" / "report.html").read_text()


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_each_stage_has_its_charts(report: Path) -> None:
    page = Page(report)
    assert page.last_values("Token throughput") == {"sampled": 3200, "trained on": 3400}
    assert page.last_values("Grading throughput") == {"tests run": 250, "programs graded": 50}
    assert page.last_values("Completion length") == {"mean": 64}
    assert page.last_values("Wasted samples") == {"truncated completions": 0.02, "groups without a signal": 0.25}
    assert page.last_values("Learning rate")["learning rate"] < 1e-6
    assert 0.6 <= page.last_values("Gradient norm")["gradient norm"] <= 1
    staleness = page.last_values("Staleness of the samples trained on")
    assert staleness == pytest.approx({"0": 0.391, "1": 0.547, "2": 0.0625}, abs=1e-3)
    assert page.chart("Staleness of the samples trained on")["stacked"]
    times = page.last_values("Where the learner's time goes")
    assert sum(times.values()) == pytest.approx(1, abs=1e-4)
    assert times["waiting for samples"] == pytest.approx(0.087, abs=1e-3)
    assert page.last_values("Samples dropped so far") == pytest.approx({"stale": 5998.5, "lost": 1}, abs=1)
    assert "0 grader errors; namespaces" in report.read_text()
    assert "Update 2000 of 5000." in report.read_text()


def test_fields_that_a_run_lacks_have_no_chart(tmp_path: Path) -> None:
    row = step_row(1)
    for name in ("num_groups", "num_silent_groups", "num_truncated", "learning_rate"):
        del row[name]
    with RunFolder.create(tmp_path / "run", Settings(), PROBLEMS) as folder:
        folder.metrics(row)
    titles = [chart["title"] for chart in Page(tmp_path / "run" / "report.html").data["charts"]]
    assert "Gradient norm" in titles
    assert "Learning rate" not in titles
    assert "Wasted samples" not in titles


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs, one of them half as long."""
    runs = tmp_path_factory.mktemp("compared")
    for name, num_steps in (("long", 40), ("short", 20)):
        settings = Settings(run={"name": name, "seed": num_steps})
        with RunFolder.create(runs / name, settings, PROBLEMS) as folder:
            for step in range(1, num_steps + 1):
                folder.metrics(step_row(step, num_steps))
            folder.evaluation(evaluation_row(num_steps, 0.5))
            folder.samples(1, [passed_sample()])
    output = runs / "both.html"
    arguments = ["report", str(runs / "long"), str(runs / "short"), "--output", str(output)]
    assert main([*arguments, "--smoothing", "0.5", "--axis", "time"]) == 0
    return output


def test_several_runs_are_overlaid(comparison: Path) -> None:
    page = Page(comparison)
    curves = page.chart("Reward and pass rate in training")["curves"]
    assert [curve["name"] for curve in curves] == ["long reward", "long pass rate", "short reward", "short pass rate"]
    assert len({curve["color"] for curve in curves}) == 2
    assert [len(curve["y"]) for curve in curves] == [40, 40, 20, 20]
    assert not page.chart("Outcomes of the programs trained on")["stacked"]
    assert len(page.chart("pass@k on starter:test")["curves"]) == 4
    assert (page.data["smoothing"], page.data["axis"]) == (0.5, "time")
    assert {sample["run"] for sample in page.data["samples"]} == {"long", "short"}
    assert "<tr><td>run.seed</td><td>40</td><td>20</td></tr>" in comparison.read_text()
    assert "learner.batch_size</td>" not in comparison.read_text()  # equal in both


def test_chosen_metrics_are_drawn_alone(comparison: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["report", str(comparison.parent / "long"), "--output", str(comparison.with_name("chosen.html"))]
    assert main([*arguments, "--metrics", "ratio_max", "outcomes.passed"]) == 0
    charts = Page(comparison.with_name("chosen.html")).data["charts"]
    assert [chart["title"] for chart in charts] == ["ratio_max", "outcomes.passed"]
    assert main([*arguments, "--metrics", "ratio_maxx"]) == 2
    assert "--metrics ratio_maxx: no run has this number" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_controls_smooth_zoom_choose_and_share(comparison: Path, tmp_path: Path) -> None:
    async def look() -> None:
        async with Browser.start(tmp_path) as browser:

            async def set_control(name: str, value: str) -> None:
                await browser.value(
                    f"byId('{name}').value = '{value}'; byId('{name}').dispatchEvent(new Event('input'))"
                )

            await browser.open(comparison.as_uri(), width=1280)
            assert await browser.value("plots[0].axes[0].label") == "minutes of training"
            await set_control("axis", "step")
            assert await browser.value("plots[0].axes[0].label") == "updates"
            await set_control("filter", "Gradient")
            assert await browser.value("plots.length") == 1
            spread = "Math.max(...plots[0].data[1]) - Math.min(...plots[0].data[1])"
            await set_control("smoothing", "0")
            rough = await browser.value(spread)
            await set_control("smoothing", "0.95")
            assert await browser.value(spread) < rough / 2
            await set_control("filter", "")
            await set_control("to", "50")
            zoomed = "plots.every((plot) => plot.scales.x.max < 21 && plot.scales.x.max > 19)"
            await browser.until(zoomed)
            await set_control("search", "total(xs)")
            assert await browser.value("byId('found').textContent") == "2 of 2 programs"
            await set_control("search", "no such text")
            assert await browser.value("byId('programs').childElementCount") == 0
            await set_control("search", "")
            await browser.value("document.querySelectorAll('.program a')[1].click()")
            await browser.until("byId('programs').childElementCount === 1")
            shared = await browser.value("location.href")
            assert "#sample-short" in shared
            await browser.open("about:blank", width=1280)
            await browser.open(shared, width=1280)
            assert await browser.value("byId('found').textContent") == "1 of 2 programs"

    asyncio.run(look())


def test_it_is_written_during_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.create(tmp_path / "run", Settings(), PROBLEMS) as folder:
        folder.metrics(step_row(1))
        folder.samples(1, [failed_sample()])
        assert "Update 1 of" in (folder.path / "report.html").read_text()
        folder.metrics(step_row(2))
        folder.samples(2, [failed_sample()])
        assert "Update 1 of" in (folder.path / "report.html").read_text()  # too recent to be written again
        monkeypatch.setattr("rltf.reporting.run_folder.REPORT_EVERY_S", 0.0)
        folder.evaluation(evaluation_row(2, 0.5))
        assert "Update 2 of" in (folder.path / "report.html").read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_it_fits_a_phone_and_has_a_dark_mode(report: Path, tmp_path: Path) -> None:
    async def look() -> tuple[int, list[str]]:
        backgrounds = []
        async with Browser.start(tmp_path) as browser:
            for dark in (False, True):
                await browser.open(report.as_uri(), width=390, dark=dark)
                backgrounds.append(await browser.value("getComputedStyle(document.body).backgroundColor"))
            return int(await browser.value("document.documentElement.scrollWidth")), backgrounds

    width, backgrounds = asyncio.run(look())
    assert width == 390
    light, dark = (sum(map(int, re.findall(r"\d+", color))) for color in backgrounds)
    assert light > 600 > 150 > dark
