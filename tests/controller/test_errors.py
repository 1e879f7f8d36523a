"""The messages and exit statuses for failures of actors and tasks."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from rltf.errors import UserError
from rltf.supervise import EXIT_FAILED, EXIT_UNUSABLE_INPUT, user_message


@ray.remote(num_cpus=0)
class Unmakable:
    def __init__(self, name: str) -> None:
        raise {"user": UserError, "bug": ZeroDivisionError}[name](f"{name}: first line\nsecond line")

    def ping(self) -> None: ...


@ray.remote(num_cpus=0)
def failing() -> None:
    raise UserError("no such checkpoint")


@pytest.mark.usefixtures("ray_session")
def test_a_failed_constructor_gives_its_error() -> None:
    unmakable: Any = Unmakable
    for name, expected in (("user", EXIT_UNUSABLE_INPUT), ("bug", EXIT_FAILED)):
        with pytest.raises(ray.exceptions.RayActorError) as caught:
            ray.get(unmakable.remote(name).ping.remote(), timeout=60)
        message, status = user_message(ExceptionGroup("stage", [caught.value]))
        assert status == expected
        assert message.endswith(f"{name}: first line\nsecond line")
        assert "Traceback" not in message


@pytest.mark.usefixtures("ray_session")
def test_a_failed_task_gives_its_error() -> None:
    with pytest.raises(UserError) as caught:
        ray.get(failing.remote(), timeout=60)
    assert user_message(caught.value) == ("no such checkpoint", EXIT_UNUSABLE_INPUT)


def test_other_failures_keep_their_name() -> None:
    assert user_message(ExceptionGroup("a", [ExceptionGroup("b", [KeyError("x")])])) == ("KeyError: 'x'", EXIT_FAILED)
