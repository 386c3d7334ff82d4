import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.data.sources import SourceFile, hash_ids
from kxbatch.data.sources.ids import derived_ids, id_kind, missing_ids
from kxbatch.data.sources.values import json_field
from kxbatch.errors import ConfigError

SOURCE = SourceFile("/d/a.csv", "a.csv", 1, 1, "csv", "none")
IDS = st.lists(st.one_of(st.text(max_size=20), st.text("ab\0", min_size=505, max_size=520)))
MASK = 2**64 - 1


def reference(text: str) -> int:
    """The documented hash with Python's integers, a byte string at a time."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        return z ^ (z >> 31)

    data = text.encode()
    if len(data) > 512:
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    state = mix(len(data) + 0x9E3779B97F4A7C15)
    for begin in range(0, len(data), 8):
        state = mix((state ^ int.from_bytes(data[begin : begin + 8], "little")) + 0x9E3779B97F4A7C15 & MASK)
    return state


@settings(deadline=None)
@given(ids=IDS)
def test_hashes_follow_their_definition(ids: list[str]) -> None:
    assert hash_ids(pa.array(ids, pa.string())).tolist() == [reference(text) for text in ids]


@settings(deadline=None)
@given(ids=IDS, cut=st.integers(0, 5))
def test_hashes_do_not_depend_on_layout(ids: list[str], cut: int) -> None:
    whole = pa.array(["before", *ids, "after"])
    expected = hash_ids(whole)[1:-1].tolist()
    assert hash_ids(whole.slice(1, len(ids))).tolist() == expected
    assert hash_ids(pa.chunked_array([ids[:cut], ids[cut:]], pa.string())).tolist() == expected
    assert hash_ids(pa.array(ids, pa.large_string())).tolist() == expected


@settings(deadline=None)
@given(ids=st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_an_integer_is_hashed_as_its_digits(ids: list[int]) -> None:
    assert np.array_equal(hash_ids(pa.array(ids, pa.int64())), hash_ids(pa.array(map(str, ids), pa.string())))


def test_no_collisions_and_even_bits_over_a_million_similar_ids() -> None:
    hashes = hash_ids(
        pa.array([f"https://example.org/doc/{i:09d}" for i in range(500_000)] + list(map(str, range(500_000))))
    )
    assert len(np.unique(hashes)) == 1_000_000
    # Each bit is a fair coin: 5 standard deviations of a binomial with n = 10^6 are 2 500.
    ones = [int(((hashes >> np.uint64(bit)) & np.uint64(1)).sum()) for bit in range(64)]
    assert max(abs(count - 500_000) for count in ones) < 2_500


@settings(deadline=None)
@given(numbers=st.lists(st.integers(0, 2**62)))
def test_derived_ids(numbers: list[int]) -> None:
    ids = derived_ids(SOURCE, np.array(numbers, np.int64))
    assert ids.type == pa.string()
    assert ids.to_pylist() == [f"a.csv#{n}" for n in numbers]


def test_kinds_of_ids() -> None:
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        assert id_kind(SOURCE, pa.field("doc", kind)) == pa.string()
    for kind in (pa.int8(), pa.uint32(), pa.int64()):
        assert id_kind(SOURCE, pa.field("doc", kind)) == pa.int64()
    others = [pa.field("doc", kind) for kind in (pa.float64(), pa.bool_(), pa.list_(pa.float64()), pa.timestamp("us"))]
    for field in [*others, json_field("doc", [{"a": 1}])]:
        with pytest.raises(ConfigError, match=r"/d/a\.csv: id column 'doc' is .*; ids are strings or integers"):
            id_kind(SOURCE, field)


def test_missing_ids_are_null_or_empty() -> None:
    assert missing_ids(pa.chunked_array([["a", None], ["", " "]])).tolist() == [False, True, True, False]
    assert missing_ids(pa.array([0, None], pa.int64())).tolist() == [False, True]
