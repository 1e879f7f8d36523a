"""The documentation builds, none of its links leads nowhere, and it needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cli import COMMANDS
from settings import PlanOptions, Settings
from settings_sources import SHORT_OPTIONS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A link or an anchor that does not exist fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Assets(HTMLParser):
    """What a page fetches by itself; links that a reader may follow are not among it."""

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


def test_pages_fetch_nothing_from_outside(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) == len(list((ROOT / "docs").rglob("*.md")))
    for page in pages:
        for address in Assets(page.read_text()).fetched:
            assert not re.match(r"(https?:)?//", address), f"{page.name} fetches {address}"
            assert not address or (page.parent / address.partition("?")[0]).exists(), f"{page.name}: {address}"


def test_links_of_the_readme_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert (ROOT / target).exists(), f"{page} links to {target}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def names_of(section: dict[str, Any], before: str = "") -> Iterator[str]:
    for name, value in section.items():
        yield before + name
        if isinstance(value, dict):
            yield from names_of(value, f"{before}{name}.")


def test_options_in_the_documentation_exist() -> None:
    known = set(names_of(Settings().model_dump())) | {name[2:] for names in SHORT_OPTIONS.values() for name in names}
    known |= {f"plan.{name}" for name in PlanOptions.model_fields} | {"config.file", "storage.tsdb.path"}  # Prometheus
    for page in [*ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/*.yaml"), ROOT / "README.md"]:
        for name in re.findall(r"(?<![\w-])--([a-z_]+\.[a-z_.]+[a-z_])", page.read_text()):
            assert name in known, f"{page.name}: --{name} does not exist"


def test_commands_in_the_documentation_exist() -> None:
    for page in [*ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/*.yaml"), ROOT / "README.md"]:
        for name in re.findall(r"(?:^| |`|/)rltf ([a-z]+)(?= |`|$)", page.read_text(), re.MULTILINE):
            assert name in COMMANDS, f"{page.name}: rltf {name} does not exist"
