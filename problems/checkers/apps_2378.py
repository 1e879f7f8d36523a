"""The longest closed path made of some of the robot's instructions that visits no cell twice."""

from collections import Counter

STEPS = {"L": (-1, 0), "R": (1, 0), "U": (0, 1), "D": (0, -1)}


def check(given: str, expected: str, actual: str) -> bool:
    tokens, best = iter(actual.split()), iter(expected.split())
    for instructions in given.split()[1:]:
        length = int(next(best))
        if length:
            next(best)
        if int(next(tokens)) != length:
            return False
        path = next(tokens) if length else ""
        if len(path) != length or Counter(path) - Counter(instructions) or not _is_valid(path):
            return False
    return next(tokens, None) is None


def _is_valid(path: str) -> bool:
    x = y = 0
    visited = set()
    for instruction in path:
        dx, dy = STEPS[instruction]
        x, y = x + dx, y + dy
        visited.add((x, y))
    return (x, y) == (0, 0) and len(visited) == len(path)
