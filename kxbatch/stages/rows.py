"""Rows a stage can use, and reasons for the others: what every stage over vectors or texts needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.quarantine import Rejected
from kxbatch.data.vectors import lengths, to_numpy
from kxbatch.errors import DataError

Vectors = npt.NDArray[np.float32]


def usable_vectors(
    table: pa.Table, column: str, *, nonzero: bool = False
) -> tuple[Vectors, npt.NDArray[np.bool_], list[Rejected]]:
    """The vectors of a column that can be computed with.

    A null, a length other than the most common one, NaN, infinity and (on request) a zero vector set a row aside.

    Args:
        table: has `id` and the column.
        column: a vector column.
        nonzero: zero vectors cannot be used either (cosine).

    Returns:
        float32 `[m, d]` vectors of the good rows; bool `[n]` which rows are good; the others with their reasons.

    Raises:
        DataError: the column holds no vectors.
    """
    values = table.column(column)
    length = lengths(values)
    counts = np.unique(length[length >= 0], return_counts=True)
    dim = int(counts[0][np.argmax(counts[1])]) if len(counts[0]) else 0
    reasons = np.full(len(length), "", object)
    reasons[length < 0] = "null-vector"
    reasons[(length >= 0) & (length != dim)] = "vector-length"
    kept = np.flatnonzero(length == dim)
    vectors = to_numpy(values if len(kept) == len(length) else values.take(pa.array(kept)), column)
    finite = np.isfinite(vectors).all(axis=1)
    reasons[kept[~finite]] = "not-finite"
    good = finite
    if nonzero:
        zero = ~vectors.any(axis=1)
        reasons[kept[zero & finite]] = "zero-vector"
        good = finite & ~zero
    words = {
        "null-vector": f"column '{column}' is null",
        "vector-length": f"column '{column}': length differs from {dim}, the most common one of this shard",
        "not-finite": f"column '{column}' has NaN or infinite elements",
        "zero-vector": f"column '{column}' is a zero vector, which has no direction (cosine)",
    }
    mask = reasons == ""
    return (vectors if good.all() else vectors[good]), mask, rejections(table, reasons, words)


def usable_texts(table: pa.Table, column: str) -> tuple[pa.Array, npt.NDArray[Any], dict[str, str]]:
    """The texts of a column that say something.

    Args:
        table: has the column.
        column: a text column.

    Returns:
        string `[m]`, the good texts; object `[n]`, the reason of each row, empty for the good ones; the reasons' words.
    """
    texts = table.column(column).cast(pa.string())
    reasons = np.full(len(texts), "", object)
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0).fill_null(False).to_numpy()
    reasons[blank] = "empty-text"
    reasons[texts.is_null().to_numpy()] = "null-text"
    words = {"empty-text": f"column '{column}' is empty or blank", "null-text": f"column '{column}' is null"}
    return texts.filter(pa.array(reasons == "")), reasons, words


def chosen_rows(table: pa.Table, column: str | None, key: str) -> npt.NDArray[np.bool_]:
    """The rows for which a boolean column is true, bool [n]; a null says no, and no column all.

    Args:
        table: has the column.
        column: its name.
        key: of the stage that names it.

    Raises:
        DataError: the column is not boolean.
    """
    if column is None:
        return np.ones(len(table), bool)
    values = table.column(column)
    if not pa.types.is_boolean(values.type):
        raise DataError(f"{key}: column '{column}' has type {values.type}; rows are chosen by a boolean column")
    found: npt.NDArray[np.bool_] = values.fill_null(False).to_numpy()
    return found


def rejections(table: pa.Table, reasons: npt.NDArray[Any], words: dict[str, str]) -> list[Rejected]:
    """One `Rejected` for each row that has a reason (empty string: none)."""
    rows = np.flatnonzero(reasons != "")
    ids = table.column("id")
    return [Rejected(int(r), str(ids[int(r)].as_py()), str(reasons[r]), words[str(reasons[r])]) for r in rows]
