"""From what a text format says to Arrow columns, value by value exact about what does not fit.

The types of line formats are string, int64, double, bool, list<double> and spans; a column that Parquet files share may ask for
narrower numbers and vectors. A whole column is converted at once where everything fits, else value by value; both give the
same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.sources.model import SourceFile
from kxbatch.data.spans import SPANS, is_span, is_spans
from kxbatch.errors import ConfigError

Misfits = dict[int, str]

_JSON = {"kxbatch": "json"}

_INTEGER = r"0|-?[1-9][0-9]{0,18}"
_FRACTION = r"-?(?:0|[1-9][0-9]*)\.[0-9]*(?:[eE][+-]?[0-9]+)?|-?\.[0-9]+(?:[eE][+-]?[0-9]+)?"
_SPECIAL = r"-?(?:0|[1-9][0-9]*)[eE][+-]?[0-9]+|-0|-?[iI][nN][fF]|[nN][aA][nN]"
_TEXT_FORMS = (
    (pa.types.is_integer, f"^(?:{_INTEGER})$"),
    (pa.types.is_floating, f"^(?:{_INTEGER}|{_FRACTION}|{_SPECIAL})$"),
    (pa.types.is_boolean, "^(?:[tT][rR][uU][eE]|[fF][aA][lL][sS][eE])$"),
)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number_list(kind: pa.DataType) -> bool:
    """Whether a type is a vector: a list of floating-point numbers, of fixed size or not."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists) and bool(pa.types.is_floating(kind.value_type))


def check_kinds(source: SourceFile, fields: Sequence[pa.Field]) -> None:
    """Makes sure that a line format can give columns of these types.

    Raises:
        ConfigError: it cannot; names the column.
    """
    for field in fields:
        simple = is_text(field.type) or any(holds(field.type) for holds, _ in _TEXT_FORMS)
        json = source.format in ("jsonl", "cluener", "cmeee")
        spans = (json or source.format == "conll") and is_spans(field.type)
        if not simple and not spans and not (json and is_number_list(field.type)):
            allowed = "string, integers, floats, bool" + (", list of floats, spans" if json else "")
            raise ConfigError(
                f"{source.url}: column '{field.name}' is wanted as {field.type}, which {source.format} cannot hold "
                f"(it can: {allowed}); convert the files to one format, or leave the column out"
            )


def json_field(name: str, values: Sequence[Any]) -> pa.Field:
    """A JSONL column, from its first values.

    The kind that most values have wins (on a tie string before number, vector, bool and JSON); values of another kind are
    bad rows. Numbers are int64, or double when at least one has a fraction. Arrays of numbers are list<double>, arrays of
    objects with start, end and type are spans; an empty array is what the others are, and where there are no others of
    this file, those of other files: list<null>. Objects and other arrays are JSON: a column of text, marked in its metadata,
    that takes any value as its JSON text. Null is of every kind; nothing but nulls gives string.
    """
    kinds = Counter(_json_class(value) for value in values if value is not None)
    if lists := [k for k in ("spans", "vector") if kinds[k]]:
        kinds[lists[0]] += kinds.pop("empty", 0)
    ranked = [k for k in ("string", "number", "vector", "spans", "empty", "bool", "json") if kinds[k]]
    most = max(ranked, key=lambda k: kinds[k], default="string")
    if most == "number":
        return pa.field(name, pa.float64() if any(type(value) is float for value in values) else pa.int64())
    if most == "json":
        return pa.field(name, pa.string(), metadata=_JSON)
    types = {"string": pa.string(), "vector": pa.list_(pa.float64()), "spans": SPANS, "bool": pa.bool_()}
    types["empty"] = pa.list_(pa.null())
    return pa.field(name, types[most])


def is_json(field: pa.Field) -> bool:
    """Whether a column of text holds JSON."""
    return bool(is_text(field.type)) and (field.metadata or {}).get(b"kxbatch") == b"json"


def text_kind(values: pa.Array) -> pa.DataType:
    """The type of a CSV column, from its first values: int64, double or bool if every value that is not empty fits, else string.

    Digits with leading zeros, a plus sign or blanks around them are text: "007" is not 7.
    """
    if not any(values.to_pylist()):
        return pa.string()
    kinds = (pa.int64(), pa.float64(), pa.bool_())
    return next((kind for kind in kinds if not from_text(values, kind)[1]), pa.string())


