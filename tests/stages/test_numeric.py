"""Columns as one array: numbers, vectors, images, mixes; every reason to set a row aside, every type that is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kxbatch.data.vectors import to_arrow
from kxbatch.errors import ConfigError, DataError
from kxbatch.stages.numeric import Domain, Numeric, check_kinds, read_numeric

ANY = Domain(None)


def table(**columns: Any) -> pa.Table:
    made = {name: column if isinstance(column, pa.Array) else pa.array(column) for name, column in columns.items()}
    rows = len(next(iter(made.values())))
    return pa.table({"id": [f"r{n}" for n in range(rows)], **made})


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def reasons(found: Numeric) -> dict[int, str]:
    told = {one.row: one.error for one in found.rejected}
    assert [one.row for one in found.rejected] == sorted(told)
    assert np.flatnonzero(~found.usable).tolist() == sorted(told)
    assert len(found.values) == found.usable.sum()
    assert all(one.id == f"r{one.row}" and one.message for one in found.rejected)
    return told


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16(), pa.int8(), pa.int64(), pa.uint16()])
def test_numbers_of_every_type(kind: pa.DataType) -> None:
    column = pa.array(np.array([1, 2, 3]).astype(kind.to_pandas_dtype()), kind, mask=np.array([False, True, False]))
    found = read_numeric(table(a=column), ["a"], ANY)
    assert reasons(found) == {1: "null-value"}
    np.testing.assert_array_equal(found.values, [[1], [3]])
    assert (found.values.dtype, found.widths, found.shape) == (np.float64, (1,), None)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16(), pa.int16(), pa.int64()])
@pytest.mark.parametrize("fixed", [True, False])
def test_vectors_of_every_type(kind: pa.DataType, fixed: bool) -> None:
    rows = np.array([[1, 2], [3, 4], [5, 6]]).astype(kind.to_pandas_dtype())
    flat = pa.array(rows.ravel(), kind)
    if fixed:
        column = pa.FixedSizeListArray.from_arrays(flat, 2)
    else:
        column = pa.ListArray.from_arrays(pa.array([0, 2, 4, 6], pa.int32()), flat)
    found = read_numeric(table(v=column), ["v"], ANY)
    assert reasons(found) == {}
    np.testing.assert_array_equal(found.values, rows.astype(np.float64))


def test_a_mix_lies_in_the_order_of_the_columns() -> None:
    of = table(b=[7, 8], v=to_arrow(np.array([[1, 2], [3, 4]], np.float32)), a=[0.1, 0.2])
    found = read_numeric(of, ["a", "v", "b"], ANY)
    np.testing.assert_array_equal(found.values, [[0.1, 1, 2, 7], [0.2, 3, 4, 8]])
    assert found.widths == (1, 2, 1)


def test_every_reason_against_a_number() -> None:
    of = table(a=[1.0, None, float("nan"), float("inf"), -float("inf"), 1e101, -1e100, 2.0])
    wrong = {1: "null-value", 2: "not-finite", 3: "not-finite", 4: "not-finite", 5: "not-finite"}
    assert reasons(read_numeric(of, ["a"], ANY)) == wrong
    filled = read_numeric(of, ["a"], Domain(None, "impute"))
    assert reasons(filled) == {row: why for row, why in wrong.items() if row != 1}
    assert np.isnan(filled.values[1, 0])
    assert not np.isnan(filled.values[[0, 2, 3]]).any()


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_every_reason_against_a_vector() -> None:
    column = pa.array(
        [[1.0, 2.0], None, [1.0], [1.0, float("nan")], [2.0, 1e200], [], [3.0, 4.0]], pa.list_(pa.float64())
    )
    wrong = {1: "null-vector", 2: "vector-length", 3: "not-finite", 4: "not-finite", 5: "empty-vector"}
    assert reasons(read_numeric(table(v=column), ["v"], ANY)) == wrong
    assert reasons(read_numeric(table(v=column), ["v"], Domain(None, "impute"))) == wrong, "only numbers are filled"
    trained = read_numeric(table(v=column), ["v"], Domain(None, widths=(1,)))
    assert reasons(trained) == dict.fromkeys((0, 3, 4, 6), "vector-length") | {1: "null-vector", 5: "empty-vector"}
    assert trained.widths == (1,)


def test_every_reason_against_an_image() -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (3, 3, 2)).astype(np.uint8)
    colour = rng.integers(0, 256, (3, 2, 3)).astype(np.uint8)
    column = [png(grey[0]), None, b"", png(colour), png(grey[1]), png(grey[0][:2]), b"\x89PNG\r\n\x1a\n", png(grey[2])]
    of = table(image=pa.array(column, pa.binary()))
    found = read_numeric(of, ["image"], ANY)
    wrong = {1: "null-image", 2: "unreadable-image", 3: "image-shape", 5: "image-shape", 6: "unreadable-image"}
    assert reasons(found) == wrong
    assert found.shape == (3, 2, 1)
    assert found.widths == (6,)
    np.testing.assert_array_equal(found.values, grey.reshape(3, 6))
    trained = read_numeric(of, ["image"], Domain(None, shape=(3, 2, 3), widths=(18,)))
    np.testing.assert_array_equal(trained.values, colour.reshape(1, 18))
    large = read_numeric(table(image=pa.array(column, pa.large_binary())), ["image"], ANY)
    np.testing.assert_array_equal(large.values, found.values)


def test_images_are_quantised_and_numbers_must_be_levels() -> None:
    level = np.arange(6).reshape(2, 3) % 5
    image = png(np.rint(level * 255 / 4).astype(np.uint8))
    found = read_numeric(table(image=pa.array([image], pa.binary())), ["image"], Domain(5))
    np.testing.assert_array_equal(found.values, level.reshape(1, 6))
    of = table(a=[0, 4, 5, -1, 2], v=to_arrow(np.array([[0, 1], [4, 4], [1, 1], [1, 1], [1, 0.5]], np.float32)))
    assert reasons(read_numeric(of, ["a", "v"], Domain(5))) == dict.fromkeys((2, 3, 4), "out-of-range")


def test_the_first_reason_stays() -> None:
    of = table(a=[None, 1.0, None], v=pa.array([[1.0], [float("nan")], None], pa.list_(pa.float32())))
    assert reasons(read_numeric(of, ["a", "v"], ANY)) == {0: "null-value", 1: "not-finite", 2: "null-value"}
    assert reasons(read_numeric(of, ["v", "a"], ANY)) == {0: "null-value", 1: "not-finite", 2: "null-vector"}
    assert reasons(read_numeric(of, ["a", "v"], Domain(2)))[1] == "not-finite"


def test_two_columns_with_one_reason_are_both_named() -> None:
    of = table(a=[None, 1.0], b=[1.0, None])
    told = {one.row: one.message for one in read_numeric(of, ["a", "b"], ANY).rejected}
    assert "'a'" in told[0]
    assert "'b'" in told[1]


@pytest.mark.parametrize(
    "column", [pa.array([], pa.float64()), pa.array([], pa.list_(pa.float32())), pa.array([], pa.binary())]
)
def test_no_rows(column: pa.Array) -> None:
    found = read_numeric(table(x=column), ["x"], ANY)
    assert reasons(found) == {}
    assert len(found.values) == 0


@pytest.mark.parametrize("column", [pa.array([None] * 3, pa.list_(pa.float32(), 4)), pa.array([None] * 3, pa.binary())])
def test_only_nulls(column: pa.Array) -> None:
    assert set(reasons(read_numeric(table(x=column), ["x"], ANY))) == {0, 1, 2}


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["1"]),
        pa.array([True]),
        pa.array([["1"]]),
        pa.array([{"a": 1}]),
        pa.array([None], pa.null()),
        pa.array([1], pa.timestamp("s")),
        pa.array([1], pa.decimal128(5, 2)),
    ],
)
def test_types_that_are_no_numbers_are_refused_by_words(column: pa.Array) -> None:
    with pytest.raises(DataError) as caught:
        read_numeric(table(x=column), ["x"], ANY)
    assert f"column 'x' has type {column.type}; numbers, vectors or images are needed" in str(caught.value)


def test_kinds_that_go_together() -> None:
    check_kinds(["a", "v"], {"a": "number", "v": "vector"})
    check_kinds(["i"], {"i": "image"})
    for columns, words in ((["i", "a"], "stands alone"), (["t"], "'t' is no number, vector or image column but text")):
        with pytest.raises(ConfigError, match=words):
            check_kinds(columns, {"i": "image", "a": "number", "t": "text"})


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_what_is_read_of_a_row_does_not_depend_on_the_others(data: st.DataObject) -> None:
    number = st.one_of(st.none(), st.floats(width=32), st.integers(-3, 9).map(float))
    rows = data.draw(
        st.lists(
            st.tuples(number, st.one_of(st.none(), st.lists(number, min_size=2, max_size=3))), min_size=1, max_size=8
        )
    )
    rows = [(a, None if v is None or None in v else v) for a, v in rows]
    domain = Domain(data.draw(st.sampled_from([None, 5])), "refuse", (1, 2))

    def read(some: list[Any]) -> Numeric:
        kinds = (pa.float64(), pa.list_(pa.float32()))
        return read_numeric(
            table(a=pa.array([a for a, _ in some], kinds[0]), v=pa.array([v for _, v in some], kinds[1])),
            ["a", "v"],
            domain,
        )

    whole = read(rows)
    alone = [read([row]) for row in rows]
    assert whole.usable.tolist() == [bool(one.usable[0]) for one in alone]
    np.testing.assert_array_equal(whole.values, np.concatenate([one.values for one in alone]).reshape(-1, 3))
    assert [one.error for one in whole.rejected] == [r.error for one in alone for r in one.rejected]
