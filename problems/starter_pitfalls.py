"""A second vocabulary of the starter benchmark: steps whose programs go wrong on a line of their own.

They need imports, index lists that may be short or empty, divide, and mix numbers with text: a slip ends in a
NameError, IndexError, ZeroDivisionError or TypeError that has a line, so that feedback on lines has something to say.
"""

from __future__ import annotations

from problems.starter_ops import ANY, MODULI, SMALL, Step

SELECT: tuple[Step, ...] = (
    Step(
        "inner",
        "xs = xs[1:-1]",
        ("Drop the first and the last number", "Keep all but both ends", "Leave out both ends"),
    ),
    Step(
        "until_negative",
        "xs = list(takewhile(lambda x: x >= 0, xs))",
        (
            "Keep the numbers before the first negative one",
            "Drop all from the first negative number on",
            "Retain what stands before a negative value",
        ),
        imports="from itertools import takewhile",
    ),
    Step(
        "repeated",
        "xs = [x for x in xs if Counter(xs)[x] > 1]",
        ("Keep the numbers that occur again", "Drop numbers that occur once", "Retain repeated values"),
        imports="from collections import Counter",
    ),
    Step(
        "divisors",
        "xs = [x for x in xs if x and {k} * 12 % x == 0]",
        ("Keep the divisors of {k} * 12", "Drop what does not divide {k} * 12", "Retain divisors of {k} * 12"),
        SMALL,
    ),
    Step(
        "as_first",
        "xs = [x for x in xs if x % 2 == xs[0] % 2]",
        (
            "Keep the numbers as even or odd as the first",
            "Drop numbers not as even or odd as the first",
            "Retain values that match the first in parity",
        ),
    ),
    Step(
        "has_digit",
        "xs = [x for x in xs if '{k}' in str(x)]",
        ("Keep the numbers with a digit {k}", "Drop numbers without a digit {k}", "Retain values written with a {k}"),
        ANY,
    ),
    Step(
        "long",
        "xs = [x for x in xs if len(str(abs(x))) > 1]",
        ("Keep the numbers of several digits", "Drop numbers of one digit", "Retain values of more than one digit"),
    ),
    Step(
        "coprime",
        "xs = [x for x in xs if gcd(x, {k}) == 1]",
        ("Keep the numbers coprime to {k}", "Drop numbers not coprime to {k}", "Retain values coprime to {k}"),
        MODULI,
        imports="from math import gcd",
    ),
)

CHANGE: tuple[Step, ...] = (
    Step(
        "totals",
        "xs = list(accumulate(xs))",
        ("take running totals", "replace each by the sum so far", "keep a running tally"),
        imports="from itertools import accumulate",
    ),
    Step(
        "gaps",
        "xs = [b - a for a, b in pairwise(xs)]",
        ("take differences of neighbours", "replace them by next minus current", "measure the steps between"),
        imports="from itertools import pairwise",
    ),
    Step(
        "quotients",
        "xs = [{k} * 10 // x for x in xs if x]",
        (
            "divide {k} * 10 by each but zeros",
            "take {k} * 10 over each, without zeros",
            "split {k} * 10 by each, zeros aside",
        ),
        ANY,
    ),
    Step(
        "digits",
        "xs = [int(d) for x in xs for d in str(abs(x))]",
        ("take their digits one by one", "replace each by its digits", "spell them digit by digit"),
    ),
    Step(
        "roots",
        "xs = [isqrt(abs(x)) for x in xs]",
        ("take whole square roots of absolute values", "replace each by its whole root", "root all, rounded down"),
        imports="from math import isqrt",
    ),
    Step(
        "swap_ends",
        "xs = xs[-1:] + xs[1:-1] + xs[:1] if len(xs) > 1 else xs",
        ("swap the first and the last", "exchange both ends", "let the ends trade places"),
    ),
    Step(
        "from_first",
        "xs = [x - xs[0] for x in xs]",
        ("subtract the first from each", "count each from the first", "lower all by the first"),
    ),
    Step(
        "weights",
        "xs = [i * x for i, x in enumerate(xs)]",
        ("multiply each by its position", "weigh each by its place", "take each as often as its place says"),
    ),
)

ANSWER: tuple[Step, ...] = (
    Step(
        "product",
        "prod(xs)",
        ("the product", "the result of multiplying all", "the product of them all"),
        imports="from math import prod",
    ),
    Step(
        "mean",
        "sum(xs) // len(xs) if xs else 0",
        ("the whole mean or 0", "the average rounded down, 0 if there is none", "their mean, else 0"),
    ),
    Step(
        "middle",
        "sorted(xs)[len(xs) // 2] if xs else 0",
        ("the upper median or 0", "the middle one in order, 0 if there is none", "the one in the middle, else 0"),
    ),
    Step(
        "second",
        "sorted(xs)[1] if len(xs) > 1 else 0",
        ("the second smallest or 0", "the runner-up from below, 0 if there is none", "the next to least, else 0"),
    ),
    Step(
        "commonest",
        "Counter(xs).most_common(1)[0][0] if xs else 0",
        ("the most common or 0", "the most frequent one, 0 if there is none", "the commonest, else 0"),
        imports="from collections import Counter",
    ),
    Step(
        "dashes",
        "'-'.join(map(str, xs))",
        ("them joined with dashes", "a text with dashes between them", "one string with dashes"),
    ),
    Step(
        "num_characters",
        "len(''.join(map(str, xs)))",
        ("how many characters they have", "the length of their text", "how long they are when written"),
    ),
    Step(
        "common_divisor",
        "gcd(*xs)",
        ("the greatest common divisor", "the largest number that divides all", "what divides them all at most"),
        imports="from math import gcd",
    ),
)
