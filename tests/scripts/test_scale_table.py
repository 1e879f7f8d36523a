"""The generated table of memory in docs/scale.md."""

from __future__ import annotations

import pytest
import torch

from rltf.learner import memory
from rltf.transport.model_folder import hollow_model
from scripts import scale_table

TRACED = (3, 5)
"""The columns that take a minute or more to calculate."""


def cells(line: str) -> list[str]:
    return [cell.strip() for at, cell in enumerate(line.strip("|").split("|")) if at not in TRACED]


@pytest.mark.slow
def test_the_table_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "working_bytes", lambda policy, settings: 0)
    page = scale_table.PAGE.read_text().partition(scale_table.BEGIN)[2].partition(scale_table.END)[0]
    shown = [cells(line) for line in page.splitlines() if line]
    assert shown == [cells(line) for line in scale_table.table()], "stale: run `python -m scripts.scale_table`"


def test_sizes_are_those_that_were_published() -> None:
    """Billions of parameters, from the model cards."""
    published = {"0.5B": 0.49, "1.5B": 1.54, "7B": 7.61, "14B": 14.7, "32B": 32.5}
    for name, billions in published.items():
        model = hollow_model(scale_table.config(name), torch.float32)
        assert sum(value.numel() for value in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.01)
