"""What follows from all neighbour lists of a corpus: counts, measures, hubs and antihubs, and each shard's own lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.arrays import Arrays
from kxbatch.stages.base import Artifact
from kxbatch.stages.pairs import Corpus, Patch

if TYPE_CHECKING:
    from kxbatch.stages.hubness import HubnessConfig

LISTED = 50
Ints = npt.NDArray[np.int64]


@dataclass
class _Graph:
    """The final lists, and N_k of the graph before and after the reduction.

    Attributes:
        indices: int64 [n, k], -1 is padding.
        scores: float32 [n, k].
        usable: bool [n].
        raw: int64 [n], N_k without the reduction.
        reduced: int64 [n], N_k of `indices`.
    """

    indices: Ints
    scores: npt.NDArray[np.float32]
    usable: npt.NDArray[np.bool_]
    raw: Ints
    reduced: Ints


def conclude_hubness(config: HubnessConfig, column: str, corpus: Corpus) -> tuple[Artifact, Iterator[Patch]]:
    """The artifact and a patch for each shard.

    Args:
        config: of the stage.
        column: the vector column.
        corpus: lists of all blocks. Memory: k indices and scores a row, and one block of candidates
            (mutual-proximity-empirical: the candidates of all rows).
    """
    graph = _final_graph(config, corpus)
    facts: dict[str, Any] = {"k": config.k, "metric": config.metric, "reduction": config.reduction, "column": column}
    facts |= {"queries": config.queries, "searched": int(graph.usable.sum())}
    facts |= _isotropy(corpus) | {"raw": _measures(graph.raw[graph.usable], config), "reduced": None}
    if config.rescores:
        facts["reduced"] = _measures(graph.reduced[graph.usable], config)
    tables = {"top_hubs.parquet": _top(graph, corpus), "antihubs.parquet": _antihubs(graph, corpus)}
    return Artifact({}, {"hubness.json": facts}, tables), _patches(graph, corpus)


def _final_graph(config: HubnessConfig, corpus: Corpus) -> _Graph:
    from kxbatch.kernels.hub_measures import k_occurrence
    from kxbatch.kernels.hub_reductions import rescore

    k, n = config.k, corpus.rows
    graph = _Graph(
        indices=np.full((n, k), -1, np.int64),
        scores=np.full((n, k), -np.inf, np.float32),
        usable=np.zeros(n, bool),
        raw=np.zeros(n, np.int64),
        reduced=np.zeros(n, np.int64),
    )
    everyone = _everyone(config, corpus)
    for block, rows in enumerate(corpus.blocks):
        lists = corpus.lists(block)
        indices, scores = lists["indices"], lists["scores"]
        graph.raw += k_occurrence(indices[:, :k], n)
        if config.rescores:
            indices, scores = rescore(config.reduction, config.metric, rows, indices, scores, k=k, **everyone)
        graph.indices[rows], graph.scores[rows] = indices[:, :k], scores[:, :k]
        graph.usable[rows] = lists["usable"]
        graph.reduced += k_occurrence(indices[:, :k], n)
    return graph


def _everyone(config: HubnessConfig, corpus: Corpus) -> dict[str, Any]:
    """What rescoring one block needs of all rows."""
    if not config.rescores:
        return {}
    needed: Arrays = {"stats": _of_all_rows(corpus, "statistics")}
    if config.reduction == "mutual-proximity-empirical":
        needed |= {"all_indices": _of_all_rows(corpus, "indices"), "all_scores": _of_all_rows(corpus, "scores")}
    return needed


def _of_all_rows(corpus: Corpus, name: str) -> npt.NDArray[Any]:
    """An array of the lists of all blocks, in the order of the rows."""
    parts = [corpus.lists(block)[name] for block in range(len(corpus.blocks))]
    out: npt.NDArray[Any] = np.empty((corpus.rows, parts[0].shape[1]), parts[0].dtype)
    for rows, part in zip(corpus.blocks, parts, strict=True):
        out[rows] = part
    return out


def _measures(counts: Ints, config: HubnessConfig) -> dict[str, Any] | None:
    from kxbatch.kernels.hub_measures import histogram, measures

    if len(counts) == 0:
        return None
    values, rows = histogram(counts)
    found = measures(counts, config.k, config.hub_factor) | {"metric": config.metric}
    return found | {"histogram": {"k_occurrence": values.tolist(), "rows": rows.tolist()}}


def _isotropy(corpus: Corpus) -> dict[str, float | None]:
    """Mean cosine over all pairs, `(|sum u|^2 - n) / (n (n - 1))`, the recall of an approximate search, and the vectors' length."""
    from kxbatch.stages.hubness import UNIT

    total: Any = 0
    units, dim, recall = 0, 0, None
    for block in range(len(corpus.blocks)):
        lists = corpus.lists(block)
        dim = max(dim, len(lists["unit_sum"]))
        if int(lists["units"]):
            total, units = total + lists["unit_sum"], units + int(lists["units"])
        recall = float(lists["recall"]) if "recall" in lists else recall
    squared = float(np.dot(total / UNIT, total / UNIT)) if units else 0.0
    mean_cosine = (squared - units) / (units * (units - 1)) if units > 1 else None
    return {"mean_cosine": mean_cosine, "recall": recall, "dim": dim}


def _top(graph: _Graph, corpus: Corpus) -> pa.Table:
    from kxbatch.kernels.hub_measures import top_hubs

    rows = top_hubs(graph.reduced, min(LISTED, len(graph.reduced)))
    rows = rows[graph.reduced[rows] > 0]
    columns = {"rank": pa.array(np.arange(1, len(rows) + 1, dtype=np.int32)), "id": corpus.names(rows)}
    columns["k_occurrence"] = pa.array(graph.reduced[rows].astype(np.int32))
    return pa.table(columns | _places(rows, corpus))


def _antihubs(graph: _Graph, corpus: Corpus) -> pa.Table:
    """Rows that no list has; evenly spaced ones when there are many."""
    rows = np.flatnonzero((graph.reduced == 0) & graph.usable)
    if len(rows) > LISTED:
        rows = rows[np.linspace(0, len(rows) - 1, LISTED).round().astype(np.int64)]
    return pa.table({"id": corpus.names(rows)} | _places(rows, corpus))


def _places(rows: Ints, corpus: Corpus) -> dict[str, pa.Array]:
    firsts = np.array([first for _, first, _ in corpus.shards], np.int64)
    numbers = np.array([number for number, _, _ in corpus.shards], np.int64)
    which = np.searchsorted(firsts, rows, side="right") - 1
    return {
        "shard": pa.array(numbers[which].astype(np.int32)),
        "row": pa.array((rows - firsts[which]).astype(np.int32)),
    }


def _patches(graph: _Graph, corpus: Corpus) -> Iterator[Patch]:
    for number, first, rows in corpus.shards:
        part = slice(first, first + rows)
        indices = graph.indices[part]
        arrays: Arrays = {"indices": indices, "scores": graph.scores[part]}
        yield Patch(number, arrays | {"counts": graph.reduced[part].astype(np.int32)}, indices)
