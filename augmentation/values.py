"""Variations of Python values, guided by what the values in the same place have in common.

A problem does not tell a machine which inputs it allows. So a `Rule` is learned from all values that its tests have in
one place: types, bounds, characters, orders. Variations keep to that: numbers and lengths stay between those seen, text
uses the characters seen, sorted lists stay sorted. If there is only one value, smaller ones and numbers up to 10 are
allowed as well; otherwise there would be nothing to vary.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, pairwise, permutations
from typing import Any

_SMALL = 10

Rule = Callable[[Any, random.Random], Any]
"""Returns another value near the given one, or the same one if it cannot vary."""


def learn(values: Iterable[Any]) -> Rule:
    """The rule for a place with these values. Each value varies like the values of its own type."""
    by_type: defaultdict[type, list[Any]] = defaultdict(list)
    for value in values:
        by_type[type(value)].append(value)
    rules = {kind: _learn_type(kind, found) for kind, found in by_type.items()}
    return lambda value, rng: rules[type(value)](value, rng)


def learn_arguments(calls: Sequence[Sequence[Any]]) -> Rule:
    """The rule for the argument lists of calls with the same number of arguments.

    A number that always is the length of another argument, or never exceeds it, stays that way.
    """
    vary = places(calls)
    relations = []
    for number, sized in permutations(range(len(calls[0])), 2):
        if all(type(call[number]) is int and isinstance(call[sized], list | tuple | str) for call in calls):
            differences = [len(call[sized]) - call[number] for call in calls]
            if min(differences) >= 0:
                relations.append((max(differences) == 0, number, sized))

    def vary_arguments(value: Any, rng: random.Random) -> Any:
        arguments = vary(value, rng)
        for is_equal, number, sized in sorted(relations):  # equal lengths overrule upper bounds
            length = len(arguments[sized])
            arguments[number] = length if is_equal else min(arguments[number], length)
        return tuple(arguments)

    return vary_arguments


def places(values: Iterable[Sequence[Any]]) -> Rule:
    """The rule for sequences in which each place has its own meaning: arguments, records. It returns a list."""
    columns: defaultdict[int, list[Any]] = defaultdict(list)
    for value in values:
        for number, one in enumerate(value):
            columns[number].append(one)
    rules = {place: learn(column) for place, column in columns.items()}

    def vary(value: Any, rng: random.Random) -> Any:
        varied = list(value)
        for number in rng.sample(range(len(varied)), min(len(varied), rng.randint(1, 2))):
            varied[number] = rules[number](varied[number], rng)
        return varied

    return vary


def items(
    values: Sequence[Sequence[Any]], item: Rule | None = None, *, is_fixed: bool = False, is_ordered: bool = True
) -> Rule:
    """The rule for sequences of similar items. It returns a list, of the same length if `is_fixed`.

    Permutations of 1 to n stay permutations. If `is_ordered`, sorted sequences stay sorted and distinct items distinct.
    """
    item = item or learn(chain.from_iterable(values))
    lengths = {len(value) for value in values}
    least = min(lengths) if len(lengths) > 1 else (max(lengths, default=1) + 1) // 2
    is_ascending = is_ordered and _always(values, _is_ascending)
    is_permuted = not is_ascending and _always(values, _is_permutation)
    is_distinct = is_ordered and not is_permuted and _always(values, lambda value: len(_distinct(value)) == len(value))

    def vary(value: Any, rng: random.Random) -> Any:
        varied = list(value)
        for _ in range(rng.randint(1, 3)):
            if varied:
                _edit(varied, lambda: item(rng.choice(value), rng), rng, least, is_fixed=is_fixed)
        if is_permuted:
            order = sorted(range(len(varied)), key=varied.__getitem__)
            for rank, place in enumerate(order, start=1):
                varied[place] = rank
        if is_distinct:
            varied = _distinct(varied)
        if is_ascending:
            varied.sort()
        is_allowed = len(varied) == len(value) if is_fixed else len(varied) >= least
        return varied if is_allowed else list(value)

    return vary


def _edit(varied: list[Any], draw: Callable[[], Any], rng: random.Random, least: int, *, is_fixed: bool) -> None:
    """One small change in a list that is not empty."""
    changes = ["replace", "replace", "swap", "reverse"]
    if not is_fixed:
        changes += ["insert", "repeat"]
        changes += ["remove", "cut"] if len(varied) > max(least, 1) else []
        changes += ["clear"] if least == 0 and rng.random() < 0.2 else []
    place, other = rng.randrange(len(varied)), rng.randrange(len(varied))
    match rng.choice(changes):
        case "replace":
            varied[place] = draw()
        case "swap":
            varied[place], varied[other] = varied[other], varied[place]
        case "reverse":
            varied.reverse()
        case "insert":
            varied.insert(rng.randint(0, len(varied)), draw())
        case "repeat":
            varied.insert(place, varied[other])
        case "remove":
            del varied[place]
        case "cut":
            del varied[rng.randint(max(least, 1), len(varied) - 1) :]
        case "clear":
            varied.clear()


def _learn_type(kind: type, values: list[Any]) -> Rule:
    """The rule for values of one type."""
    if kind is bool:
        return lambda _, rng: rng.random() < 0.5
    if kind in (int, float):
        return _learn_numbers(values)
    if kind is str:
        characters = sorted(set("".join(values)))
        is_fixed = len(set(values)) > 1 and len({len(value) for value in values}) == 1
        text = items(values, lambda _, rng: rng.choice(characters), is_fixed=is_fixed, is_ordered=False)
        return lambda value, rng: "".join(text(value, rng))
    if kind in (list, tuple):
        sequence = _learn_sequences(values)
        return lambda value, rng: kind(sequence(value, rng))
    if kind is dict:
        entries = [list(value.items()) for value in values]
        mapping = items(entries, places(list(chain.from_iterable(entries))))
        return lambda value, rng: dict(mapping(list(value.items()), rng))
    if kind in (set, frozenset):
        members = items([sorted(value, key=repr) for value in values])
        return lambda value, rng: kind(members(sorted(value, key=repr), rng))
    return lambda _, rng: rng.choice(values)


def _learn_numbers(values: list[Any]) -> Rule:
    low, high = min(values), max(values)
    if low == high:
        low, high = (min(low, 1), max(high, _SMALL)) if low >= 0 else (low, -low)
    digits = max(len(repr(value).partition(".")[2]) if isinstance(value, float) else 0 for value in values)

    def vary(value: Any, rng: random.Random) -> Any:
        if isinstance(value, float):
            return round(float(rng.choice((low, high, rng.uniform(low, high)))), digits)
        near = min(max(value + rng.choice((-1, 1)), low), high)
        return rng.choice((low, high, near, rng.randint(low, high), rng.randint(low, high)))

    return vary


def _learn_sequences(values: list[Any], *, is_fixed: bool = False) -> Rule:
    """The rule for lists or for tuples. If they always have one length, mixed types or tuples make them records."""
    inner = list(chain.from_iterable(values))
    kinds = {type(one) for one in inner}
    is_record = len(kinds) > 1 or (isinstance(values[0], tuple) and len(values) > 1)
    if is_record and len({len(value) for value in values}) == 1:
        return places(values)
    is_table = kinds == {list} and all(len({len(row) for row in value}) <= 1 for value in values)
    return items(values, _learn_sequences(inner, is_fixed=True) if is_table else None, is_fixed=is_fixed)


def _always(values: Iterable[Sequence[Any]], holds: Callable[[Sequence[Any]], bool]) -> bool:
    """Whether something holds for all values, at least two of which are long enough to show it."""
    telling = [value for value in values if len(value) > 2]
    return len(telling) > 1 and all(map(holds, telling))


def _is_ascending(value: Sequence[Any]) -> bool:
    return {type(one) for one in value} in ({int}, {float}, {str}) and all(a <= b for a, b in pairwise(value))


def _is_permutation(value: Sequence[Any]) -> bool:
    return all(type(one) is int for one in value) and sorted(value) == list(range(1, len(value) + 1))


def _distinct(value: Sequence[Any]) -> list[Any]:
    return list({repr(one): one for one in value}.values())
