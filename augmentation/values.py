"""Variations of Python values by what values at the same place have in common.

A `Shape` is learnt from all values that a problem's tests have at one place: kinds, bounds, alphabets, orders. What it
draws keeps to that, since a problem says nothing to a machine about which inputs it allows: numbers and lengths stay
between those seen, text uses the characters seen, a list that is always sorted stays sorted. Where only one value was
seen, smaller ones and numbers to 10 count as allowed too: there would be nothing to vary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

_MAX_GROWN_ITEMS = 12
_SMALL = 10


class Shape(Protocol):
    """What values at one place have in common."""

    def vary(self, value: Any, rng: random.Random) -> Any:
        """Another value of this shape, near `value`; the same one where it cannot vary."""


@dataclass(frozen=True, slots=True)
class _Number:
    """Numbers from `low` to `high`, rounded to `digits` decimals; integers where `digits` is None."""

    low: float
    high: float
    digits: int | None

    def vary(self, value: Any, rng: random.Random) -> Any:
        if self.digits is not None:
            return round(rng.choice((self.low, self.high, rng.uniform(self.low, self.high))), self.digits)
        low, high = int(self.low), int(self.high)
        near = min(max(value + rng.choice((-1, 1)), low), high)
        return rng.choice((low, high, near, rng.randint(low, high), rng.randint(low, high)))


@dataclass(frozen=True, slots=True)
class _Text:
    """Text of the characters of `alphabet`, at least `least` long, always of `length` where that is not None."""

    alphabet: str
    least: int
    length: int | None
    others: tuple[str, ...]

    def vary(self, value: Any, rng: random.Random) -> Any:
        characters = list(value)
        for _ in range(rng.randint(1, 2)):
            _edit(characters, rng, lambda: rng.choice(self.alphabet), may_resize=self.length is None, least=self.least)
        if self.length is None and rng.random() < 0.3:
            other = rng.choice(self.others)
            characters = [*other[: rng.randint(0, len(other))], *characters[rng.randint(0, len(characters)) :]]
        varied = "".join(characters)
        return varied if len(varied) >= self.least else value


@dataclass(frozen=True, slots=True)
class _Items:
    """Lists and tuples of alike items."""

    item: Shape
    least: int
    keep_length: bool
    ascending: bool
    distinct: bool

    def vary(self, value: Any, rng: random.Random) -> Any:
        items = list(value)
        known = list(value)
        for _ in range(rng.randint(1, 3) if known else 0):
            _edit(
                items,
                rng,
                lambda: self.item.vary(rng.choice(known), rng),
                may_resize=not self.keep_length,
                least=self.least,
            )
        if self.distinct:
            items = [one for place, one in enumerate(items) if one not in items[:place]]
        if self.ascending:
            items.sort()
        if len(items) < self.least or (self.keep_length and len(items) != len(value)):
            return value
        return tuple(items) if isinstance(value, tuple) else items


@dataclass(frozen=True, slots=True)
class _Record:
    """Lists and tuples whose places have shapes of their own: arguments, records."""

    shapes: tuple[Shape, ...]

    def vary(self, value: Any, rng: random.Random) -> Any:
        items = list(value)
        places = rng.sample(range(len(items)), rng.randint(1, min(2, len(items)))) if items else []
        for place in places:
            items[place] = self.shapes[place].vary(items[place], rng)
        return tuple(items) if isinstance(value, tuple) else items


@dataclass(frozen=True, slots=True)
class _Mapping:
    """Dicts with alike keys and alike values."""

    key: Shape
    value: Shape

    def vary(self, value: Any, rng: random.Random) -> Any:
        items = list(value.items())
        if not items:
            return value
        rng.shuffle(items)
        key, item = items[0]
        change = rng.randrange(3)
        if change == 0 and len(items) > 1:
            return dict(items[1:])
        if change == 1:
            return dict(items) | {self.key.vary(key, rng): self.value.vary(item, rng)}
        return dict(items) | {key: self.value.vary(item, rng)}


@dataclass(frozen=True, slots=True)
class _Set:
    """Sets of alike items."""

    item: Shape

    def vary(self, value: Any, rng: random.Random) -> Any:
        items = sorted(value, key=repr)
        if not items:
            return value
        rng.shuffle(items)
        return type(value)([*items[rng.randint(0, 1) :], self.item.vary(items[0], rng)])


@dataclass(frozen=True, slots=True)
class _OneOf:
    """Values of mixed kinds, or of kinds that do not vary: one of those seen."""

    values: tuple[Any, ...]

    def vary(self, value: Any, rng: random.Random) -> Any:
        return rng.choice(self.values) if self.values else value


def _edit(items: list[Any], rng: random.Random, draw: Callable[[], Any], *, may_resize: bool, least: int) -> None:
    """One small change of a list in place: an item changed, swapped, reversed, repeated, added, taken away."""
    changes = ["change", "change", "swap", "reverse"]
    if may_resize:
        changes += ["add", "repeat"] if len(items) < _MAX_GROWN_ITEMS else []
        changes += ["remove", "cut"] if len(items) > max(least, 1) else []
        changes += ["empty"] if least == 0 and rng.random() < 0.2 else []
    change = rng.choice(changes)
    if change == "add":
        items.insert(rng.randint(0, len(items)), draw())
    elif change == "empty":
        items.clear()
    elif not items:
        return
    elif change == "change":
        items[rng.randrange(len(items))] = draw()
    elif change == "swap":
        first, second = rng.randrange(len(items)), rng.randrange(len(items))
        items[first], items[second] = items[second], items[first]
    elif change == "reverse":
        items.reverse()
    elif change == "repeat":
        items.insert(rng.randint(0, len(items)), rng.choice(items))
    elif change == "remove":
        del items[rng.randrange(len(items))]
    else:
        del items[rng.randint(max(least, 1), len(items) - 1) :]


def learn(values: Sequence[Any]) -> Shape:
    """The shape of values seen at one place."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return _OneOf((False, True))
    if kinds <= {int, float} and kinds:
        return _learn_numbers(values)
    if kinds == {str}:
        return _learn_text(values)
    if kinds <= {list, tuple} and kinds:
        return _learn_items(values)
    if kinds == {dict}:
        entries = [entry for value in values for entry in value.items()]
        return _Mapping(learn([key for key, _ in entries]), learn([item for _, item in entries]))
    if kinds <= {set, frozenset} and kinds:
        return _Set(learn([item for value in values for item in value]))
    return _OneOf(tuple(values))


