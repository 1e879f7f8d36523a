"""The fewest colors so that neighbors of different types on the circle have different colors."""


def check(given: str, expected: str, actual: str) -> bool:
    numbers, answer, known = (map(int, text.split()) for text in (given, actual, expected))
    for _ in range(next(numbers)):
        n = next(numbers)
        types = [next(numbers) for _ in range(n)]
        best = next(known)
        for _ in range(n):
            next(known)
        if next(answer) != best:
            return False
        colors = [next(answer) for _ in range(n)]
        if not all(1 <= color <= best for color in colors):
            return False
        if any(types[i] != types[i - 1] and colors[i] == colors[i - 1] for i in range(n)):
            return False
    return next(answer, None) is None
