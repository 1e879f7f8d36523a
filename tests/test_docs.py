"""The documentation builds, needs no network, and its commands, settings, files and messages exist.

Each check returns complaints about a text. Tests with broken samples show that the checks find mistakes.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rltf import cli
from rltf.controller.model_checks import rate_warnings
from rltf.errors import UserError
from rltf.settings import PlanOptions, Settings
from rltf.settings.reference import leaf_fields
from rltf.settings_sources import SHORT_OPTIONS, load_settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

# The commands of the program, each with the words that run it. Subcommands come before their commands.
REPORTS = ("report", "compare", "figure")
PINNED: Mapping[str, tuple[str, ...]] = {
    "python launch.py": ("launch.py",),
    "python evaluate.py": ("evaluate.py",),
    "python -m sandbox grade": ("-m", "sandbox", "grade"),
    "python -m sandbox doctor": ("-m", "sandbox", "doctor"),
    "python -m rewards explain": ("-m", "rewards", "explain"),
    "python -m problems augment": ("-m", "problems", "augment"),
    **{f"python -m reporting {name}": ("-m", "reporting", name) for name in REPORTS},
    "python -m reporting": ("-m", "reporting", "report"),
}
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    **PINNED,
    **{f"rltf {name}": ("launch.py",) for name in ("train", "plan", "replay")},
    "rltf evaluate": ("evaluate.py",),
    "rltf show-prompt": ("-m", "rltf.cli", "show-prompt"),
    "rltf critic": ("-m", "rltf.cli", "critic"),
    "rltf train-repair": ("-m", "rltf.cli", "train-repair"),
    "rltf serve": ("-m", "rltf.cli", "serve"),
    "rltf decontaminate": ("-m", "rltf.cli", "decontaminate"),
    **{f"rltf {words[2]}": words for words in PINNED.values() if words[1:2] not in ((), ("reporting",))},
    **{f"rltf report {name}": ("-m", "reporting", name) for name in REPORTS},
    "rltf report": ("-m", "reporting", "report"),
    "rltf": ("-m", "rltf.cli"),
}
JOBS = ("python launch.py", *(f"rltf {name}" for name, command in cli.COMMANDS.items() if command.function is None))
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
SETTINGS = {".".join(path) for path in leaf_fields(Settings) | leaf_fields(PlanOptions, ("plan",))}
SECTIONS = {name.rpartition(".")[0] for name in SETTINGS} - {""}
SUFFIXES = ("json", "jsonl", "py", "yaml")
FENCED = r"^```\w*\n(.*?)^```"


# Tests


def test_every_fault_names_tests_that_exist() -> None:
    rows = [line.split("|") for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")]
    faults = [row for row in rows if row[1].strip() not in ("fault", "---")]
    assert len(faults) > 20
    for *_, named, _ in faults:
        files = re.findall(r"`([\w/]+\.py)`", named)
        assert files
        assert [file for file in files if not (ROOT / file).is_file()] == []


# Commands


def command_lines(text: str) -> Iterator[str]:
    """The lines of all code blocks, and all code spans. Continued lines are joined."""
    text = re.sub(r" *\\\n *", " ", text)
    for block in re.findall(FENCED, text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"^ {4,}(.+)$", text, re.MULTILINE)
    for span in re.findall(r"`([^`]+)`", re.sub(FENCED, "", text, flags=re.MULTILINE | re.DOTALL)):
        yield span.replace("\n", " ")


def commands(text: str) -> Iterator[list[str]]:
    """The words of all commands of this project: `python`, `rltf` and `make`, with or without a path."""
    for line in command_lines(text):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # prose or code in another language
        for part in " ".join(map(shlex.quote, words)).replace("'&&'", "\n").replace("'&'", "\n").splitlines():
            words = shlex.split(part)
            while words and re.fullmatch(r"[A-Z][A-Z_]*=\S*", words[0]):
                words.pop(0)
            if words and (name := words[0].removeprefix(".venv/bin/")) in ("python", "rltf", "make"):
                yield [name, *(re.sub(r"\$\w+", "0", word) for word in words[1:])]


@cache
def options_of(program: tuple[str, ...]) -> frozenset[str]:
    """The options in the help of a program."""
    helps = [["--help"], ["--help", "all"]] if program == ("launch.py",) else [["--help"]]
    text = ""
    for words in helps:
        done = subprocess.run(
            [sys.executable, *program, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        text += done.stdout
    return frozenset(re.findall(r"--[a-z](?:[a-z0-9_.-]*[a-z0-9_])?", text))


def bad_command(words: Sequence[str]) -> Iterator[str]:
    """What is wrong with a command."""
    line = shlex.join(words)
    for word in words:
        is_ours = re.match(r"(configs|deploy|benchmarks|examples|scripts|tests)/[\w./-]+$", word) and "NAME" not in word
        if is_ours and not (ROOT / word).exists():
            yield f"{line}: there is no {word}"
    if words[0] == "make":
        yield from bad_make(words[1:])
        return
    program = next((name for name in PROGRAMS if [*words[: len(name.split())]] == name.split()), None)
    if program is None:
        yield from bad_script(words)
        return
    arguments = words[len(program.split()) :]
    known = options_of(PROGRAMS[program])
    for word in arguments:
        if word.startswith("--") and (name := word.partition("=")[0]) not in known:
            yield f"{line}: {program} has no option {name}"
    if program == "rltf" and arguments and arguments[0] not in ("--help", "COMMAND"):
        yield f"{line}: rltf has no command {arguments[0]}"
    if program in JOBS:
        yield from bad_job(program, arguments)


def bad_job(program: str, arguments: Sequence[str]) -> Iterator[str]:
    """What is wrong with the settings of a job, unless they also depend on a run folder.

    A job that is submitted to another cluster has the same settings.
    """
    before = cli.COMMANDS[program.removeprefix("rltf ")].before if program.startswith("rltf ") else ()
    if {"...", "--help", "--resume", "--replay"} & {*before, *arguments}:
        return
    line = shlex.join([program, *arguments])
    try:
        settings, _ = load_settings([*before, *(re.sub("^(ray|http)://", "", word) for word in arguments)], {})
    except UserError as error:
        yield f"{line}: {error}"
    else:
        if settings.model.name != "tiny":
            yield from (f"{line}: {warning}" for warning in rate_warnings(settings))


def bad_make(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        name, is_variable, value = word.partition("=")
        if not is_variable and name not in TARGETS:
            yield f"make {name}: no such target"
        if name == "ARGS":
            yield from bad_command(["python", "launch.py", *shlex.split(value)])


def bad_script(words: Sequence[str]) -> Iterator[str]:
    """What is wrong with `python SCRIPT` or `python -m MODULE`. Its options must appear in its source."""
    if len(words) < 2 or words[0] != "python":
        return
    path = ROOT / (f"{words[2].replace('.', '/')}.py" if words[1] == "-m" and len(words) > 2 else words[1])
    top = path.relative_to(ROOT).parts[0]
    if not path.exists():
        if (ROOT / top).exists():
            yield f"{shlex.join(words)}: there is no {path.relative_to(ROOT)}"
        return
    for word in words[1:]:
        if word.startswith("--") and f'"{word.partition("=")[0]}"' not in path.read_text():
            yield f"{shlex.join(words)}: {path.name} has no option {word}"


def bad_commands(text: str) -> list[str]:
    return [complaint for words in commands(text) for complaint in bad_command(words)]


@pytest.mark.slow
@EVERY_PAGE
def test_commands_are_accepted(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert bad_commands(page.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "    rltf trian",
        "    rltf train --learner.learning_rate 1e-5",
        "    rltf train --run.num_steps many",
        "    rltf train --config configs/missing.yaml",
        "    rltf train --config configs/mbpp.yaml --model DIR",
        "    rltf train \\\n        --run.sead 1",
        "    for seed in 0 1; do\n        rltf train --run.sead $seed\n    done",
        "    rltf replay RUN_DIR --learner.kl_weight 0.1",
        "    rltf report compare --run runs/a",
        "    RLTF_RUN__SEED=1 python launch.py --modle tiny",
        "    cd ~/rltf && python launch.py --modle tiny",
        "```\npython evaluate.py --model DIR --ks 1\n```",
        "see `python -m sandbox grade --program FILE`",
        "see `python -m\nsandbox grade --program FILE`",
        "    python -m rewards explain ... --text --colour",
        "    make tests",
        "    make submit ARGS='--run.sead 1'",
        "    .venv/bin/python -m pytest tests/test_missing.py",
        "    PYTHONPATH=. .venv/bin/python benchmarks/bench_missing.py",
        "    .venv/bin/python -m benchmarks.chaos --seeds 1",
    ],
)
def test_wrong_commands_are_found(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert bad_commands(text)


def undocumented(text: str) -> list[str]:
    """The commands, make targets and options of a job that the text does not mention."""
    lines = [" ".join(words) + " " for words in commands(text)]
    # `python -m reporting NAME` is `rltf report NAME`, and `report` is its default.
    known = [name for name in PROGRAMS if not name.startswith("python -m reporting ") and name != "rltf report report"]
    names = [*known, *(f"make {name}" for name in TARGETS)]
    options = [f" {option} " for option in ("--config", "--dry-run", "--resume", "--replay", "--plan")]
    missing = [name for name in names if not any(line.startswith(f"{name} ") for line in lines)]
    return missing + [option.strip() for option in options if not any(option in line for line in lines)]


def test_every_command_is_documented() -> None:
    assert undocumented("\n".join(page.read_text() for page in PAGES)) == []


def test_missing_commands_are_found() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for command in ("rltf grade", "make chaos", "rltf report figure", "--replay"):
        assert undocumented(text.replace(command, "true")) == [command]


# Settings


def bad_settings(text: str) -> list[str]:
    """Names of settings and variables that do not exist."""
    known = SETTINGS | SECTIONS | {option[2:] for options in SHORT_OPTIONS.values() for option in options}
    known_variables = {f"RLTF_{name.replace('.', '__').upper()}" for name in SETTINGS} | {"RLTF_SECTION__FIELD"}
    tops = {name.partition(".")[0] for name in SECTIONS}
    names = re.findall(r"`(?:--)?([a-z_]+(?:\.[a-z_][a-z0-9_]*)+)(?:[:=]? ?[^`\s]+)?`", text)
    names = [name for name in names if name.partition(".")[0] in tops and name.rpartition(".")[2] not in SUFFIXES]
    complaints = [f"{name}: no such setting" for name in names if name not in known]
    variables = re.findall(r"\bRLTF_[A-Z_]*[A-Z]", text)
    return complaints + [f"{name}: no such variable" for name in variables if name not in known_variables]


# The generated page of all settings also lists their old names.
@EVERY_PAGE
def test_settings_exist(page: Path) -> None:
    text = page.read_text().partition("## Names from earlier versions")[0]
    assert bad_settings(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "raise `buffer.max_staleness`",
        "with `generator.on_updates: keep`",
        "`--learner.kl_weight 0.1`",
        "`rewards.preset`",
        "`model.lora.ranks`",
        "`RLTF_RUN__SEAD=1`",
    ],
)
def test_wrong_settings_are_found(text: str) -> None:
    assert bad_settings(text)


# Links, messages, files


def bad_links(page: Path, text: str) -> list[str]:
    """Relative links, images and names of files that do not exist."""
    targets = [page.parent / target for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)]
    named = re.findall(r"`([a-z]+/[\w./-]+|[a-z][\w-]*\.(?:py|yaml))`", text)
    ours = [name for name in named if "/" not in name or (ROOT / name.partition("/")[0]).is_dir()]
    files = [
        ROOT / name for name in ours if not name.startswith("runs/") and name != "settings.yaml"
    ]  # runs write these
    return [f"{page.name}: there is no {target}" for target in (*targets, *files) if not target.exists()]


@EVERY_PAGE
def test_files_exist(page: Path) -> None:
    assert bad_links(page, page.read_text()) == []


@pytest.mark.parametrize(
    "text", ["[a](missing.md)", "![a](images/missing.png)", "`controller/missing.py`", "`no.yaml`"]
)
def test_missing_files_are_found(text: str) -> None:
    assert bad_links(ROOT / "docs" / "page.md", text)


@cache
def sources() -> str:
    """All source text, with adjacent string literals joined."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    rooms = [ROOT / name for name in files if name.endswith((".py", ".sh")) and not name.startswith("tests/")]
    return re.sub(r"\"\s*\n\s*f?\"", "", "\n".join(path.read_text() for path in rooms if path.exists()))