def learn_arguments(calls: Sequence[Sequence[Any]]) -> Shape:
    """The shape of the argument lists of calls with the same number of arguments."""
    columns = list(zip(*calls, strict=True))
    return _Arguments(_Record(tuple(learn(column) for column in columns)), _relations(columns))


@dataclass(frozen=True, slots=True)
class _Relation:
    """Argument `number` is (or, where `at_most`, is never above) the length of argument `sized`."""

    number: int
    sized: int
    at_most: bool


@dataclass(frozen=True, slots=True)
class _Arguments:
    """Arguments, with what holds between them kept."""

    record: _Record
    relations: tuple[_Relation, ...]

    def vary(self, value: Any, rng: random.Random) -> Any:
        arguments = list(self.record.vary(value, rng))
        for relation in self.relations:
            number, length = arguments[relation.number], len(arguments[relation.sized])
            if number > length or not relation.at_most:
                arguments[relation.number] = length
        return tuple(arguments)


def _relations(columns: Sequence[Sequence[Any]]) -> tuple[_Relation, ...]:
    found = []
    for number, numbers in enumerate(columns):
        if not all(type(value) is int for value in numbers):
            continue
        for sized, values in enumerate(columns):
            if all(isinstance(value, list | tuple | str) for value in values):
                pairs = [(one, len(value)) for one, value in zip(numbers, values, strict=True)]
                if all(one <= length for one, length in pairs):
                    found.append(_Relation(number, sized, at_most=any(one < length for one, length in pairs)))
    # What is always equal says more than what is never above.
    exact = {relation.number for relation in found if not relation.at_most}
    return tuple(relation for relation in found if not relation.at_most or relation.number not in exact)


def _learn_numbers(values: Sequence[Any]) -> Shape:
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return _OneOf(tuple(values))
    low, high = min(finite), max(finite)
    if low == high:
        low, high = (min(low, 1), max(high, _SMALL)) if low >= 0 else (low, -low)
    if all(isinstance(value, int) for value in values):
        return _Number(low, high, None)
    return _Number(
        float(low), float(high), max(len(repr(value).partition(".")[2]) for value in finite) if len(finite) else 1
    )


def _learn_text(values: Sequence[str]) -> Shape:
    alphabet = "".join(sorted(set("".join(values))))
    if not alphabet:
        return _OneOf(tuple(values))
    lengths = {len(value) for value in values}
    length = lengths.pop() if len(lengths) == 1 and len(set(values)) > 1 else None
    return _Text(alphabet, _least({len(value) for value in values}), length, tuple(values))


def _least(lengths: set[int]) -> int:
    """The shortest length that counts as allowed."""
    return min(lengths) if len(lengths) > 1 else (max(lengths, default=1) + 1) // 2


def _learn_items(values: Sequence[Sequence[Any]]) -> Shape:
    items = [item for value in values for item in value]
    lengths = {len(value) for value in values}
    by_place = len(lengths) == 1 and len({type(item) for item in items}) > 1
    if by_place:
        return _Record(tuple(learn(column) for column in zip(*values, strict=True)))
    item = learn(items)
    if isinstance(item, _Items) and all(len({len(row) for row in value}) <= 1 for value in values):
        item = replace(item, keep_length=True)  # a table: its rows stay equally long
    return _Items(
        item=item,
        least=_least(lengths),
        keep_length=len(lengths) == 1 and len(values) > 1 and all(isinstance(value, tuple) for value in values),
        ascending=isinstance(item, _Number | _Text) and _always(values, _is_ascending),
        distinct=_always(values, lambda value: all(one not in value[:place] for place, one in enumerate(value))),
    )


def _always(values: Sequence[Sequence[Any]], holds: Callable[[Sequence[Any]], bool]) -> bool:
    """Whether something holds for all values, at least two of which are long enough to show it."""
    telling = [value for value in values if len(value) > 2]
    return len(telling) > 1 and all(holds(value) for value in telling)


def _is_ascending(value: Sequence[Any]) -> bool:
    return all(one <= other for one, other in pairwise(value))
