"""A permutation with the least sum of the lengths of its longest increasing and decreasing subsequences."""

from bisect import bisect_left


def check(given: str, expected: str, actual: str) -> bool:
    numbers = list(map(int, actual.split()))
    is_permutation = sorted(numbers) == list(range(1, int(given) + 1))
    return is_permutation and _value(numbers) == _value(list(map(int, expected.split())))


def _value(numbers: list[int]) -> int:
    return _longest(numbers) + _longest(numbers[::-1])


def _longest(numbers: list[int]) -> int:
    ends: list[int] = []
    for number in numbers:
        place = bisect_left(ends, number)
        ends[place : place + 1] = [number]
    return len(ends)
