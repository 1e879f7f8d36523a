"""Plain Python values as bytes and back, with exact types and nothing that could run.

The jail runs this file too, so it imports only what is available there and cheap. `encode` runs next to untrusted code
and can be forged. `decode` runs on the trusted side and trusts nothing: it builds only builtin values and a few
standard ones, and it never imports, calls or looks up anything that the bytes name.

A type is kept if its `==` has a meaning of its own (`OrderedDict`, `Counter`, `deque`, views of a dict). An instance of
a class that the program defines counts as the nearest of these types that it derives from, whatever its methods say.
A scalar of numpy counts as Python's. Any other object becomes an `Opaque`, which equals nothing.

A value is a tag byte, an unsigned 32-bit little-endian number, and that many bytes or items. Nothing here recurses.
"""

from __future__ import annotations

import builtins
import datetime
import itertools
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_DEPTH = 400
MAX_BYTES = 16 << 20
# Limits the memory that the bytes can turn into: an empty set is 5 bytes here, and 200 in memory.
_MAX_WEIGHT = 4_000_000
_CONTAINER_WEIGHT = 8
# Values that are expensive to build, in time (a path, everything written as text) or in memory (a deque).
_EXTRA_WEIGHTS = dict.fromkeys((b"Q", b"L", b"Z", b"D", b"M", b"A", b"H", b"r"), 7) | {
    b"/": 20, b"O": 3, b"X": 3, b"y": 3, b"u": 1, b"q": 32,
}  # fmt: skip
# Equal hashes make building a set quadratic. Honest values have a handful (-1 and -2, 1 and 1.0).
_MAX_EQUAL_HASHES = 64
_MAX_NUMBER_CHARACTERS = 4000
# 157,000 digits. Comparing an integer with a `Decimal` takes time quadratic in its length.
_MAX_INTEGER_BYTES = 1 << 16
_MIN_PACKED = 8
_LENGTH = struct.Struct("<I")
_HEAD_BYTES = 1 + _LENGTH.size
_DOUBLE = struct.Struct("<d")


class CodecError(ValueError):
    """The value cannot be encoded within the limits, or the bytes are not a value."""


class UnknownTypeError(CodecError):
    """The value contains something of a type that the codec does not know: `kind`."""

    def __init__(self, kind: type) -> None:
        super().__init__(f"a value of type {type.__getattribute__(kind, '__qualname__')} is not plain data")
        self.kind = kind


class Opaque:
    """Stands for a value of a type that the codec does not know. Equal only to itself."""

    __slots__ = ("type_name",)

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.type_name!r})"


