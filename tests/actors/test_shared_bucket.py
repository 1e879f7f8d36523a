"""Weights in memory that other processes map."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rltf.actors.shared_bucket import read, shared
from rltf.transport.weights import Bucket
from tests.tiers import examples

PARAMETERS = st.one_of(
    [arrays.arrays(dtype, arrays.array_shapes(max_dims=3, max_side=7)) for dtype in (np.float32, np.uint16, np.int8)]
)


@examples(0.3)
@given(st.dictionaries(st.text(max_size=8), PARAMETERS, min_size=1, max_size=5))
def test_a_bucket_is_read_as_it_was_and_stays_valid(bucket: Bucket) -> None:
    with shared(bucket) as where:
        found = read(where)
    assert list(found) == list(bucket)
    for name, array in bucket.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_the_memory_has_no_name_and_is_given_back() -> None:
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir()))
    with shared({"weight": np.zeros(1000)}) as where:
        assert os.readlink(where.path).startswith("/memfd:")
        read(where)
    assert len(list(folder.iterdir())) == before
