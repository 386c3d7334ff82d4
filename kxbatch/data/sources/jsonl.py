"""JSON lines: an object a line. Blank lines are no rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from kxbatch.data.sources.lines import Fault, LineFormat, Parsed
from kxbatch.data.sources.model import BoolArray
from kxbatch.data.sources.rows import RowBlock
from kxbatch.data.sources.text import utf8_fault
from kxbatch.data.sources.values import from_json, json_field

_BLANKS = (9, 13, 32)


class JsonLines(LineFormat):
    """An open JSONL file. A key that a row lacks is null."""

    def blank(self, block: RowBlock) -> BoolArray:
        """See `LineFormat`."""
        codes = np.frombuffer(block.data, np.uint8)
        blank: BoolArray = block.lengths == 0
        # Few lines begin with a blank, so only those are looked at.
        suspects = np.flatnonzero(~blank & np.isin(codes[np.minimum(block.starts, len(codes) - 1)], _BLANKS)).tolist()
        blank[suspects] = [not block.row(i).strip(b" \t\r") for i in suspects]
        return blank

    def infer(self, rows: RowBlock) -> pa.Schema:
        """See `LineFormat`; columns stand in the order in which their keys first appear."""
        objects = [value for value in self.objects(rows)[0] if value]
        names = dict.fromkeys(name for value in objects for name in value)
        return pa.schema([json_field(name, [value.get(name) for value in objects]) for name in names])

    def parse(self, rows: RowBlock, fields: Sequence[pa.Field]) -> Parsed:
        """See `LineFormat`."""
        objects, faults = self.objects(rows)
        columns = []
        for field in fields:
            column, odd = self.column(objects, field)
            columns.append(column)
            for index, fault in odd.items():
                faults.setdefault(index, fault)
        return Parsed(columns, faults)

    def column(self, objects: Sequence[dict[str, Any]], field: pa.Field) -> tuple[pa.Array, dict[int, Fault]]:
        """A column of objects, and what does not fit into it."""
        column, misfits = from_json([value.get(field.name) for value in objects], field)
        return column, {i: Fault("wrong-type", f"column '{field.name}' {reason}") for i, reason in misfits.items()}

    def objects(self, rows: RowBlock) -> tuple[list[dict[str, Any]], dict[int, Fault]]:
        """The objects of rows, an empty one for a bad row."""
        return decode(rows.rows())


def decode(lines: Sequence[bytes]) -> tuple[list[dict[str, Any]], dict[int, Fault]]:
    """The objects that lines hold, an empty one for a line that holds none, and why."""
    try:
        values = [orjson.loads(line) for line in lines]
    except orjson.JSONDecodeError:
        values = [_decode_one(line) for line in lines]
    if all(type(value) is dict for value in values):
        return values, {}
    faults = {}
    for index, value in enumerate(values):
        if isinstance(value, Fault):
            faults[index] = value
        elif not isinstance(value, dict):
            kind = {list: "an array", str: "a string", type(None): "null", bool: "a bool"}.get(type(value), "a number")
            faults[index] = Fault("not-an-object", f"the line is {kind}; a row is a JSON object {{...}}")
    return [value if isinstance(value, dict) else {} for value in values], faults


def _decode_one(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return utf8_fault(line) or Fault("malformed-json", f"{error.msg} at column {error.colno}")
