"""Numbers a and b with a + b = a * b = d."""

TOLERANCE = 1e-6


def check(given: str, expected: str, actual: str) -> bool:
    tokens, wanted = iter(actual.split()), [word for word in expected.split() if word in ("Y", "N")]
    for d, has_answer in zip(map(int, given.split()[1:]), wanted, strict=True):
        if next(tokens) != has_answer:
            return False
        if has_answer == "Y":
            a, b = float(next(tokens)), float(next(tokens))
            if not (a >= 0 and b >= 0 and abs(a + b - a * b) <= TOLERANCE and abs(a + b - d) <= TOLERANCE):
                return False
    return next(tokens, None) is None
