"""Checkers for problems that accept several answers, though their benchmark lists only one.

Each file is the source of one checker (see `Checker`). It belongs to the problem with that statement, in whichever
benchmark it appears: the splits of APPS use the same ids for different problems.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from rltf.problems.types import Checker

_NUM_CHARACTERS = 16
_FILES = {
    "0a9bbfb3ad9c8b0c": "apps_0002",
    "b0fdcb3b9a9407b0": "apps_0005",
    "d2bdef2f7d63a3d8": "apps_0024",
    "c1eae6ef1a0944b6": "apps_0033",
    "d8cea1fccfd3ae70": "apps_0041",
    "70c3b6a99ebd80fb": "apps_0044",
    "174feb3732b5e2e9": "apps_2023",
    "f3a3147a3993e39b": "apps_2025",
    "3ee9b35fb204743e": "apps_2029",
    "2bb5bdad67226b0b": "apps_2033",
    "477e36580d239b55": "apps_2365",
    "ae789ffab28e1a87": "apps_2378",
    "4715989315365ae3": "apps_2391",
    "668884caf152a6ac": "apps_2398",
    "c679079d1912ed8b": "apps_2400",
}
"""The file of a checker, by the fingerprint of the problem's statement."""


def known_checker(statement: str) -> Checker | None:
    """The checker for the problem with this statement, if there is one here."""
    words = " ".join(statement.split()).encode("utf-8", "surrogatepass")
    name = _FILES.get(hashlib.sha256(words).hexdigest()[:_NUM_CHARACTERS])
    return None if name is None else Checker(_source(name))


@cache
def _source(name: str) -> str:
    return Path(__file__).with_name(f"{name}.py").read_text()
