"""Variations of standard inputs: tokens by what stands at the same place, with the counts in front kept right.

Inputs of contests say how much follows: `3` and then three lines, `5` and then a line of five numbers or of five
characters. Which tokens are such counts is recognised from all inputs of a problem; after a change they are set to what
is there. An input whose layout is more than lines of words (a picture in characters) is only varied within its words.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from augmentation.values import Shape, learn

Lines = list[list[str]]
_INTEGER = re.compile(r"[+-]?\d{1,400}")
_FLOAT = re.compile(r"[+-]?\d{1,40}\.\d{1,20}")
_MAX_LINES = 40
_HEADER_LINES = 2
_MAX_CHANGES = 4
_MAX_COUNTED = 4


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The first token counts blocks of `size` lines each, which make up the rest."""

    size: int


@dataclass(frozen=True, slots=True)
class _Count:
    """Token `column` of line `offset` (within its block, where there are blocks) counts what its next line holds.

    It counts the words there, and of `num_lines` lines in all that are equally long; or the characters of the one word.
    """

    offset: int
    column: int
    characters: bool
    num_lines: int = 1


class InputShape:
    """What the inputs of one problem have in common."""

    def __init__(self, texts: Sequence[str]) -> None:
        inputs = [lines for lines in map(_split, texts) if lines]
        self._blocks = _find_blocks(inputs)
        self._counts = _find_counts(inputs, self._blocks)
        self._shapes = self._learn(inputs)
        self._ranked = self._find_ranked(inputs)

    def vary(self, text: str, rng: random.Random) -> str:
        """Another input near `text`; the same one where nothing in it can vary."""
        lines = _split(text)
        if not lines or len(lines) > _MAX_LINES:
            return text
        for _ in range(rng.randint(1, _MAX_CHANGES)):
            changes = [self._vary_token, self._vary_token, self._vary_line]
            changes += [self._vary_blocks] if self._blocks else []
            rng.choice(changes)(lines, rng)
        for number, line in enumerate(lines):
            if self._line_place(number) in self._ranked:
                lines[number] = _ranks(line)
        self._recount(lines)
        return "\n".join(" ".join(line) for line in lines) + "\n"

    def _learn(self, inputs: Sequence[Lines]) -> dict[tuple[int, int, type], Shape]:
        """Shapes by place and by kind of token: a line that moves may bring another kind along."""
        seen: defaultdict[tuple[int, int, type], list[Any]] = defaultdict(list)
        for lines in inputs:
            for number, line in enumerate(lines):
                for column, token in enumerate(line):
                    value = _value(token)
                    seen[*self._place(number, column), type(value)].append(value)
        return {place: learn(values) for place, values in seen.items()}

    def _find_ranked(self, inputs: Sequence[Lines]) -> set[int]:
        """The places of lines that are always a permutation of 1 to n."""
        rows: defaultdict[int, list[list[str]]] = defaultdict(list)
        for lines in inputs:
            for number, line in enumerate(lines):
                rows[self._line_place(number)].append(line)
        return {
            place
            for place, found in rows.items()
            if any(len(line) > 2 for line in found) and all(sorted(line) == sorted(_ranks(line)) for line in found)
        }

    def _line_place(self, number: int) -> int:
        """Where a line stands; alike for the lines of different blocks that mean the same."""
        if self._blocks and number:
            number = 1 + (number - 1) % self._blocks.size
        return min(number, _HEADER_LINES)

    def _place(self, number: int, column: int) -> tuple[int, int]:
        """Where a token stands; alike for those far to the right."""
        return self._line_place(number), min(column, 2)

    def _offset(self, number: int) -> int:
        return (number - 1) % self._blocks.size if self._blocks else number

    def _counting(self, lines: Lines) -> Iterator[tuple[int, _Count]]:
        """The line of each count in an input."""
        for count in self._counts:
            for number in range(1 if self._blocks else 0, len(lines) - 1):
                if self._offset(number) == count.offset and count.column < len(lines[number]):
                    yield number, count

    def _is_count(self, lines: Lines, number: int, column: int) -> bool:
        if self._blocks and number == column == 0:
            return True
        return any((number, column) == (at, count.column) for at, count in self._counting(lines))

    def _vary_token(self, lines: Lines, rng: random.Random) -> None:
        places = [
            (number, column)
            for number, line in enumerate(lines)
            for column in range(len(line))
            if not self._is_count(lines, number, column)
        ]
        if not places:
            return
        number, column = rng.choice(places)
        value = _value(lines[number][column])
        shape = self._shapes.get((*self._place(number, column), type(value)))
        varied = str(shape.vary(value, rng)) if shape else ""
        if varied and not varied.split()[1:]:
            lines[number][column] = varied

    def _vary_line(self, lines: Lines, rng: random.Random) -> None:
        """Shuffle, shorten or lengthen a line that a count in front of it counts."""
        counted = [
            number + place
            for number, count in self._counting(lines)
            for place in range(1, count.num_lines + 1)
            if not count.characters and number + place < len(lines)
        ]
        if not counted:
            return
        line = lines[rng.choice(counted)]
        change = rng.randrange(4)
        if change == 0:
            rng.shuffle(line)
        elif change == 1 and len(line) > 1:
            del line[rng.randint(1, len(line) - 1) :]
        elif change == 2 and len(line) > 1:
            del line[rng.randrange(len(line))]
        elif line:
            line.insert(rng.randint(0, len(line)), rng.choice(line))

    def _vary_blocks(self, lines: Lines, rng: random.Random) -> None:
        """Take a block away, repeat one, or put two in the other order."""
        size = self._blocks.size if self._blocks else 1
        starts = range(1, len(lines), size)
        if not starts:
            return
        first, second = rng.choice(starts), rng.choice(starts)
        change = rng.randrange(3)
        if change == 0 and len(starts) > 1:
            del lines[first : first + size]
        elif change == 1 and len(lines) + size <= _MAX_LINES:
            lines[first:first] = [list(line) for line in lines[second : second + size]]
        elif first < second:
            one, other = lines[first : first + size], lines[second : second + size]
            lines[second : second + size] = one
            lines[first : first + size] = other

    def _recount(self, lines: Lines) -> None:
        for number, count in self._counting(lines):
            following = lines[number + 1]
            counted = len(following[0]) if count.characters and following else len(following)
            lines[number][count.column] = str(counted)
            for other in lines[number + 2 : number + 1 + count.num_lines]:
                other += other[-1:] * (counted - len(other))
                del other[counted:]
        if self._blocks:
            lines[0][0] = str((len(lines) - 1) // self._blocks.size)


def _split(text: str) -> Lines:
    """Lines of words without empty lines at the end; none where blanks have a meaning of their own."""
    lines = text.replace("\r\n", "\n").rstrip().split("\n")
    words = [line.split() for line in lines]
    plain = all(" ".join(line) == text.strip() for line, text in zip(words, lines, strict=True))
    return words if plain and words[0] else []


def _ranks(line: list[str]) -> list[str]:
    """Each number's place in the order of the line, from 1; words as they are."""
    values = [_number(token) for token in line]
    order = sorted(range(len(line)), key=lambda place: values[place] or 0)
    ranks = {place: str(rank) for rank, place in enumerate(order, start=1)}
    return line if None in values else [ranks[place] for place in range(len(line))]


def _value(token: str) -> Any:
    """A token as what it looks like; text with digits that a number would lose (`007`) stays text."""
    if _INTEGER.fullmatch(token) and str(int(token)) == token:
        return int(token)
    if _FLOAT.fullmatch(token):
        return float(token)
    return token


def _number(token: str) -> int | None:
    value = _value(token)
    return value if isinstance(value, int) else None


def _find_blocks(inputs: Sequence[Lines]) -> _Blocks | None:
    """Whether the lone number on the first line of every input counts the blocks behind it."""
    sizes = set()
    for lines in inputs:
        number = _number(lines[0][0]) if len(lines[0]) == 1 else None
        if number is None or number < 1 or len(lines) == 1 or (len(lines) - 1) % number:
            return None
        sizes.add((len(lines) - 1) // number)
    # One input `1` with lines behind it says nothing; neither does a first number that is a count by chance.
    telling = any(lines[0][0] != "1" for lines in inputs)
    return _Blocks(sizes.pop()) if len(sizes) == 1 and telling else None


def _find_counts(inputs: Sequence[Lines], blocks: _Blocks | None) -> tuple[_Count, ...]:
    """The counts that hold in every input, and in every block."""
    found = []
    for offset in range(blocks.size - 1 if blocks else 1):
        for column in range(3):
            for characters in (False, True):
                counts = [_Count(offset, column, characters, num_lines) for num_lines in range(1, _MAX_COUNTED + 1)]
                holding = list(takewhile(lambda count: _holds(count, inputs, blocks), counts))
                if holding:
                    found.append(holding[-1])
                    break
    return tuple(found)


def _holds(count: _Count, inputs: Sequence[Lines], blocks: _Blocks | None) -> bool:
    telling = False
    for lines in inputs:
        first, step = (1 + count.offset, blocks.size) if blocks else (count.offset, len(lines) + 1)
        numbers = range(first, len(lines) - 1, step)
        if not numbers:
            return False
        for number in numbers:
            line, following = lines[number], lines[number + 1 : number + 1 + count.num_lines]
            value = _number(line[count.column]) if count.column < len(line) else None
            if value is None or {value} != {_length(one, count) for one in following}:
                return False
            if len(following) < count.num_lines or (blocks and count.offset + count.num_lines >= blocks.size):
                return False
            telling |= value > 1
    return telling


def _length(line: list[str], count: _Count) -> int | None:
    if not count.characters:
        return len(line)
    return len(line[0]) if len(line) == 1 else None
