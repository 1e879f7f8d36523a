"""The two vocabularies of the starter benchmark: steps on a list of integers, each in code and in words.

In the tables below, a line of code is followed by the ways to say it in words, separated by `|`. The code is one line
over the list `xs`; in the last table of a vocabulary it is the expression of the answer. `{k}` is the constant of a
step, and a comment after the code lists its values. The last wording is the rare one: it occurs only in problems
without a reference program, so its meaning can only be learned from unit tests.

`PITFALLS` goes wrong more visibly. Its steps need imports, index lists that may be short or empty, divide, and mix
numbers with text. A mistake ends in a NameError, IndexError, ZeroDivisionError or TypeError on a certain line, which
gives feedback on lines something to work with.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `code` does it, `wordings` say it, and `constants` are the values that `{k}` may take, if it occurs."""

    code: str
    wordings: tuple[str, ...]
    constants: tuple[int, ...]


Vocabulary = tuple[tuple[Step, ...], tuple[Step, ...], tuple[Step, ...]]
"""The steps that select numbers, those that change them, and the answers."""


def _steps(table: str) -> tuple[Step, ...]:
    steps: list[Step] = []
    for line in table.strip().split("\n"):
        if line.startswith(" "):
            wordings = (wording.strip() for wording in line.split("|"))
            steps[-1] = Step(steps[-1].code, (*steps[-1].wordings, *wordings), steps[-1].constants)
        else:
            code, _, constants = line.partition("  # {k} in ")
            steps.append(Step(code, (), tuple(map(int, constants.split()))))
    return tuple(steps)


_SELECT = _steps("""
xs = [x for x in xs if x % 2 == 0]
    Keep the even numbers | Drop every odd number | Retain even values
xs = [x for x in xs if x % 2 == 1]
    Keep the odd numbers | Drop every even number | Retain odd values
xs = [x for x in xs if x > 0]
    Keep the positive numbers | Drop zeros and negative numbers | Retain positive values
xs = [x for x in xs if x > {k}]  # {k} in 1 2 3 4 5 6 7 8 9
    Keep the numbers greater than {k} | Drop numbers that are at most {k} | Retain values greater than {k}
xs = [x for x in xs if x < {k}]  # {k} in 1 2 3 4 5 6 7 8 9
    Keep the numbers less than {k} | Drop numbers that are at least {k} | Retain values below {k}
xs = xs[:{k}]  # {k} in 2 3 4 5
    Keep the first {k} numbers | Drop all after the first {k} | Retain the first {k}
xs = xs[-{k}:]  # {k} in 2 3 4 5
    Keep the last {k} numbers | Drop all before the last {k} | Retain the last {k}
xs = xs[{k}:]  # {k} in 2 3 4 5
    Drop the first {k} numbers | Keep all after the first {k} | Leave out the first {k}
xs = xs[::2]
    Keep the numbers at even positions | Drop the numbers at odd positions | Retain every second value
xs = list(dict.fromkeys(xs))
    Keep the first of equal numbers | Drop repeated numbers | Leave out repeated values
""")

_CHANGE = _steps("""
xs = [x + {k} for x in xs]  # {k} in 1 2 3 4 5 6 7 8 9
    add {k} to each | increase each by {k} | add {k} everywhere
xs = [x - {k} for x in xs]  # {k} in 1 2 3 4 5 6 7 8 9
    subtract {k} from each | decrease each by {k} | lower all by {k}
xs = [x * {k} for x in xs]  # {k} in 2 3 4 5
    multiply each by {k} | take each {k} times | multiply all by {k}
xs = [x * x for x in xs]
    square each | multiply each by itself | raise all to the power two
xs = [abs(x) for x in xs]
    take absolute values | make each non-negative | make all absolute
xs = [x % {k} for x in xs]  # {k} in 3 4 5 7
    take each modulo {k} | take remainders of division by {k} | reduce all modulo {k}
xs = sorted(xs)
    sort them ascending | order them from small to large | put them from small to large
xs = xs[::-1]
    reverse their order | turn the list around | read them backwards
xs = list(accumulate(xs))
    take running totals | replace each by the sum so far | keep a running tally
xs = [b - a for a, b in zip(xs, xs[1:])]
    take differences of neighbours | replace them by next minus current | measure the steps between
""")

