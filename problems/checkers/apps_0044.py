"""n chairs from 1 to 4n, no two of them coprime and none a divisor of another."""

from itertools import combinations
from math import gcd


def check(given: str, expected: str, actual: str) -> bool:
    numbers = map(int, actual.split())
    for n in map(int, given.split()[1:]):
        chairs = sorted(next(numbers) for _ in range(n))
        if chairs[0] < 1 or chairs[-1] > 4 * n:
            return False
        if any(gcd(a, b) == 1 or b % a == 0 for a, b in combinations(chairs, 2)):
            return False
    return next(numbers, None) is None