def bad_messages(text: str) -> list[str]:
    """Messages in bold that the program does not print. `...` stands for the parts that vary."""
    quoted = [span for bold in re.findall(r"\*\*(.*?)\*\*", text, re.DOTALL) for span in re.findall(r"`([^`]+)`", bold)]
    parts = [part.strip(" ()") for message in quoted for part in re.split(r"\.\.\.|\d+", " ".join(message.split()))]
    return [f"no message contains {part!r}" for part in parts if " " in part and part not in sources()]


def test_quoted_messages_exist() -> None:
    assert bad_messages((ROOT / "docs" / "troubleshooting.md").read_text()) == []


def test_wrong_messages_are_found() -> None:
    assert bad_messages("**`the disk is empty: ... cannot be written`**: make room.")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A link or an anchor that does not exist fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Assets(HTMLParser):
    """The files that a page loads by itself, not the links that a reader may follow."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.fetched += [attributes.get("src") or ""]
        elif tag == "link" and attributes.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.fetched += [attributes.get("href") or ""]


def bad_assets(page: Path, text: str) -> list[str]:
    """The files that a page loads from other sites, and those that are missing."""
    return [
        f"{page.name} loads {address}"
        for address in Assets(text).fetched
        if re.match(r"(https?:)?//", address) or (address and not (page.parent / address.partition("?")[0]).exists())
    ]


@pytest.mark.slow
def test_pages_load_nothing_from_other_sites(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) == len(list((ROOT / "docs").rglob("*.md")))
    for page in pages:
        assert bad_assets(page, page.read_text()) == []


@pytest.mark.parametrize(
    "text", ['<script src="https://a.example/a.js">', '<link rel="icon" href="//a.example">', '<img src="missing.png">']
)
def test_assets_from_other_sites_are_found(text: str) -> None:
    assert bad_assets(ROOT / "docs" / "page.html", text)


@pytest.mark.slow
def test_api_pages_name_what_they_document(site: Path) -> None:
    names = ("settings.load_settings", "problems.load", "sandbox.grade", "rewards.score_group", "events.Step")
    for name in (*names, "grader.grade_completions"):
        page, _, function = name.partition(".")
        assert function in (site / "api" / f"{page}.html").read_text()
