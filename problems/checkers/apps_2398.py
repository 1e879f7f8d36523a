"""The fewest columns to swap so that both rows become permutations, or -1."""


def check(given: str, expected: str, actual: str) -> bool:
    numbers, answer, known = (map(int, text.split()) for text in (given, actual, expected))
    for _ in range(next(numbers)):
        n = next(numbers)
        rows = [[next(numbers) for _ in range(n)] for _ in range(2)]
        best = next(known)
        for _ in range(best):
            next(known)
        if next(answer) != best:
            return False
        columns = {next(answer) for _ in range(best)}
        if best == -1:
            continue
        if len(columns) != best or not all(1 <= column <= n for column in columns):
            return False
        for column in columns:
            rows[0][column - 1], rows[1][column - 1] = rows[1][column - 1], rows[0][column - 1]
        if any(sorted(row) != list(range(1, n + 1)) for row in rows):
            return False
    return next(answer, None) is None
