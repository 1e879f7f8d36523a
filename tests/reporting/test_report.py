import asyncio
import html
import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from reporting import RunFolder
from reporting.__main__ import main
from reporting.charts import Series, line_chart, percent
from scripts.browser import CHROMIUM, Browser
from settings import Settings
from tests.reporting.runs import PROBLEMS, evaluation_row, failed_sample, passed_sample, step_row


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    with RunFolder.create(path, Settings()) as folder:
        for step in range(1, 1001):
            folder.metrics(step_row(step, 1000))
        for step in (0, 500, 1000):
            folder.evaluation(evaluation_row(step, 0.4 + step / 4000))
        for refresh in range(60):
            folder.samples(refresh, [failed_sample(), passed_sample()], PROBLEMS)
    return path / "report.html"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.samples = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][1].get("id") == "samples":
            self.samples += data


def test_it_asks_for_nothing_from_outside(report: Path) -> None:
    text = report.read_text()
    for tag, attributes in Page(text).tags:
        assert tag not in ("link", "img", "iframe", "object")
        assert not {"src", "href"} & attributes.keys()
    assert "url(" not in text
    assert "@import" not in text


def test_curves_are_thinned_and_shown_with_their_intervals(report: Path) -> None:
    text = report.read_text()
    assert text.count("<figure") >= 8
    assert 'class="band"' in text
    longest = max(len(re.findall("[ML]", path)) for path in re.findall(r'class="line"[^>]* d="([^"]*)"', text))
    assert 100 < longest <= 300
    assert "65 %" in text  # pass@1 at the end
    assert "40 % before, at step 0" in text


def test_program_text_stays_data(report: Path) -> None:
    samples = json.loads(Page(report.read_text()).samples)
    assert {sample["outcome"] for sample in samples} == {"passed", "runtime_error"}
    assert any("</script><b>" in text for text, _ in samples[0]["tokens"])


def test_programs_of_the_whole_run_the_newest_first(report: Path) -> None:
    refreshes = [sample["refresh"] for sample in json.loads(Page(report.read_text()).samples)]
    assert refreshes == sorted(refreshes, reverse=True)
    assert refreshes[0] == 59
    assert refreshes[-1] < 10
    assert len(set(refreshes)) <= 24


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_programs_with_their_error_and_penalised_tokens(report: Path, tmp_path: Path) -> None:
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
    assert "rgba(var(--bad)" in dom
    assert "NameError in line 2" in dom
    assert "expected output:" in dom


def test_the_command_writes_it_anew(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.unlink()
    assert main([str(report.parent)]) == 0
    assert capsys.readouterr().out.strip() == str(report)
    assert report.is_file()


def test_a_run_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", Settings()).close()
    assert "Nothing has been measured yet" in (tmp_path / "run" / "report.html").read_text()


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def figure(text: str, title: str) -> dict[str, str]:
    """The last values that a chart shows under the pointer, by the name of their curve."""
    found = re.search(
        rf'<figure data-chart="([^"]*)"><figcaption>{re.escape(title)}</figcaption>(.*?)</figure>', text, re.S
    )
    assert found, title
    names = re.findall(r"</i>(.*?) <b>", found[2])
    shown = json.loads(html.unescape(found[1]))["series"]
    return {name: series["text"][-1] for name, series in zip(names, shown, strict=True)}


def test_an_axis_of_zeros_alone_is_readable() -> None:
    """As of a policy that solves nothing yet."""
    chart = line_chart("pass@1", [Series("pass@1", "a", [0, 8, 16], [0.0, 0.0, 0.0])], percent)
    labels = re.findall(r'text-anchor="end">([^<]*)<', chart)
    assert labels[0] == "0 %"
    assert labels[-1] == "100 %"


def test_each_stage_of_the_ring_has_its_charts(report: Path) -> None:
    text = report.read_text()
    assert figure(text, "Tokens per second") == {"sampled": "3.2k", "trained on": "3.4k"}
    assert figure(text, "Programs and tests per second") == {"tests run": "250", "programs graded": "50"}
    assert figure(text, "Staleness of the samples trained on") == {"0": "39.1 %", "1": "54.7 %", "2": "6.25 %"}
    assert figure(text, "Where the learner&#x27;s time goes")["waiting"] == "8.7 %"
    assert figure(text, "Samples dropped so far, by reason") == {"stale": "3k", "lost": "1"}
    assert "0 lost to the grader; namespaces" in text
    assert "Update 1000 of 5000." in text


def test_it_is_made_during_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.create(tmp_path / "run", Settings()) as folder:
        folder.metrics(step_row(1))
        folder.samples(1, [failed_sample()], PROBLEMS)
        assert "Update 1 of" in (folder.path / "report.html").read_text()
        folder.metrics(step_row(2))
        folder.samples(2, [failed_sample()], PROBLEMS)
        assert "Update 1 of" in (folder.path / "report.html").read_text()  # a moment old: not made at every occasion
        monkeypatch.setattr("reporting.run_folder.REPORT_EVERY_S", 0.0)
        folder.evaluation(evaluation_row(2, 0.5))
        assert "Update 2 of" in (folder.path / "report.html").read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_on_a_phone_nothing_is_wider_than_the_page_and_the_dark_is_dark(report: Path, tmp_path: Path) -> None:
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
