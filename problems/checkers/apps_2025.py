"""The fewest questions "is it divisible by y?" that tell the numbers from 1 to n apart."""


def check(given: str, expected: str, actual: str) -> bool:
    n = int(given)
    count, *questions = map(int, actual.split())
    if count != int(expected.split()[0]) or len(questions) != count or not all(1 <= y <= n for y in questions):
        return False
    answers = {tuple(x % y == 0 for y in questions) for x in range(1, n + 1)}
    return len(answers) == n
