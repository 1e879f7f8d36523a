"""Replace two numbers by their mean, rounded up, until one is left, which is as small as possible."""

from collections import Counter


def check(given: str, expected: str, actual: str) -> bool:
    numbers, best = map(int, actual.split()), map(int, expected.split())
    for n in map(int, given.split()[1:]):
        smallest = next(best)
        for _ in range(2 * (n - 1)):
            next(best)
        if next(numbers) != smallest or not _reaches(smallest, n, numbers):
            return False
    return next(numbers, None) is None


def _reaches(smallest, n, numbers) -> bool:  # type: ignore[no-untyped-def]
    board = Counter(range(1, n + 1))
    for _ in range(n - 1):
        for number in (a := next(numbers), b := next(numbers)):
            board[number] -= 1
            if board[number] < 0:
                return False
        board[(a + b + 1) // 2] += 1
    return board[smallest] == 1
