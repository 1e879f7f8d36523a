"""The pages about trainers show the example scripts as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples" / "trainers").glob("*.py"))


def without_namespace(text: str) -> str:
    return text.replace("rltf.adapters", "adapters")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_page_quotes_the_script(script: Path) -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "trainers").glob("*.md"))
    block = f"`examples/trainers/{script.name}`:\n\n```python\n{script.read_text().strip()}\n```"
    assert without_namespace(block) in without_namespace(pages)
