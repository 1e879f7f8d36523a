"""TensorBoard events without torch: curves of the metrics, of pass@k and of the outcome mix."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from reporting.rows import AppendedFile


class TensorBoardWriter:
    """Writes every number of a row as a curve over steps; nested objects become `group/name`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._file = AppendedFile(folder / name)
        self._writer = RecordWriter(self._file)
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, prefix: str, row: Mapping[str, object]) -> None:
        """Add the numbers of a row that holds its `step`."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers(prefix, row)]
        step = row["step"]
        assert isinstance(step, int), step
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())


def numbers(prefix: str, row: Mapping[str, object]) -> list[tuple[str, float]]:
    """Every number of a row but its step, and its name with all that it is nested in: `train/outcomes/passed`."""
    found: list[tuple[str, float]] = []
    for name, value in row.items():
        tag = f"{prefix}/{name}".replace("@", "_at_")
        if isinstance(value, Mapping):
            found += numbers(tag, value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            found.append((tag, float(value)))
    return found
