"""A port that is in use is reported before Ray starts."""

from __future__ import annotations

import os
import socket

import pytest

from scripts import check_ports


def test_a_port_in_use_is_named_with_its_process(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("", 0)) as held:
        port = held.getsockname()[1]
        assert check_ports.main([str(port)]) == 1
        said = capsys.readouterr().err
        assert f"port {port}" in said
        assert f"process {os.getpid()}" in said
    assert check_ports.main([str(port)]) == 0
    assert capsys.readouterr().err == ""
