"""Ids of rows: taken from a column or made from file name and row number, and hashed to find doubles."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.sources.model import BoolArray, HashArray, IntArray, SourceFile
from kxbatch.data.sources.values import is_json, is_text
from kxbatch.errors import ConfigError

_LONG_ID_BYTES = 512
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def derived_ids(source: SourceFile, numbers: IntArray) -> pa.Array:
    """Ids `name#number`.

    Args:
        source: the file.
        numbers: physical row numbers, int64[n].

    Returns:
        string[n].
    """
    return pc.binary_join_element_wise(
        pa.scalar(source.name), pa.array(numbers).cast(pa.string()), pa.scalar("#"), null_handling="emit_null"
    )


def id_kind(source: SourceFile, column: pa.Field) -> pa.DataType:
    """The type of `id` for an id column: string or int64.

    Raises:
        ConfigError: the column holds something that identifies no row.
    """
    if is_text(column.type) and not is_json(column):
        return pa.string()
    if pa.types.is_integer(column.type):
        return pa.int64()
    kind = "JSON objects or arrays" if is_json(column) else column.type
    raise ConfigError(
        f"{source.url}: id column '{column.name}' is {kind}; ids are strings or integers: use another column"
    )


def missing_ids(ids: pa.Array | pa.ChunkedArray) -> BoolArray:
    """Which ids are null or empty, bool[n]."""
    missing = pc.is_null(ids)
    if pa.types.is_string(ids.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(ids, ""), True))
    found: BoolArray = np.asarray(missing)
    return found


def hash_ids(ids: pa.Array | pa.ChunkedArray) -> HashArray:
    """64-bit hashes of ids, the same on every machine and in every version.

    Integers are hashed as their decimal digits, so that 12 and "12" are doubles. Words of 8 bytes are chained through
    the finalizer of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators"); it
    is a bijection, so ids of equal length that differ in one word never collide. Ids beyond 512 bytes take BLAKE2b.

    Args:
        ids: strings or integers, without nulls.

    Returns:
        uint64[n].
    """
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    hashes = [_hash_strings(chunk.cast(pa.string()).cast(pa.large_string())) for chunk in chunks if len(chunk)]
    return np.concatenate(hashes) if hashes else np.empty(0, np.uint64)


def _hash_strings(texts: pa.Array) -> HashArray:
    _, offsets_buffer, data_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    data = (data_buffer.slice(first, last - first).to_pybytes() if last > first else b"") + bytes(8)
    starts, lengths = offsets[:-1] - first, np.diff(offsets)
    # A word may begin at any byte: an overlapping view, one byte apart, little-endian everywhere.
    words = np.ndarray(shape=(len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
    hashes = _mix(lengths.astype(np.uint64) + _GOLDEN)
    active = np.flatnonzero(lengths <= _LONG_ID_BYTES)
    for begin in range(0, _LONG_ID_BYTES, 8):
        active = active[lengths[active] > begin]
        if not len(active):
            break
        beyond = 8 * np.clip(begin + 8 - lengths[active], 0, 7).astype(np.uint64)
        word = words[starts[active] + begin] << beyond >> beyond  # bytes of the next id do not count
        hashes[active] = _mix((hashes[active] ^ word) + _GOLDEN)
    for index in np.flatnonzero(lengths > _LONG_ID_BYTES):
        text = data[starts[index] : starts[index] + lengths[index]]
        hashes[index] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return hashes


def _mix(z: HashArray) -> HashArray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
