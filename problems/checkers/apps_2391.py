"""Sort by at most n * n shifts of three neighbors, or say that it is impossible."""


def check(given: str, expected: str, actual: str) -> bool:
    numbers, answer, known = (map(int, text.split()) for text in (given, actual, expected))
    for _ in range(next(numbers)):
        n = next(numbers)
        items = [next(numbers) for _ in range(n)]
        known_count, count = next(known), next(answer)
        for _ in range(known_count):
            next(known)
        if (count == -1) != (known_count == -1) or not -1 <= count <= n * n:
            return False
        for _ in range(count):
            i = next(answer)
            if not 1 <= i <= n - 2:
                return False
            items[i - 1 : i + 2] = [items[i + 1], items[i - 1], items[i]]
        if count != -1 and items != sorted(items):
            return False
    return next(answer, None) is None