class OpaqueCallable(Opaque):
    """Stands for a function or another callable, which cannot be called here."""

    __slots__ = ()

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Raise `TypeError`."""
        raise TypeError(f"{self.type_name} cannot be called here")


def encode(value: Any, max_bytes: int = MAX_BYTES, *, strict: bool = False) -> bytes:
    """The bytes of `value`.

    `strict` is for values from the trusted side: iterators are consumed and come back as iterators, and a value that
    would come back as an `Opaque` raises `UnknownTypeError`. Raises `CodecError` if the value is nested deeper than
    `MAX_DEPTH` or takes more than `max_bytes`.
    """
    out = bytearray()
    stack: list[Iterator[Any]] = [iter((value,))]
    weight = 0
    content: Any
    while stack:
        for item in stack[-1]:
            weight += 1
            if len(stack) > MAX_DEPTH + 1:
                raise CodecError(f"the value is nested deeper than {MAX_DEPTH}")
            if strict and type(item) in _ITERATORS:
                tag, content = b"I", list(itertools.islice(item, _MAX_WEIGHT))
            else:
                tag, content = _encoder(type(item))(item)
            weight += _EXTRA_WEIGHTS.get(tag, 0)
            if isinstance(content, list):
                weight += _CONTAINER_WEIGHT
                packed = _pack(tag, content)
                if packed is None:
                    out += tag + _LENGTH.pack(len(content))
                    _check_size(len(out) + len(content), max_bytes, weight)
                    stack.append(iter(content))
                    break
                tag, content = b"p", packed
            if strict and tag in (b"O", b"X"):
                raise UnknownTypeError(type(item))
            _check_size(len(out) + _HEAD_BYTES + len(content), max_bytes, weight)
            out += tag if tag in _CONSTANTS else tag + _LENGTH.pack(len(content)) + content
        else:
            stack.pop()
    return bytes(out)


def _check_size(num_bytes: int, max_bytes: int, weight: int) -> None:
    if num_bytes > max_bytes:
        raise CodecError(f"the value takes more than {max_bytes} bytes")
    if weight > _MAX_WEIGHT:
        raise CodecError("the value holds too many values")


def _pack(tag: bytes, items: list[Any]) -> bytes | None:
    """Items that are all 64-bit integers, or all floats, as one block; otherwise None."""
    if len(items) < _MIN_PACKED:
        return None
    kind = type(items[0])
    code = "q" if kind is int else "d" if kind is float else ""
    # Exact types: a bool is not an integer here, and instances of other classes have to be encoded one by one.
    if not code or not all(type(item) is kind for item in items):
        return None
    try:
        return tag + code.encode() + struct.pack(f"<{len(items)}{code}", *items)
    except struct.error:  # beyond 64 bits
        return None


def _encoder(kind: type) -> Callable[[Any], tuple[bytes, Any]]:
    """The function that turns a value of this type into its tag and its bytes, or its tag and the list of its items."""
    if kind in _ENCODERS:
        return _ENCODERS[kind]
    # The true ancestry: an object can lie to `isinstance` about its `__class__`.
    for base in type.__dict__["__mro__"].__get__(kind):
        if base in _ENCODERS:
            return _ENCODERS[base]
        if base is getattr(sys.modules.get("pathlib"), "PurePath", None):
            as_text: Any = base.__str__
            return lambda value: (b"/", as_text(value).encode("utf-8", "surrogatepass"))
        if base is getattr(sys.modules.get("numpy"), "generic", None):
            item = vars(base)["item"]  # a scalar without a counterpart in Python gives itself
            return lambda value: _ENCODERS.get(type(plain := item(value)), _encode_opaque)(plain)
    return _encode_opaque


def _encode_opaque(value: Any) -> tuple[bytes, Any]:
    name = type.__getattribute__(type(value), "__qualname__").encode("utf-8", "replace")[:200]
    return (b"X" if callable(value) else b"O"), name


def is_known(value: Any) -> bool:
    """Whether the type of `value` itself survives encoding, whatever it contains."""
    return _encoder(type(value)) is not _encode_opaque and (not isinstance(value, type) or id(value) in _TYPE_NAMES)


def _encode_number(value: int) -> tuple[bytes, bytes]:
    size = int.bit_length(value) // 8 + 1
    if size > _MAX_INTEGER_BYTES:
        raise CodecError(f"an integer takes more than {_MAX_INTEGER_BYTES} bytes")
    return b"i", int.to_bytes(value, size, "little", signed=True)


def _encode_default_dict(value: defaultdict[Any, Any]) -> tuple[bytes, list[Any]]:
    known = value.default_factory if id(value.default_factory) in _TYPE_NAMES else None
    return b"e", [known, *_pairs(dict.items(value))]


def _timedelta_text(value: datetime.timedelta) -> bytes:
    return f"{value.days},{value.seconds},{value.microseconds}".encode()


def _pairs(items: Any) -> list[Any]:
    return [part for pair in items for part in pair]


# Everywhere the base class's own methods: a subclass cannot hide or invent items.
_ENCODERS: dict[Any, Callable[[Any], tuple[bytes, Any]]] = {
    type(None): lambda _: (b"N", b""),
    bool: lambda value: (b"T" if value else b"F", b""),
    int: _encode_number,
    float: lambda value: (b"f", _DOUBLE.pack(float.__float__(value))),
    str: lambda value: (b"u", str.encode(value, "utf-8", "surrogatepass")),
    bytes: lambda value: (b"b", bytes.__getitem__(value, slice(None))),
    bytearray: lambda value: (b"y", bytes(memoryview(value))),
    complex: lambda value: (b"c", struct.pack("<dd", (plain := complex.__complex__(value)).real, plain.imag)),
    range: lambda value: (b"r", f"{value.start},{value.stop},{value.step}".encode()),
    list: lambda value: (b"l", list(list.__iter__(value))),
    tuple: lambda value: (b"t", list(tuple.__iter__(value))),
    dict: lambda value: (b"d", _pairs(dict.items(value))),
    set: lambda value: (b"s", list(set.__iter__(value))),
    frozenset: lambda value: (b"z", list(frozenset.__iter__(value))),
    OrderedDict: lambda value: (b"o", _pairs(OrderedDict.items(value))),
    Counter: lambda value: (b"n", _pairs(dict.items(value))),
    defaultdict: _encode_default_dict,
    deque: lambda value: (b"q", [value.maxlen, *deque.__iter__(value)]),
    type({}.keys()): lambda value: (b"k", list(value)),
    type({}.values()): lambda value: (b"v", list(value)),
    type({}.items()): lambda value: (b"w", _pairs(value)),
    Decimal: lambda value: (b"D", Decimal.__str__(value).encode()),
    Fraction: lambda value: (b"Q", f"{value._numerator}/{value._denominator}".encode()),
    datetime.datetime: lambda value: (b"M", datetime.datetime.isoformat(value).encode()),
    datetime.date: lambda value: (b"A", datetime.date.isoformat(value).encode()),
    datetime.time: lambda value: (b"H", datetime.time.isoformat(value).encode()),
    datetime.timedelta: lambda value: (b"L", _timedelta_text(value)),
    datetime.timezone: lambda value: (b"Z", _timedelta_text(value.utcoffset(None))),
    type: lambda value: (b"C", name.encode()) if (name := _TYPE_NAMES.get(id(value))) else (b"X", b"type"),
    type(...): lambda _: (b".", b""),
}
# What a test function may pass to a program: iterators that produce nothing but values.
_ITERATORS: frozenset[type] = frozenset(
    (
        *map(type, (iter([]), iter(()), iter(""), iter(range(0)), iter({}), iter(set()), reversed([]))),
        *(map, filter, zip, enumerate, type(_ for _ in ())),
    )
)


def decode(data: bytes, max_bytes: int = MAX_BYTES) -> Any:
    """The value of `data`. Raises `CodecError` for anything that `encode` could not have written.

    Takes time linear in the size of `data`, even for sets that are built to collide.
    """
    _check_size(len(data), max_bytes, 0)
    try:
        return _decode(data)
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError, struct.error) as error:
        if isinstance(error, CodecError):
            raise
        raise CodecError(f"malformed value: {type(error).__name__}") from error


def _decode(data: bytes) -> Any:
    open_containers: list[tuple[bytes, int, list[Any]]] = []
    at = weight = 0
    while True:
        weight += 1
        if len(open_containers) > MAX_DEPTH:
            raise CodecError(f"the value is nested deeper than {MAX_DEPTH}")
        tag = data[at : at + 1]
        at += 1
        if tag in _CONSTANTS:
            value = _CONSTANTS[tag]
        else:
            (length,) = _LENGTH.unpack_from(data, at)
            at += 4
            if length > len(data) - at:
                raise CodecError("the value is cut short")
            kind = data[at : at + 1] if tag == b"p" else tag
            weight += _EXTRA_WEIGHTS.get(kind, 0) + (_CONTAINER_WEIGHT if kind in _CONTAINERS else 0)
            _check_size(0, 0, weight)
            if tag in _CONTAINERS:
                if length:
                    open_containers.append((tag, length, []))
                    continue
                value = _CONTAINERS[tag]([])
            else:
                value = _SCALARS[tag](data[at : at + length])
                at += length
        while open_containers:
            tag, count, items = open_containers[-1]
            items.append(value)
            if len(items) < count:
                break
            open_containers.pop()
            value = _CONTAINERS[tag](items)
        else:
            if at != len(data):
                raise CodecError("there are bytes after the value")
            return value


def _checked(keys: list[Any]) -> list[Any]:
    """The keys, if a set of them can be built in linear time. Raises `TypeError` if one cannot be hashed."""
    hashes = list(map(hash, keys))
    if len(set(hashes)) < len(hashes):
        counts: dict[int, int] = {}
        for value in hashes:
            counts[value] = count = counts.get(value, 0) + 1
            if count > _MAX_EQUAL_HASHES:
                raise CodecError("too many values of equal hash")
    return keys


def _dict(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(_checked(items[::2]), items[1::2], strict=True))


def _counter(items: list[Any]) -> Counter[Any]:
    counter: Counter[Any] = Counter()
    dict.update(counter, _dict(items))
    return counter


def _default_dict(items: list[Any]) -> defaultdict[Any, Any]:
    factory, *rest = items
    if factory is not None and id(factory) not in _TYPE_NAMES:
        raise CodecError("the factory of a defaultdict is not a known type")
    return defaultdict(factory, _dict(rest))


def _deque(items: list[Any]) -> deque[Any]:
    length, *rest = items
    return deque(rest, length)


def _unpacked(content: bytes) -> Any:
    tag, code, block = content[:1], content[1:2], content[2:]
    if code not in (b"q", b"d"):
        raise CodecError("malformed block of numbers")
    return _CONTAINERS[tag](list(struct.unpack(f"<{len(block) // 8}{code.decode()}", block)))


def _decode_number(content: bytes) -> int:
    if len(content) > _MAX_INTEGER_BYTES:
        raise ValueError("the integer is too large")
    return int.from_bytes(content, "little", signed=True)


def _number_text(content: bytes) -> str:
    if len(content) > _MAX_NUMBER_CHARACTERS:
        raise CodecError("the number is too long")
    return content.decode("ascii")


def _three(content: bytes) -> tuple[int, int, int]:
    first, second, third = map(int, _number_text(content).split(","))
    return first, second, third


def _decode_fraction(content: bytes) -> Fraction:
    numerator, denominator = _number_text(content).split("/")
    return Fraction(int(numerator), int(denominator))


def _decode_path(content: bytes) -> Any:
    from pathlib import PurePosixPath  # few values hold a path, and the jail should start quickly

    return PurePosixPath(content.decode("utf-8", "surrogatepass"))


_CONSTANTS: dict[bytes, Any] = {b"N": None, b"T": True, b"F": False, b".": ...}
_CONTAINERS: dict[bytes, Callable[[list[Any]], Any]] = {
    b"l": lambda items: items,
    b"t": tuple,
    b"d": _dict,
    b"s": lambda items: set(_checked(items)),
    b"z": lambda items: frozenset(_checked(items)),
    b"o": lambda items: OrderedDict(_dict(items)),
    b"n": _counter,
    b"e": _default_dict,
    b"q": _deque,
    b"k": lambda items: dict.fromkeys(_checked(items)).keys(),
    b"v": lambda items: dict(enumerate(items)).values(),
    b"w": lambda items: _dict(items).items(),
    b"I": iter,
}
_SCALARS: dict[bytes, Callable[[bytes], Any]] = {
    b"i": _decode_number,
    b"f": lambda content: _DOUBLE.unpack(content)[0],
    b"u": lambda content: content.decode("utf-8", "surrogatepass"),
    b"b": bytes,
    b"y": bytearray,
    b"c": lambda content: complex(*struct.unpack("<dd", content)),
    b"r": lambda content: range(*_three(content)),
    b"p": _unpacked,
    b"D": lambda content: Decimal(_number_text(content)),
    b"Q": _decode_fraction,
    b"M": lambda content: datetime.datetime.fromisoformat(_number_text(content)),
    b"A": lambda content: datetime.date.fromisoformat(_number_text(content)),
    b"H": lambda content: datetime.time.fromisoformat(_number_text(content)),
    b"L": lambda content: datetime.timedelta(*_three(content)),
    b"Z": lambda content: datetime.timezone(datetime.timedelta(*_three(content))),
    b"/": _decode_path,
    b"C": lambda content: _TYPES[content.decode("ascii")],
    b"O": lambda content: Opaque(content.decode("utf-8", "replace")),
    b"X": lambda content: OpaqueCallable(content.decode("utf-8", "replace")),
}
_TYPES: dict[str, Any] = {
    name: value for name, value in vars(builtins).items() if type(value) is type and not name.startswith("_")
} | {
    kind.__qualname__: kind
    for kind in (
        *(Counter, OrderedDict, defaultdict, deque, Decimal, Fraction, type(None)),
        *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
    )
}
_TYPE_NAMES: dict[int, str] = {id(kind): name for name, kind in _TYPES.items()}
