"""The codec as rules: what goes in comes out with its type, and bytes that nobody encoded are refused, quickly."""

from __future__ import annotations

import datetime
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.sandbox.codec import (
    MAX_BYTES,
    MAX_DEPTH,
    CodecError,
    Opaque,
    OpaqueCallable,
    UnknownTypeError,
    decode,
    encode,
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**2000, max_value=2**3000),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.complex_numbers(allow_nan=False),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.fractions(),
    st.dates(),
    st.datetimes(),
    st.timedeltas(),
    st.times(),
    st.timezones()
    .flatmap(lambda zone: st.datetimes(timezones=st.just(zone)))
    .map(lambda one: one.astimezone(datetime.UTC)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(SCALARS, inner),
        st.sets(SCALARS),
        st.frozensets(SCALARS),
        st.lists(inner).map(deque),
        st.dictionaries(SCALARS, inner).map(OrderedDict),
    ),
    max_leaves=20,
)


def shape(value: Any) -> Any:
    """Types all the way down."""
    if isinstance(value, dict):
        return dict, {key: (shape(key), shape(item)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), {item: shape(item) for item in value}
    return type(value)


@given(VALUES)
def test_values_come_back_with_their_types(value: Any) -> None:
    decoded = decode(encode(value))
    assert decoded == value
    assert shape(decoded) == shape(value)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_are_a_value(data: bytes) -> None:
    try:
        value = decode(data)
    except CodecError:
        return
    encode(value)


@given(VALUES, st.data())
def test_damaged_bytes_never_raise_anything_else(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] = data.draw(st.integers(0, 255))
    for damaged in (bytes(encoded), bytes(encoded[:at])):
        try:
            decode(damaged)
        except CodecError:
            continue


@given(
    st.lists(
        st.one_of(
            st.sampled_from([bytes([tag]) for tag in b"ltdszuibonqekvwIpDQMAHLZ/CfcrNTF.OX"]),
            st.integers(0, 9).map(lambda length: struct.pack("<I", length)),
            st.binary(max_size=9),
        )
    ).map(b"".join)
)
def test_random_tags_never_raise_anything_else(data: bytes) -> None:
    try:
        decode(data)
    except CodecError:
        return


def test_subclasses_count_as_their_base() -> None:
    class Sly(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

        def to_bytes(self, *_: Any, **__: Any) -> bytes:
            return b"\x19"

    pair = namedtuple("pair", "a b")
    assert decode(encode(Sly(7))) == 7
    assert type(decode(encode(Sly(7)))) is int
    assert decode(encode(pair(1, 2))) == (1, 2)


def test_types_with_their_own_equality_are_kept() -> None:
    class Tally(Counter[str]):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    assert decode(encode(OrderedDict(a=1, b=2))) != OrderedDict(b=2, a=1)
    assert type(decode(encode(Tally("aab")))) is Counter
    assert decode(encode(Tally("aab"))) == Counter("aab") != decode(encode(Counter("ab")))
    assert decode(encode(deque([1, 2], 5))) == deque([1, 2]) != [1, 2]
    assert decode(encode(defaultdict(list, {1: [2]})))[7] == []
    assert decode(encode({1: 2, 3: 4}.keys())) == {1, 3}
    assert decode(encode({1: 2}.items())) == {(1, 2)}
    assert list(decode(encode({1: [2]}.values()))) == [[2]]
    assert decode(encode(Path("a") / "b")) == PurePosixPath("a/b")
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert decode(encode(datetime.datetime(2024, 1, 1, 2, tzinfo=zone))) == datetime.datetime(
        2024, 1, 1, tzinfo=datetime.UTC
    )
    assert decode(encode(datetime.time(1, 2, tzinfo=zone))) == datetime.time(1, 2, tzinfo=zone)
    assert decode(encode(zone)) == zone


def test_known_classes_come_back_and_others_do_not() -> None:
    class Own(dict[str, int]):
        pass

    Own.__name__ = Own.__qualname__ = "dict"
    kinds = [dict, Counter, ValueError, type(None), ...]
    assert decode(encode(kinds)) == kinds
    assert [type(value) for value in decode(encode([Own, len, lambda: 1]))] == [OpaqueCallable] * 3
    with pytest.raises(UnknownTypeError, match="builtin_function"):
        encode([len], strict=True)


def test_iterators_from_the_trusted_side_stay_iterators() -> None:
    decoded = decode(encode([iter([1, 2]), (x for x in "ab"), zip([1], [2], strict=True)], strict=True))
    assert [next(one) for one in decoded] == [1, "a", (1, 2)]
    assert type(decode(encode(iter([1])))) is Opaque


def test_object_that_lies_about_its_class_is_opaque() -> None:
    class Liar:
        __class__ = property(lambda self: dict)

    assert type(decode(encode(Liar()))) is Opaque


@given(st.lists(st.integers(-(2**65), 2**65) | st.booleans() | st.floats(allow_nan=False), min_size=8))
def test_blocks_of_numbers_keep_the_type_of_each(values: list[Any]) -> None:
    for value in (values, tuple(values), set(values), dict.fromkeys(values, 1)):
        decoded = decode(encode(value))
        assert decoded == value
        assert shape(decoded) == shape(value)


def test_unknown_objects_are_opaque_and_equal_nothing() -> None:
    class Always:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = object.__hash__

    value = decode(encode([Always()]))[0]
    assert type(value) is Opaque
    assert value.type_name.endswith("Always")
    values: list[Any] = [value]
    assert 25 not in values
    assert value != decode(encode(Always()))


@pytest.mark.parametrize(
    "value",
    [
        2**70,
        -(2**70),
        Decimal("NaN"),
        Decimal("1E+100"),
        Fraction(1, 3),
        datetime.timedelta(days=-1),
        range(3),
        "\ud800",
    ],
    ids=repr,
)
def test_values_at_the_edges(value: Any) -> None:
    decoded = decode(encode(value))
    assert type(decoded) is type(value)
    assert str(decoded) == str(value)


@pytest.mark.slow
def test_depth_and_size_are_capped() -> None:
    nested: Any = 0
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert decode(encode(nested)) == nested
    with pytest.raises(CodecError, match="deeper"):
        encode([nested])
    with pytest.raises(CodecError, match="more than"):
        encode("x" * MAX_BYTES)
    with pytest.raises(CodecError, match="too many values"):
        encode([set() for _ in range(10**6)])
    with pytest.raises(CodecError, match="too many values"):
        decode(b"l" + struct.pack("<I", 10**6) + (b"s" + struct.pack("<I", 0)) * 10**6)
    with pytest.raises(CodecError, match="more than"):
        decode(b"u" + struct.pack("<I", MAX_BYTES) + b"x" * MAX_BYTES)
    with pytest.raises(CodecError, match="deeper"):
        decode((b"l" + struct.pack("<I", 1)) * (MAX_DEPTH + 5) + b"N")
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with pytest.raises(CodecError, match="deeper"):
        encode(cyclic)


def test_sets_built_to_collide_are_refused() -> None:
    colliding = [k * (2**61 - 1) for k in range(1000)]
    data = b"s" + struct.pack("<I", len(colliding)) + b"".join(map(encode, colliding))
    with pytest.raises(CodecError, match="equal hash"):
        decode(data)


def test_false_lengths_allocate_nothing() -> None:
    for tag in b"ltdszuibonqekvwIpDQMAHLZ/C":
        with pytest.raises(CodecError):
            decode(bytes([tag]) + struct.pack("<I", 2**32 - 1))
