import csv
import io
import json
import math
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.data.sources.values import from_json, from_text, is_json, json_field, text_kind
from kxbatch.data.spans import SPANS

VECTOR = pa.list_(pa.float64())
KINDS = [pa.string(), pa.int64(), pa.float64(), pa.bool_(), VECTOR, pa.int8(), pa.list_(pa.float32(), 2)]
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5))
JSON = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.lists(NUMBERS, max_size=3), st.dictionaries(st.text(max_size=2), SCALARS)
)


def as_read(value: Any) -> Any:
    """The value as orjson reads it from a file."""
    return orjson.loads(json.dumps(value))


def column_of(values: list[Any], kind: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    return from_json(values, pa.field("x", kind))


def fits(value: Any, kind: pa.DataType) -> bool:
    """The rules of the documentation, written down a second time."""
    number = type(value) in (int, float)
    if value is None:
        return True
    if kind == pa.string():
        return isinstance(value, str)
    if kind == pa.bool_():
        return isinstance(value, bool)
    if pa.types.is_integer(kind):
        return number and value == int(value) and -(2 ** (kind.bit_width - 1)) <= value < 2 ** (kind.bit_width - 1)
    if pa.types.is_floating(kind):
        return number
    size_ok = not pa.types.is_fixed_size_list(kind) or (isinstance(value, list) and len(value) == 2)
    return isinstance(value, list) and size_ok and all(v is None or type(v) in (int, float) for v in value)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_sort_of_json_value_against_every_kind(kind: pa.DataType) -> None:
    sorts: list[Any] = [
        True,
        False,
        0,
        1,
        -1,
        127,
        128,
        -129,
        2**53 + 1,
        2**63 - 1,
        2**63,
        -(2**63),
        2**64,
        -0.0,
        1.0,
        1.5,
    ]
    sorts += [1e300, 2.0**63, "", "1", "x", [], [1], [1, 2], [1.5, 2], [1, None], [1, True], ["a", "b"], [[1], [2]]]
    sorts += [{}, {"a": 1}, [2**60 + 1, 0.5], [2**63, 2**70], None]
    column, misfits = column_of(as_read(sorts), kind)
    assert [i for i, value in enumerate(sorts) if not fits(value, kind)] == sorted(misfits)
    alone = [column_of([as_read(value)], kind) for value in sorts]
    assert [bool(wrong) for _, wrong in alone] == [not fits(value, kind) for value in sorts]
    assert column.equals(pa.concat_arrays([array for array, _ in alone]))


@settings(deadline=None)
@given(values=st.lists(JSON, max_size=5).map(as_read), kind=st.sampled_from(KINDS))
def test_json_values_fit_by_the_documented_rules(values: list[Any], kind: pa.DataType) -> None:
    column, misfits = column_of(values, kind)
    assert column.type == kind
    assert len(column) == len(values)
    assert set(misfits) == {i for i, value in enumerate(values) if not fits(value, kind)}
    for index, value in enumerate(values):
        if index in misfits or value is None:
            assert column[index].as_py() is None


@settings(deadline=None)
@given(values=st.lists(JSON, max_size=6).map(as_read), kind=st.sampled_from(KINDS))
def test_a_column_at_once_is_the_same_as_value_by_value(values: list[Any], kind: pa.DataType) -> None:
    single = [column_of([value], kind)[0] for value in values]
    assert column_of(values, kind)[0].equals(pa.concat_arrays([*single, pa.nulls(0, kind)]))


@settings(deadline=None)
@given(values=st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2), min_size=1))
def test_vectors_keep_every_bit(values: list[list[float]]) -> None:
    column, misfits = column_of(as_read(values), VECTOR)
    assert not misfits
    assert column.to_pylist() == values
    sized, _ = column_of(as_read(values), pa.list_(pa.float64(), 2))
    assert sized.to_pylist() == values


@settings(deadline=None)
@given(values=st.lists(JSON, max_size=6).map(as_read))
def test_a_json_column_takes_anything_as_its_json(values: list[Any]) -> None:
    field = json_field("meta", [{"a": 1}])
    assert is_json(field)
    column, misfits = from_json(values, field)
    assert (column.type, misfits) == (pa.string(), {})
    assert [None if text is None else orjson.loads(text) for text in column.to_pylist()] == values


