"""The arguments of MBPP+'s releases. JSON made lists of their tuples and sets, and strings of complex numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_Convert = Callable[[Any], Any]


def _each(convert: _Convert) -> _Convert:
    return lambda values: [convert(value) for value in values]


def _tuple_of(convert: _Convert) -> _Convert:
    return lambda values: tuple(convert(value) for value in values)


def _nested_tuple(value: Any) -> Any:
    return tuple(_nested_tuple(item) for item in value) if isinstance(value, list) else value


def _tuple_if_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _same(value: Any) -> Any:
    return value


_EVERY_ARGUMENT: dict[_Convert, Sequence[int]] = {
    tuple: (
        *(2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429),
        *(470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
    ),
    _each(tuple): (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
    _tuple_of(tuple): (259, 401, 445),
    _tuple_of(_tuple_if_list): (278,),
    _nested_tuple: (580, 615, 791),
}
_FIRST_ARGUMENT: dict[_Convert, Sequence[int]] = {
    tuple: (250, 307, 405, 446, 617, 720, 763, 808),
    _each(tuple): (75, 413, 444, 753),
    # EvalPlus gives the reference `{}` for an empty set.
    _each(lambda items: set(items) if items else {}): (115,),
    lambda items: {key: tuple(value) for key, value in items.items()}: (722,),
    complex: (252,),
    float: (124,),
}
_SECOND_ARGUMENT: dict[_Convert, Sequence[int]] = {tuple: (106, 750), complex: (124,)}


def mbpp_arguments(number: int, arguments: list[Any]) -> tuple[Any, ...]:
    """The arguments of a test of problem `number`, in the types that EvalPlus gives them."""
    for convert, numbers in _EVERY_ARGUMENT.items():
        if number in numbers:
            return tuple(convert(argument) for argument in arguments)
    converts = [_convert_of(number, table) for table in (_FIRST_ARGUMENT, _SECOND_ARGUMENT)]
    converts += [_same] * (len(arguments) - len(converts))
    return tuple(convert(argument) for convert, argument in zip(converts, arguments, strict=False))


def _convert_of(number: int, table: dict[_Convert, Sequence[int]]) -> _Convert:
    return next((convert for convert, numbers in table.items() if number in numbers), _same)
