"""Numbers from 1 to 2n on a circle so that the sums of n neighbors differ by at most 1."""


def check(given: str, expected: str, actual: str) -> bool:
    n = int(given)
    verdict, *numbers = actual.split()
    if verdict != expected.split()[0] or verdict == "NO":
        return verdict == expected.split()[0] and not numbers
    circle = list(map(int, numbers))
    if sorted(circle) != list(range(1, 2 * n + 1)):
        return False
    total = smallest = largest = sum(circle[:n])
    for i in range(2 * n - 1):
        total += circle[(i + n) % (2 * n)] - circle[i]
        smallest, largest = min(smallest, total), max(largest, total)
    return largest - smallest <= 1
