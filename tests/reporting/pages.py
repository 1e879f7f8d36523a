"""A report as tests read it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """The elements of a page with their attributes, and the data that its scripts draw."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._data = ""
        self.feed(path.read_text())
        self.data: dict[str, Any] = json.loads(self._data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][1].get("id") == "data":
            self._data += data

    def chart(self, title: str) -> dict[str, Any]:
        return next(chart for chart in self.data["charts"] if chart["title"] == title)

    def last_values(self, title: str) -> dict[str, float]:
        return {curve["name"]: curve["y"][-1] for curve in self.chart(title)["curves"]}
