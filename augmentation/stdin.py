"""Variations of standard inputs, which keep the counts in them right.

Contest inputs say how much follows: `3` and then three lines, `5` and then a line of five numbers or five characters.
An input is read as blocks of lines of values. The inputs of a problem show which values are counts. After a change, the
counts are set to what is there. Inputs that are more than lines of words (pictures made of characters) do not vary.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product, takewhile
from typing import Any

from rltf.augmentation.values import Rule, items, places

Lines = list[list[Any]]
_INTEGER = re.compile(r"[+-]?\d{1,400}")
_FLOAT = re.compile(r"[+-]?\d{1,40}\.\d{1,20}")
_MAX_LINES = 40
_MAX_CHANGES = 3
_MAX_COUNTED = 4
_LAST_PLACE = 2  # all lines from this one on mean the same; no later column is a count


@dataclass(frozen=True, slots=True)
class _Count:
    """In every block, the value in `column` of line number `line` counts what each of the next `num_lines` lines holds.

    It counts values or, with `of_characters`, the characters of the only word on one line.
    """

    line: int
    column: int
    of_characters: bool
    num_lines: int

    def lengths(self, block: Lines) -> list[int]:
        """What it should say of each line that it counts; -1 if it cannot count the line."""
        lines = block[self.line + 1 : self.line + 1 + self.num_lines]
        if not self.of_characters:
            return list(map(len, lines))
        return [len(str(line[0])) if len(line) == 1 else -1 for line in lines]

    def holds(self, block: Lines) -> bool:
        """Whether it is right in a block."""
        return self.lengths(block) == [_at(block, self.line, self.column)] * self.num_lines

    def set(self, block: Lines) -> None:
        """Make it right, with the first line it counts as the model for the others."""
        length = block[self.line][self.column] = self.lengths(block)[0]
        for line in block[self.line + 2 : self.line + 1 + self.num_lines]:
            line[:] = (line + line[-1:] * (length - len(line)))[:length]


def learn_inputs(texts: Sequence[str]) -> Rule:
    """The rule for the standard inputs of one problem."""
    inputs = [lines for lines in map(_read, texts) if lines]
    size = _block_size(inputs)

    def split(lines: Lines) -> list[Lines]:
        return [lines[start : start + size] for start in range(1, len(lines), size)] if size else [lines]

    split_inputs = [split(lines) for lines in inputs]
    blocks = [block for found in split_inputs for block in found]
    counts = _find_counts(blocks, size - 1 if size else 1)
    vary_block = _learn_blocks(blocks, counts)
    vary_blocks = items(split_inputs, vary_block, is_ordered=False)

    def vary(text: str, rng: random.Random) -> str:
        lines = _read(text)
        if not lines or len(lines) > _MAX_LINES:
            return text
        varied = split(lines)
        for _ in range(rng.randint(1, _MAX_CHANGES)):
            varied = vary_blocks(varied, rng) if size else [vary_block(varied[0], rng)]
        for block in varied:
            for count in counts:
                count.set(block)
        header = [[[len(varied)]]] if size else []
        return "".join(" ".join(map(str, line)) + "\n" for line in chain.from_iterable([*header, *varied]))

    return vary


def _learn_blocks(blocks: Sequence[Lines], counts: Sequence[_Count]) -> Rule:
    """The rule for blocks: only lines whose values are counted change their length."""
    num_counts = Counter(count.line for count in counts)
    counted = {
        count.line + 1 + place for count in counts if not count.of_characters for place in range(count.num_lines)
    }

    def place_of(number: int) -> tuple[int, bool]:
        return min(number, _LAST_PLACE), number in counted

    found: defaultdict[tuple[int, bool], Lines] = defaultdict(list)
    for block in blocks:
        for number, line in enumerate(block):
            found[place_of(number)].append(line)
    rules = {place: items(lines, is_ordered=False) if place[1] else places(lines) for place, lines in found.items()}

    def vary(block: Lines, rng: random.Random) -> Lines:
        varied = [list(line) for line in block]
        free = [number for number, line in enumerate(varied) if len(line) > num_counts[number]]
        if free:
            number = rng.choice(free)
            varied[number] = rules[place_of(number)](varied[number], rng)
        return varied

    return vary


def _read(text: str) -> Lines:
    """The values in the lines of a text, without empty lines at the end; empty if its blanks have a meaning."""
    lines = text.replace("\r\n", "\n").rstrip().split("\n")
    words = [line.split() for line in lines]
    is_plain = all(" ".join(found) == line.strip() for found, line in zip(words, lines, strict=True))
    return [list(map(_value, line)) for line in words] if is_plain and words[0] else []


def _value(token: str) -> int | float | str:
    """The number that a token looks like. Text with digits that a number would lose (`007`) stays text."""
    if _INTEGER.fullmatch(token) and str(int(token)) == token:
        return int(token)
    return float(token) if _FLOAT.fullmatch(token) else token


def _at(lines: Lines, line: int, column: int) -> int | None:
    """The integer in a place, if there is one."""
    value = lines[line][column] if line < len(lines) and column < len(lines[line]) else None
    return value if isinstance(value, int) else None


def _block_size(inputs: Sequence[Lines]) -> int | None:
    """The lines per block, if the single number on every input's first line counts the blocks after it."""
    sizes = set()
    for lines in inputs:
        number = _at(lines, 0, 0) if len(lines[0]) == 1 else None
        if number is None or number < 1 or len(lines) == 1 or (len(lines) - 1) % number:
            return None
        sizes.add((len(lines) - 1) // number)
    # Inputs that all start with 1 prove nothing. A first number that fits by chance gives different sizes.
    return sizes.pop() if len(sizes) == 1 and any(lines[0] != [1] for lines in inputs) else None


def _find_counts(blocks: Sequence[Lines], num_lines: int) -> list[_Count]:
    """The counts in the first `num_lines` lines that are right in every block."""
    found: dict[tuple[int, int], _Count] = {}
    for line, column, of_characters in product(range(num_lines), range(_LAST_PLACE + 1), (False, True)):
        counts = [_Count(line, column, of_characters, number + 1) for number in range(_MAX_COUNTED)]
        holding = list(takewhile(lambda count: all(map(count.holds, blocks)), counts[: 1 if of_characters else None]))
        if holding and any((_at(block, line, column) or 0) > 1 for block in blocks):
            found.setdefault((line, column), holding[-1])
    return list(found.values())
