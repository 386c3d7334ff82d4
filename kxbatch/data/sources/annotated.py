"""Texts with spans as the tasks CLUENER and CMeEE write them; both count characters and mean the last one, not the one after.

CLUENER (Xu et al. 2020) has an object a line, `{"text": ..., "label": {type: {surface: [[first, last], ...]}}}`; CMeEE (Zhang et
al., CBLUE, 2022) an array of `{"text": ..., "entities": [{"start_idx", "end_idx", "type", "entity"}, ...]}`. What these
objects hold gives way to a column `labels`; other keys are columns as in JSON lines. Texts of a test set have no spans: null.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from kxbatch.data.sources.json_array import JsonArray
from kxbatch.data.sources.jsonl import JsonLines
from kxbatch.data.sources.lines import Fault
from kxbatch.data.sources.rows import RowBlock
from kxbatch.data.spans import SPANS, Span, to_spans

LABELS = "labels"

Found = tuple[Any, Any, Any, Any]  # first, last, type and surface as the file has them


class _Annotated(JsonLines):
    """JSON objects, one key of which holds spans."""

    key: str  # of the spans

    @abstractmethod
    def spans_in(self, value: Any) -> Iterator[Found]:
        """Spans as they are written; anything that Python raises on data of another shape may come out."""

    def infer(self, rows: RowBlock) -> pa.Schema:
        """See `LineFormat`."""
        fields = [field for field in super().infer(rows) if field.name not in (self.key, LABELS)]
        return pa.schema([*fields, pa.field(LABELS, SPANS)]) if len(rows) else pa.schema([])

    def column(self, objects: Sequence[dict[str, Any]], field: pa.Field) -> tuple[pa.Array, dict[int, Fault]]:
        """See `JsonLines`."""
        if field.name != LABELS:
            return super().column(objects, field)
        found = [self._labels(value) for value in objects]
        faults = {index: labels for index, labels in enumerate(found) if isinstance(labels, Fault)}
        column = to_spans([None if isinstance(labels, Fault) else labels for labels in found])
        return column.cast(field.type), faults

    def _labels(self, value: dict[str, Any]) -> list[Span] | Fault | None:
        """Spans of an object, each once, in order."""
        if value.get(self.key) is None:
            return None
        text = value.get("text")
        if not isinstance(text, str):
            return Fault("malformed-span", f"'{self.key}' without a 'text' to point into")
        try:
            checked = [_checked(text, *found) for found in self.spans_in(value[self.key])]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return Fault("malformed-span", f"'{self.key}' is not of the shape of this format: {error!r}")
        faults = [found for found in checked if isinstance(found, Fault)]
        return faults[0] if faults else sorted({found for found in checked if not isinstance(found, Fault)})


class Cluener(_Annotated):
    """An open file of CLUENER."""

    key = "label"

    def spans_in(self, value: Any) -> Iterator[Found]:
        """See `_Annotated`."""
        for type_, surfaces in value.items():
            for surface, places in surfaces.items():
                for first, last in places:
                    yield first, last, type_, surface


class Cmeee(_Annotated, JsonArray):
    """An open file of CMeEE."""

    key = "entities"

    def spans_in(self, value: Any) -> Iterator[Found]:
        """See `_Annotated`."""
        for one in value:
            yield one["start_idx"], one["end_idx"], one["type"], one["entity"]


def _checked(text: str, first: Any, last: Any, type_: Any, surface: Any) -> Span | Fault:
    """A span with an exclusive end, if its surface stands there."""
    if type(first) is not int or type(last) is not int or not isinstance(type_, str) or not isinstance(surface, str):
        return Fault(
            "malformed-span", f"{first!r} to {last!r} of type {type_!r}, {surface!r}: no two integers and two texts"
        )
    if not 0 <= first <= last < len(text):
        return Fault("malformed-span", f"characters {first} to {last} are no part of the text, which has {len(text)}")
    if (found := text[first : last + 1]) != surface:
        return Fault(
            "malformed-span", f"characters {first} to {last} are {found!r}, not {surface!r}; both ends are included"
        )
    return first, last + 1, type_
