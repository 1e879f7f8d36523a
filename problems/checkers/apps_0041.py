"""Reverse at most n substrings so that exactly k prefixes of the brackets are regular."""


def check(given: str, expected: str, actual: str) -> bool:
    tokens, numbers = iter(given.split()), map(int, actual.split())
    for _ in range(int(next(tokens))):
        n, k, brackets = int(next(tokens)), int(next(tokens)), next(tokens)
        num_operations = next(numbers)
        if not 0 <= num_operations <= n:
            return False
        for _ in range(num_operations):
            left, right = next(numbers), next(numbers)
            if not 1 <= left <= right <= n:
                return False
            brackets = brackets[: left - 1] + brackets[left - 1 : right][::-1] + brackets[right:]
        if _num_regular_prefixes(brackets) != k:
            return False
    return next(numbers, None) is None


def _num_regular_prefixes(brackets: str) -> int:
    depth = count = 0
    for bracket in brackets:
        depth += 1 if bracket == "(" else -1
        if depth < 0:
            return -1
        count += depth == 0
    return count if depth == 0 else -1