def test_numbers_are_exact_where_they_can_be() -> None:
    assert column_of([2**60 + 1, 0.5], pa.float64())[0].to_pylist() == [float(2**60 + 1), 0.5]
    assert column_of([2.0, 3], pa.int64())[0].to_pylist() == [2, 3]
    assert column_of([[1, None], None, []], VECTOR)[0].to_pylist() == [[1.0, None], None, []]


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ("abc", pa.int64(), 'holds "abc" (a string), expected int64'),
        (True, pa.int64(), "holds True (a bool), expected int64"),
        (1.5, pa.int64(), "holds 1.5 (a float), expected int64"),
        (2**63, pa.int64(), "holds 9223372036854775808 (an integer), expected int64"),
        (5, pa.string(), "holds 5 (an integer), expected string"),
        ({"a": 1}, pa.string(), 'holds {"a":1} (an object), expected string'),
        ({"a": 1}, pa.float64(), 'holds {"a":1} (an object), expected double'),
        ([1, True], VECTOR, "holds [1,true] (an array), expected list<item: double>"),
        ("x" * 100, pa.bool_(), f'holds "{"x" * 59}... (a string), expected bool'),
    ],
)
def test_words_for_a_value_of_the_wrong_type(value: Any, kind: pa.DataType, words: str) -> None:
    column, misfits = column_of([None, value], kind)
    assert misfits == {1: words}
    assert column.to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, None], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([1, 2, 3, "x"], pa.int64()),
        (["x", 1], pa.string()),
        ([True, False, 1], pa.bool_()),
        ([[1, 2], [0.5, None], []], VECTOR),
        ([[], None, []], pa.list_(pa.null())),
        ([[], [], [{"start": 0, "end": 1, "type": "A"}]], SPANS),
        ([["a"], ["b"], [1]], pa.string()),
        ([{"a": 1}], pa.string()),
        ([None, None], pa.string()),
        ([], pa.string()),
    ],
)
def test_the_kind_of_a_json_column(values: list[Any], kind: pa.DataType) -> None:
    field = json_field("x", values)
    assert (field.name, field.type) == ("x", kind)
    assert is_json(field) == any(isinstance(value, dict) or value == ["a"] for value in values)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", "", "0"], pa.int64()),
        (["1", "2.5", "-.5", "1e3", "NaN", "-inf"], pa.float64()),
        (["true", "False", ""], pa.bool_()),
        (["007"], pa.string()),
        (["+1"], pa.string()),
        ([" 1"], pa.string()),
        (["1", "x"], pa.string()),
        (["9223372036854775807"], pa.int64()),
        (["9223372036854775808"], pa.float64()),
        (["12345678901234567890"], pa.string()),
        (["", ""], pa.string()),
        ([], pa.string()),
        (["1\n"], pa.string()),
        (["١"], pa.string()),
    ],
)
def test_the_kind_of_a_csv_column(values: list[str], kind: pa.DataType) -> None:
    assert text_kind(pa.array(values, pa.string())) == kind


@settings(deadline=None)
@given(values=st.lists(st.integers(-(2**65), 2**65)))
def test_integers_of_csv(values: list[int]) -> None:
    column, misfits = from_text(pa.array(map(str, values), pa.string()), pa.int64())
    inside = [value if -(2**63) <= value < 2**63 else None for value in values]
    assert column.to_pylist() == inside
    assert set(misfits) == {i for i, value in enumerate(inside) if value is None}


@settings(deadline=None)
@given(values=st.lists(st.floats()))
def test_floats_of_csv_keep_every_bit(values: list[float]) -> None:
    file = io.StringIO()
    csv.writer(file).writerows([value] for value in values)
    texts = [row[0] for row in csv.reader(io.StringIO(file.getvalue()))]
    column, misfits = from_text(pa.array(texts, pa.string()), pa.float64())
    assert not misfits
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(column.to_pylist(), values, strict=True))


@settings(deadline=None)
@given(values=st.lists(st.text("0123456789.eE+-infa ", max_size=6)), kind=st.sampled_from([pa.int64(), pa.float64()]))
def test_any_field_of_csv_is_a_number_a_null_or_a_misfit(values: list[str], kind: pa.DataType) -> None:
    column, misfits = from_text(pa.array(values, pa.string()), kind)
    for index, value in enumerate(values):
        if index in misfits:
            assert misfits[index] == f'holds "{value}" (a string), expected {kind}'
        elif value:
            got, expected = column[index].as_py(), (int if kind == pa.int64() else float)(value)
            assert got == expected or (math.isnan(got) and math.isnan(expected))
        else:
            assert column[index].as_py() is None
