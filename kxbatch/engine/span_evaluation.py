"""How well entities are found: one or several systems over the same texts, measured and with their errors told apart.

Letters: N texts, G gold spans, F found ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.span_columns import FlatSpans
from kxbatch.data.storage import File, Folder
from kxbatch.engine.span_examples import Example, examples
from kxbatch.engine.span_rows import Columns, SpanRows, read_span_rows
from kxbatch.engine.span_systems import aligned
from kxbatch.errors import ConfigError
from kxbatch.models.extraction.metrics import Measure, Scores, SpanSet, scores, unique_spans
from kxbatch.models.extraction.span_errors import BOTH, TYPE, Judged, judge

FILE = "evaluation.json"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class System:
    """What one system found.

    Attributes:
        name: for people, unlike the others.
        source: where it was read.
        unlabelled: rows there that nobody labelled.
        found: its spans.
        confidences: float64 [F], their scores, NaN where there is none.
        measures: how good they are.
        judged: what is wrong with them.
    """

    name: str
    source: str
    unlabelled: int
    found: SpanSet
    confidences: Floats
    measures: Scores
    judged: Judged

    def confusions(self, gold: SpanSet) -> list[tuple[int, int, int]]:
        """Types that are taken for each other, over pairs of the kinds `type` and `boundary and type`: gold, found, how often."""
        wrong = np.flatnonzero((self.judged.found == TYPE) | (self.judged.found == BOTH))
        wanted, given = gold.types[self.judged.partners[wrong]], self.found.types[wrong]
        pairs = Counter(zip(wanted.tolist(), given.tolist(), strict=True))
        return sorted(((*pair, count) for pair, count in pairs.items()), key=lambda one: (-one[2], one[:2]))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that was found out.

    Attributes:
        columns: what was compared.
        types: names, sorted; spans have their places.
        ids: [N]; None where the rows have none.
        texts: large_string [N].
        gold: the right spans.
        systems: in the order they were given.
    """

    columns: Columns
    types: Sequence[str]
    ids: pa.Array | None
    texts: pa.LargeStringArray
    gold: SpanSet
    systems: Sequence[System]

    @property
    def best(self) -> System:
        """The first with the largest F1."""
        return max(self.systems, key=lambda system: system.measures.micro.f1 or 0.0)

    def to_json(self) -> dict[str, Any]:
        """Measures of all systems."""
        return {
            "texts": len(self.texts),
            "split": self.columns.split,
            "gold_spans": len(self.gold),
            "gold_nested": self.systems[0].measures.nested.gold,
            "types": list(self.types),
            "best": self.best.name,
            "systems": [self._told(system) for system in self.systems],
        }

    def span(self, spans: SpanSet, at: int) -> dict[str, Any]:
        """A span for people, with its surface."""
        row, start, end, kind = (int(column[at]) for column in spans.columns)
        return {"start": start, "end": end, "type": self.types[kind], "text": self.texts[row].as_py()[start:end]}

    def _told(self, system: System) -> dict[str, Any]:
        measures = system.measures
        return {
            "name": system.name,
            "path": system.source,
            "rows_without_gold": system.unlabelled,
            **{name: told(getattr(measures, name)) for name in ("micro", "nested", "flat")},
            "by_type": {name: told(one) for name, one in zip(self.types, measures.by_type, strict=True)},
            "errors": system.judged.counts(),
            "confusions": [
                {"gold": self.types[gold], "found": self.types[found], "count": count}
                for gold, found, count in system.confusions(self.gold)
            ],
            "examples": {
                kind: [self._shown(system, one) for one in found] for kind, found in examples(system.judged).items()
            },
        }

    def _shown(self, system: System, one: Example) -> dict[str, Any]:
        wanted = None if one.gold is None else self.span(self.gold, one.gold)
        given = None if one.found is None else self.span(system.found, one.found)
        if given is not None and one.found is not None:
            score = float(system.confidences[one.found])
            given["score"] = score if np.isfinite(score) else None
        row = int(self.gold.rows[one.gold] if one.gold is not None else system.found.rows[one.found])
        return {"id": None if self.ids is None else self.ids[row].as_py(), "gold": wanted, "found": given}


def told(measure: Measure) -> dict[str, Any]:
    """A measure for JSON; what is undefined is null."""
    return {**vars(measure), **{name: getattr(measure, name) for name in ("precision", "recall", "f1")}}


def evaluate(paths: Sequence[str], columns: Columns) -> Evaluation:
    """Measures what one or several systems found.

    Args:
        paths: outputs of `extract` stages; several must have the same ids with the same texts and right spans.
        columns: where things stand.

    Raises:
        ConfigError: a path is given twice, or there is nothing to read.
        DataError: a file is not what is wanted, or the rows of two systems differ; names the first that does.
    """
    if len(set(paths)) < len(paths):
        raise ConfigError(f"{', '.join(paths)}: a path is given twice; each system once")
    first, *others = [read_span_rows(path, columns) for path in paths]
    rows = [first, *(aligned(first, one) for one in others)]
    types = sorted(
        {name for one in rows for spans in (one.gold, one.found) for name in spans.types.unique().to_pylist()}
    )
    gold, _ = _coded(first.gold, types)
    systems = [_system(*pair, types, gold) for pair in zip(_names(paths), rows, strict=True)]
    return Evaluation(columns, types, first.ids, first.texts, gold, systems)


def write(evaluation: Evaluation, output: Folder) -> File:
    """Writes `evaluation.json`; the file appears whole or not at all."""
    text = json.dumps(evaluation.to_json(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    output.publish_bytes(FILE, text.encode("utf-8", "replace"))
    return output.file(FILE)


def _system(name: str, rows: SpanRows, types: Sequence[str], gold: SpanSet) -> System:
    found, confidences = _coded(rows.found, types)
    measures, judged = scores(gold, found, len(types)), judge(gold, found)
    return System(name, rows.source, rows.unlabelled, found, confidences, measures, judged)


def _coded(spans: FlatSpans, types: Sequence[str]) -> tuple[SpanSet, Floats]:
    """Spans with numbers for types, each once, and their scores."""
    numbers = pc.index_in(spans.types, value_set=pa.array(types, pa.large_string())).to_numpy(zero_copy_only=False)
    columns = spans.rows, spans.starts, spans.ends, numbers.astype(np.int64)
    places = unique_spans(*columns)
    return SpanSet(*(column[places] for column in columns)), spans.scores[places]


def _names(paths: Sequence[str]) -> Iterator[str]:
    """The last parts of each path, as many as tell them apart; of a single one, two."""
    parts = [path.rstrip("/").split("/") for path in paths]
    for count in range(1 + (len(paths) == 1), max(map(len, parts))):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return iter(names)
    return iter(paths)
