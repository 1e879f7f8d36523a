"""All ways to split a sequence into two permutations, in any order."""


def check(given: str, expected: str, actual: str) -> bool:
    num_tests = int(given.split(maxsplit=1)[0])
    return _ways(expected, num_tests) == _ways(actual, num_tests)


def _ways(text: str, num_tests: int) -> list[list[tuple[int, int]]]:
    numbers = map(int, text.split())
    ways = [sorted((next(numbers), next(numbers)) for _ in range(next(numbers))) for _ in range(num_tests)]
    if next(numbers, None) is not None:
        raise ValueError("more than the answers")
    return ways
