"""docs/extend.md shows the files of examples/extensions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.distributions import EXAMPLES

PAGE = EXAMPLES.parents[1] / "docs" / "extend.md"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.*")), ids=lambda file: file.name)
def test_the_page_shows_the_file(file: Path) -> None:
    blocks = [plain(block) for block in re.findall(r"^```\w+\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)]
    assert plain(file.read_text()) in blocks


def plain(text: str) -> str:
    """Installed packages import the rooms from the program's namespace."""
    return text.replace("from rltf.", "from ")