def from_json(values: Sequence[Any], field: pa.Field) -> tuple[pa.Array, Misfits]:
    """A column from decoded JSON values.

    A number becomes the nearest double where floats are wanted; a float that is whole fits an integer column; a column
    marked as JSON takes the JSON text of anything.

    Args:
        values: n values, None for null.
        field: the column.

    Returns:
        The column with null for what does not fit, and the reasons by position.
    """
    kind = field.type
    if is_json(field):
        return pa.array([None if v is None else orjson.dumps(v).decode() for v in values], kind), {}
    types = set(map(type, values)) - {type(None)}
    try:
        if types <= _direct_types(kind):
            return pa.array(values, kind), {}
        if types <= {list} and is_number_list(kind):
            return _vectors(values, kind), {}
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        pass  # which value it was is found out below
    fitting, misfits = [], {}
    for index, value in enumerate(values):
        try:
            fitting.append(None if value is None else _fit(value, kind))
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            fitting.append(None)
            misfits[index] = f"holds {_shown(value)}, expected {kind}"
    return (pa.array(fitting, SPANS).cast(kind) if is_spans(kind) else pa.array(fitting, kind)), misfits


def from_text(values: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Misfits]:
    """A column from the fields of a CSV.

    An empty field is null in number and bool columns and an empty string in text.

    Args:
        values: string[n] without nulls.
        kind: the column's type.

    Returns:
        As `from_json`.
    """
    if is_text(kind):
        return values.cast(kind), {}
    form = next(form for holds, form in _TEXT_FORMS if holds(kind))
    fits = pc.match_substring_regex(values, form)
    column = _parsed(pc.if_else(fits, values, None), kind)
    wrong = pc.and_(pc.is_null(column), pc.not_equal(values, ""))
    indices = np.flatnonzero(np.asarray(wrong)).tolist()
    return column, {i: f"holds {_shown(values[i].as_py())}, expected {kind}" for i in indices}


def _parsed(values: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:  # an integer out of range
        return pa.concat_arrays([_parsed_one(values.slice(i, 1), kind) for i in range(len(values))])


def _parsed_one(value: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return value.cast(kind)
    except pa.ArrowInvalid:
        return pa.nulls(1, kind)


def _json_class(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if value == []:
        return "empty"
    if isinstance(value, list) and all(type(v) in (int, float, type(None)) for v in value):
        return "vector"
    if isinstance(value, list) and all(is_span(v) for v in value):
        return "spans"
    return "string" if isinstance(value, str) else "json"


def _direct_types(kind: pa.DataType) -> set[type]:
    """Python types that Arrow converts to `kind` by exactly the rules of `_fit`."""
    if is_text(kind):
        return {str}
    if pa.types.is_boolean(kind):
        return {bool}
    return {int} if pa.types.is_integer(kind) else {float} if pa.types.is_floating(kind) else set()


def _vectors(values: Sequence[list[Any] | None], kind: pa.DataType) -> pa.Array:
    """Lists of numbers without nulls inside, several times faster than element by element."""
    if not set(map(type, chain.from_iterable(v for v in values if v))) <= {int, float}:
        raise TypeError("not only numbers")
    lengths = np.fromiter((len(v) if v else 0 for v in values), np.int64, len(values))
    flat = np.fromiter(chain.from_iterable(v for v in values if v), np.float64, int(lengths.sum()))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    nulls = pa.array([v is None for v in values])
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), mask=nulls)
    return lists.cast(kind)


def _fit(value: Any, kind: pa.DataType) -> Any:
    """What Arrow is to be given for a value; raises when it does not fit."""
    if is_text(kind) and isinstance(value, str):
        return value
    if is_spans(kind):
        if not isinstance(value, list) or not all(is_span(v) for v in value):
            raise TypeError
        return pa.scalar(value, SPANS).as_py()
    if is_number_list(kind):
        if not isinstance(value, list):
            raise TypeError
        fitting = [None if v is None else _fit(v, kind.value_type) for v in value]
        return pa.scalar(fitting, kind).as_py()
    if pa.types.is_boolean(kind) and isinstance(value, bool):
        return value
    if is_text(kind) or pa.types.is_boolean(kind) or type(value) not in (int, float):
        raise TypeError
    if pa.types.is_floating(kind):
        return float(value)
    if value != int(value):
        raise TypeError
    return pa.scalar(int(value), kind).as_py()


def _shown(value: Any, most: int = 60) -> str:
    text = orjson.dumps(value).decode() if not isinstance(value, int | float) else repr(value)
    sorts = {bool: "a bool", int: "an integer", float: "a float", str: "a string", list: "an array", dict: "an object"}
    return f"{text if len(text) <= most else text[:most] + '...'} ({sorts[type(value)]})"
