"""Which deaths of nodes are logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from ray.exceptions import RpcError

from rltf.controller import cluster

OLD, SHORT, LASTING = "aaaaaaaa01", "bbbbbbbb02", "cccccccc03"


def test_a_node_that_joins_and_dies_between_two_looks_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = {OLD: ("10.0.0.1", False), LASTING: ("10.0.0.3", True)}
    after = before | {SHORT: ("10.0.0.2", False)}
    looks: Iterator[dict[str, tuple[str, bool]] | None] = iter([before, None, before, after, None, after])

    def look() -> dict[str, tuple[str, bool]]:
        found = next(looks, {})
        if found is None:
            raise RpcError("the head is frozen")  # type: ignore[no-untyped-call]
        if not found:
            raise EOFError
        return found

    monkeypatch.setattr(cluster, "NODES_EVERY_S", 0.0)
    with caplog.at_level(logging.WARNING), pytest.raises(EOFError):
        asyncio.run(cluster._note_nodes(look))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1, "expected one line: not for the node that died before the run, nor for the living one"
    assert said[0].startswith("node bbbbbbbb (10.0.0.2) is gone")
