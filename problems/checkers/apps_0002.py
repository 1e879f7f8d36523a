"""Choose p_i from {a_i, b_i, c_i} so that neighbors on the circle differ."""


def check(given: str, expected: str, actual: str) -> bool:
    numbers, answer = map(int, given.split()), map(int, actual.split())
    for _ in range(next(numbers)):
        n = next(numbers)
        rows = [[next(numbers) for _ in range(n)] for _ in range(3)]
        chosen = [next(answer) for _ in range(n)]
        if any(chosen[i] not in (row[i] for row in rows) or chosen[i] == chosen[i - 1] for i in range(n)):
            return False
    return next(answer, None) is None
