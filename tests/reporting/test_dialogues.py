"""Samples with several turns in the report."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rltf.files import read_rows
from rltf.reporting.command import main
from rltf.reporting.report import MAX_FEEDBACK, MAX_PROGRAM
from rltf.reporting.run_folder import RunFolder
from rltf.settings import Settings
from scripts.browser import CHROMIUM, Browser
from tests.reporting.pages import Page
from tests.reporting.runs import (
    PROBLEMS,
    add_turns,
    failed_sample,
    passed_sample,
    step_event,
    step_row,
    turn_row,
    wrong_sample,
)

HOSTILE = "Output:\n    </script><script>document.title = 'taken'</script></template><!-- <img src=x onerror=alert(1)>"
CRASHED = "def total(xs):\n    y = 0\n    return y + z\n"
SUMMED = "def total(xs):\n    return sum(xs)"
REPAIRED = [
    turn_row(CRASHED, "runtime_error", feedback=HOSTILE, weight=-0.3),
    turn_row("def total(xs):\n    return max(xs)", "failed", feedback="Wrong value.", weight=-0.1),
    turn_row(SUMMED, "passed", weight=0.5),
]
NOT_REPAIRED = [
    turn_row("n = int(input())\nprint(1)\n", "failed", feedback="Wrong.", weight=-0.1),
    turn_row("n = int(input())\nprint(n * m)  # </script><b>\n", "runtime_error", weight=-0.1),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with a dialogue that repaired its program, one that did not, and a sample of one turn."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with RunFolder.create(path, Settings(), PROBLEMS) as folder:
        folder.samples(1, [passed_sample(), failed_sample(), wrong_sample()])
        add_turns(path / "samples" / "refresh-000001.jsonl", {0: REPAIRED, 1: NOT_REPAIRED})
    return path / "report.html"


def test_a_dialogue_has_its_earlier_turns_and_the_sample_is_the_last(report: Path) -> None:
    repaired, not_repaired, single = Page(report).data["samples"]
    assert [sample["dialogue"] for sample in (repaired, not_repaired, single)] == [
        "repaired",
        "not repaired",
        "one turn",
    ]
    first, second = repaired["earlier"]
    assert (first["outcome"], second["outcome"], repaired["outcome"]) == ("runtime_error", "failed", "passed")
    assert first["tokens"] == REPAIRED[0]["tokens"]
    assert second["feedback"] == "Wrong value."
    assert single["earlier"] == []
    assert report.read_text().count("Sure:") == 0  # the page has programs, not completions


def test_text_of_programs_stays_data(report: Path) -> None:
    page = Page(report)
    assert page.data["samples"][0]["earlier"][0]["feedback"] == HOSTILE
    assert [tag for tag, _ in page.elements].count("script") == 3
    assert not {"img", "template"} & {tag for tag, _ in page.elements}


def test_long_turns_are_cut(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", Settings(), PROBLEMS) as folder:
        folder.samples(1, [passed_sample()])
        long = turn_row("x = 1\n" * MAX_PROGRAM, "failed", feedback="f" * 2 * MAX_FEEDBACK)
        add_turns(tmp_path / "run" / "samples" / "refresh-000001.jsonl", {0: [long, REPAIRED[-1]]})
    (sample,) = Page(tmp_path / "run" / "report.html").data["samples"]
    (turn,) = sample["earlier"]
    assert sum(len(text) for text, _ in turn["tokens"][:-1]) <= MAX_PROGRAM
    assert turn["tokens"][-1][0] == " ... the rest is not shown"
    assert turn["feedback"] == "f" * MAX_FEEDBACK + " ... the rest is not shown"


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"outcome": "pased"}, "turns: 1: outcome: "),
        ({"feedback": ["a"]}, "turns: 1: feedback: "),
        ({"tokens": [["a"]]}, "turns: 1: tokens: 0: 1: "),
    ],
)
def test_a_damaged_turn_is_one_message(
    damage: dict[str, object], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunFolder.create(tmp_path / "run", Settings(), PROBLEMS) as folder:
        folder.samples(1, [failed_sample(), passed_sample()])
    turns = [REPAIRED[0], REPAIRED[1] | damage, REPAIRED[2]]
    add_turns(tmp_path / "run" / "samples" / "refresh-000001.jsonl", {1: turns})
    assert main([str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"refresh-000001.jsonl:2: {complaint}" in error
    assert "the file is damaged: restore it from a copy" in error


def test_charts_of_turns_need_rows_that_have_them(tmp_path: Path) -> None:
    pages = {}
    for name, extra in (("one", {}), ("several", {"turns_mean": 1.75, "pass_rate_first": 0.25})):
        with RunFolder.create(tmp_path / name, Settings(), PROBLEMS) as folder:
            folder.metrics(step_row(60) | extra)
        pages[name] = Page(tmp_path / name / "report.html")
    titles = {name: {chart["title"] for chart in page.data["charts"]} for name, page in pages.items()}
    assert titles["several"] - titles["one"] == {"Pass rate over turns", "Turns of a sample"}
    rates = pages["several"].last_values("Pass rate over turns")
    assert rates == {"after the first turn": 0.25, "after the last turn": pytest.approx(0.8, abs=0.01)}
    assert pages["several"].last_values("Turns of a sample") == {"mean": 1.75}


def test_rows_have_turns_only_if_samples_can_have_several(tmp_path: Path) -> None:
    single = step_event(1)
    several = replace(single, metrics=replace(single.metrics, step=2, turns_mean=1.5, pass_rate_first=0.25))
    with RunFolder.create(tmp_path / "run", Settings(), PROBLEMS) as folder:
        folder.emit(single)
        folder.emit(several)
    first, second = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert second.keys() - first.keys() == {"turns_mean", "pass_rate_first"}
    assert (second["turns_mean"], second["pass_rate_first"]) == (1.5, 0.25)


def random_programs(number: int) -> list[tuple[list[str], list[str]]]:
    rng = random.Random(number)
    return [
        ([rng.choice("abc") for _ in range(rng.randint(1, 9))], [rng.choice("abc") for _ in range(rng.randint(1, 9))])
        for _ in range(number)
    ]


def longest_common(before: Sequence[str], after: Sequence[str]) -> int:
    """The length of a longest common subsequence, from its definition."""
    if not before or not after:
        return 0
    if before[0] == after[0]:
        return 1 + longest_common(before[1:], after[1:])
    return max(longest_common(before[1:], after), longest_common(before, after[1:]))


COMPARED = """(() => {
  const code = codeOf({ tokens: [[%s.join("\\n"), 0]] });
  compare(%s, code);
  return [...code.children].map((row) => [row.className, row.textContent]);
})()"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (`apt-get install chromium`)")
def test_a_browser_shows_dialogues_and_what_each_turn_changed(report: Path, tmp_path: Path) -> None:
    async def look() -> None:
        async with Browser.start(tmp_path) as browser:

            async def texts(selector: str) -> list[str]:
                found = f"[...document.querySelectorAll({selector!r})].map((one) => one.innerText)"
                return list(await browser.value(found))

            async def choose(name: str, value: str) -> None:
                await browser.value(
                    f"byId('{name}').value = '{value}'; byId('{name}').dispatchEvent(new Event('change'))"
                )

            await browser.open(report.as_uri(), width=1280)
            assert len(await texts(".program")) == 3
            assert len(await texts(".turn")) == 5
            assert await browser.value("document.title") != "taken"

            await choose("dialogue", "repaired")
            assert await texts(".turn h3") == [
                "Turn 1\nexamples\nruntime error", "Turn 2\nexamples\nfailed", "Turn 3\nall tests\npassed"
            ]  # fmt: skip
            assert await texts("blockquote") == [HOSTILE, "Wrong value."]
            assert await browser.value("document.querySelectorAll('blockquote *').length") == 0
            assert "3 turns" in (await texts(".program header"))[0]
            assert await browser.value("document.querySelectorAll('.turn')[0].innerHTML.includes('--bad')")

            assert await texts(".row.removed") == []
            await browser.value("byId('changes').click()")
            assert await texts(".turn:nth-of-type(2) .row.removed") == ["    y = 0", "    return y + z"]
            assert await texts(".turn:nth-of-type(2) .row.added") == ["    return max(xs)"]
            assert await texts(".turn:nth-of-type(3) .row.added") == ["    return sum(xs)"]
            await choose("dialogue", "not repaired")
            assert await texts(".row.added") == ["print(n * m)  # </script><b>"]
            await browser.value("byId('changes').click()")
            assert await browser.value("getComputedStyle(document.querySelector('.row.removed')).display") == "none"

            await choose("dialogue", "")
            await browser.value("byId('search').value = 'return y + z'; applyFilters()")
            assert await browser.value("byId('found').textContent") == "1 of 3 programs"

            await browser.open(report.as_uri(), width=390)
            assert await browser.value("document.documentElement.scrollWidth") == 390

            for before, after in random_programs(100):
                rows = await browser.value(COMPARED % (json.dumps(after), json.dumps(before)))
                assert [text for kind, text in rows if "removed" not in kind] == after
                assert [text for kind, text in rows if "added" not in kind] == before
                assert sum(kind == "row" for kind, _ in rows) == longest_common(before, after)

    asyncio.run(look())