_ANSWER = _steps("""
sum(xs)
    the sum | the total | what they add up to
max(xs, default=0)
    the largest or 0 | the maximum, 0 if there is none | the very largest, else 0
min(xs, default=0)
    the smallest or 0 | the minimum, 0 if there is none | the very smallest, else 0
len(xs)
    how many there are | the count | the size of what is left
prod(xs)
    the product | the result of multiplying all | the product of them all
xs[0] if xs else 0
    the first or 0 | the one in front, 0 if there is none | whatever is first, else 0
xs[-1] if xs else 0
    the last or 0 | the one at the end, 0 if there is none | whatever is last, else 0
len(set(xs))
    how many distinct values there are | the number of different values | how many of them differ
max(xs) - min(xs) if xs else 0
    the range or 0 | maximum minus minimum, 0 if there is none | largest minus smallest, else 0
'-'.join(map(str, xs))
    them joined with dashes | a text with dashes between them | one string with dashes
""")

_PITFALL_SELECT = _steps("""
xs = xs[1:-1]
    Drop the first and the last number | Keep all but both ends | Leave out both ends
xs = list(takewhile(lambda x: x >= 0, xs))
    Keep the numbers before the first negative one | Drop all from the first negative number on
    Retain what stands before a negative value
xs = [x for x in xs if Counter(xs)[x] > 1]
    Keep the numbers that occur again | Drop numbers that occur once | Retain repeated values
xs = [x for x in xs if x and {k} * 12 % x == 0]  # {k} in 2 3 4 5
    Keep the divisors of {k} * 12 | Drop what does not divide {k} * 12 | Retain divisors of {k} * 12
xs = [x for x in xs if x % 2 == xs[0] % 2]
    Keep the numbers as even or odd as the first | Drop numbers not as even or odd as the first
    Retain values that match the first in parity
xs = [x for x in xs if '{k}' in str(x)]  # {k} in 1 2 3 4 5 6 7 8 9
    Keep the numbers with a digit {k} | Drop numbers without a digit {k} | Retain values written with a {k}
xs = [x for x in xs if len(str(abs(x))) > 1]
    Keep the numbers of several digits | Drop numbers of one digit | Retain values of more than one digit
xs = [x for x in xs if gcd(x, {k}) == 1]  # {k} in 3 4 5 7
    Keep the numbers coprime to {k} | Drop numbers not coprime to {k} | Retain values coprime to {k}
""")

_PITFALL_CHANGE = _steps("""
xs = list(accumulate(xs))
    take running totals | replace each by the sum so far | keep a running tally
xs = [b - a for a, b in pairwise(xs)]
    take differences of neighbours | replace them by next minus current | measure the steps between
xs = [{k} * 10 // x for x in xs if x]  # {k} in 1 2 3 4 5 6 7 8 9
    divide {k} * 10 by each but zeros | take {k} * 10 over each, without zeros | split {k} * 10 by each, zeros aside
xs = [int(d) for x in xs for d in str(abs(x))]
    take their digits one by one | replace each by its digits | spell them digit by digit
xs = [isqrt(abs(x)) for x in xs]
    take whole square roots of absolute values | replace each by its whole root | root all, rounded down
xs = xs[-1:] + xs[1:-1] + xs[:1] if len(xs) > 1 else xs
    swap the first and the last | exchange both ends | let the ends trade places
xs = [x - xs[0] for x in xs]
    subtract the first from each | count each from the first | lower all by the first
xs = [i * x for i, x in enumerate(xs)]
    multiply each by its position | weigh each by its place | take each as often as its place says
""")

_PITFALL_ANSWER = _steps("""
prod(xs)
    the product | the result of multiplying all | the product of them all
sum(xs) // len(xs) if xs else 0
    the whole mean or 0 | the average rounded down, 0 if there is none | their mean, else 0
sorted(xs)[len(xs) // 2] if xs else 0
    the upper median or 0 | the middle one in order, 0 if there is none | the one in the middle, else 0
sorted(xs)[1] if len(xs) > 1 else 0
    the second smallest or 0 | the runner-up from below, 0 if there is none | the next to least, else 0
Counter(xs).most_common(1)[0][0] if xs else 0
    the most common or 0 | the most frequent one, 0 if there is none | the commonest, else 0
'-'.join(map(str, xs))
    them joined with dashes | a text with dashes between them | one string with dashes
len(''.join(map(str, xs)))
    how many characters they have | the length of their text | how long they are when written
gcd(*xs)
    the greatest common divisor | the largest number that divides all | what divides them all at most
""")

BASIC: Vocabulary = (_SELECT, _CHANGE, _ANSWER)
PITFALLS: Vocabulary = (_PITFALL_SELECT + _SELECT[:2], _PITFALL_CHANGE + _CHANGE[:2], _PITFALL_ANSWER + _ANSWER[:2])
