"""Weights are packed for the object store and come back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltf.transport.weights import checksum, pack, publish, to_numpy, unpack

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64]


@st.composite
def parameter_lists(draw: st.DrawFn) -> list[tuple[str, torch.Tensor]]:
    shapes = draw(st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    return [
        (f"layer.{i}", (torch.randn(shape, generator=generator) * 100).to(draw(st.sampled_from(DTYPES))))
        for i, shape in enumerate(shapes)
    ]


@given(parameter_lists(), st.integers(1, 600))
def test_unpacked_parameters_are_bit_identical_and_in_order(
    parameters: list[tuple[str, torch.Tensor]], bucket_bytes: int
) -> None:
    restored = list(unpack(pack(parameters, bucket_bytes=bucket_bytes)))
    assert [name for name, _ in restored] == [name for name, _ in parameters]
    for (_, new), (_, old) in zip(restored, parameters, strict=True):
        assert new.dtype == old.dtype
        assert new.shape == old.shape
        assert torch.equal(new, old)


@given(parameter_lists(), st.integers(1, 600))
def test_buckets_keep_to_their_size_and_the_checksum_ignores_it(
    parameters: list[tuple[str, torch.Tensor]], bucket_bytes: int
) -> None:
    buckets = list(pack(parameters, bucket_bytes=bucket_bytes))
    for bucket in buckets:
        assert len(bucket) == 1 or sum(array.nbytes for array in bucket.values()) <= bucket_bytes
    assert checksum(buckets) == checksum(pack(parameters, bucket_bytes=10**9))


def test_checksum_sees_one_flipped_bit_and_a_renamed_parameter() -> None:
    weight = torch.zeros(4, 4)
    other = weight.clone()
    other[3, 3] = 1e-45
    original = checksum(pack([("a", weight)]))
    assert checksum(pack([("a", other)])) != original
    assert checksum(pack([("b", weight)])) != original


def test_non_contiguous_parameters_are_packed_by_value() -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    (_, restored), *_ = unpack(pack([("w", weight.t())]))
    assert torch.equal(restored, weight.t())


def test_contiguous_host_parameters_are_not_copied() -> None:
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    array = to_numpy(weight)
    weight.data.fill_(1)
    assert array.tolist() == [0x3F80] * 3


def test_a_bucket_is_made_before_the_parameters_of_the_next() -> None:
    asked: list[str] = []

    def parameters() -> Iterator[tuple[str, torch.Tensor]]:
        for name in "abcd":
            asked.append(name)
            yield name, torch.zeros(10)

    assert list(next(pack(parameters(), bucket_bytes=80))) == ["a", "b"]
    assert asked == ["a", "b", "c"]


def test_duplicate_names_and_uint16_are_refused() -> None:
    with pytest.raises(ValueError, match="'w' was given twice"):
        list(pack([("w", torch.zeros(1)), ("w", torch.zeros(1))]))
    with pytest.raises(TypeError, match="uint16"):
        list(pack([("w", torch.zeros(1, dtype=torch.uint16))]))


def test_published_weights_come_back_from_the_object_store(ray_session: None) -> None:
    random = torch.Generator().manual_seed(0)
    parameters = [
        ("a", torch.randn(1000, 100, generator=random)),
        ("b", torch.randn(7, generator=random).to(torch.bfloat16)),
    ]
    handle = publish(3, parameters)
    restored = dict(unpack(ray.get(list(handle.refs))))
    assert handle.version == 3
    assert handle.num_bytes == 400_000 + 14
    assert all(torch.equal(restored[name], value) for name, value in parameters)


@pytest.mark.slow
def test_weights_larger_than_the_object_store_go_over_the_disk(ray_session: None) -> None:
    """320 MB in a store of 200 MB."""
    parameters = [(f"w{index}", torch.full((10_000_000,), float(index))) for index in range(8)]
    handle = publish(1, parameters, verify=True)
    crc = 0
    for ref in handle.refs:
        bucket = ray.get(ref)
        crc = checksum([bucket], crc)
    assert crc == handle.checksum
