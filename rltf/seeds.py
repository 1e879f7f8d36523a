"""Seeds of random numbers."""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """A seed of 31 bits that depends only on `parts`."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:4], "little") >> 1
