"""Run `launch.py`, and count the bytes of all objects that its driver reads from Ray.

python -m tests.controller.counted_launch FILE [ARGUMENTS of launch.py]   writes the count to FILE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ray._private.serialization import SerializationContext

import launch


def main() -> int:
    """Run the job with Ray's deserialization counted."""
    seen = 0
    deserialize = SerializationContext.deserialize_objects

    def counting(self: Any, data: Any, refs: Any, *more: Any, **named: Any) -> Any:
        nonlocal seen
        seen += sum(len(part) for item in data for part in item[:2] if part is not None)
        return deserialize(self, data, refs, *more, **named)

    setattr(SerializationContext, "deserialize_objects", counting)  # noqa: B010 - mypy rejects a plain assignment
    status = launch.main(sys.argv[2:])
    Path(sys.argv[1]).write_text(str(seen))
    return status


if __name__ == "__main__":
    sys.exit(main())
