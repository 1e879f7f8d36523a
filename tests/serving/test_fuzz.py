"""Malformed requests get 4xx and words, and leave no process and no descriptor behind (`fuzz.py` sends more)."""

from __future__ import annotations

import pytest

from tests.serving.fuzz import fuzz, grown, holdings, warm_up
from tests.serving.servers import running


@pytest.mark.slow
def test_no_request_makes_the_server_fail() -> None:
    statuses = set()
    with running() as client:
        warm_up(client)
        before = holdings()
        for status, complaint in fuzz(client, 300, seed=7):
            assert complaint == ""
            statuses.add(status)
        assert grown(before) == {}
        assert client.get("/health").json["pending"] == 0
    assert {200, 404, 422} <= statuses
