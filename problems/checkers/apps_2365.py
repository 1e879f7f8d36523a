"""A permutation of which each given set of numbers is a segment, one for each right end."""


def check(given: str, expected: str, actual: str) -> bool:
    numbers, answer = map(int, given.split()), map(int, actual.split())
    for _ in range(next(numbers)):
        n = next(numbers)
        permutation = [next(answer) for _ in range(n)]
        places = {number: place for place, number in enumerate(permutation)}
        if sorted(places) != list(range(1, n + 1)):
            return False
        ends = set()
        for _ in range(n - 1):
            found = [places[next(numbers)] for _ in range(next(numbers))]
            if max(found) - min(found) != len(found) - 1:
                return False
            ends.add(max(found))
        if len(ends) != n - 1:
            return False
    return next(answer, None) is None
