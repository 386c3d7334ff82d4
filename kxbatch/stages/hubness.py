"""`hubness`: the exact nearest-neighbour graph of a corpus, who is in everybody's list, and what a reduction does about it.

`N_k(i)` counts the lists that row i is in. Its mean is k; where it is skewed, a few *hubs* answer every query and *antihubs* none
(Radovanovic et al. 2010).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from kxbatch.data.arrays import Arrays
from kxbatch.errors import DataError
from kxbatch.spec.model import StageConfig
from kxbatch.stages.base import Artifact, Column, Context, FoldStage, Mapped, Phase
from kxbatch.stages.pairs import Corpus, PairsStage, Patch, Side
from kxbatch.stages.rows import rejections, usable_vectors

Reduction = Literal[
    "none",
    "centering",
    "csls",
    "localized-centering",
    "local-scaling",
    "nicdm",
    "mutual-proximity",
    "mutual-proximity-empirical",
    "dissimlocal",
]
MEAN = "mean.safetensors"
UNIT = 2.0**32
MOST_NEIGHBOURS = (
    65_536  # in the list of a row; more is a slip of the pen, and would be found out by running out of memory
)
Mask = npt.NDArray[np.bool_]


class HubnessConfig(StageConfig):
    """Audits a vector column for hubs."""

    kind: Literal["hubness"] = "hubness"
    column: str | None = Field(None, description="vector column; absent: the only one of the input")
    queries: str | None = Field(
        None, description="boolean column: true rows ask, the others are searched; absent: every row does both"
    )
    k: int = Field(10, ge=1, le=MOST_NEIGHBOURS, description="length of the neighbour lists")
    metric: Literal["cosine", "inner", "euclidean"] = Field("cosine", description="what near means")
    reduction: Reduction = Field("none", description="how the lists are rescored against hubs")
    candidates: int = Field(100, ge=1, le=MOST_NEIGHBOURS, description="length of the lists that a reduction rescores")
    hub_factor: float = Field(2.0, gt=0, description="a hub is in at least hub_factor * k lists")
    block_rows: int = Field(32_768, ge=1, description="rows of one block; two blocks are in memory at once")
    ann: Literal["pynndescent"] | None = Field(None, description="approximate search for large corpora; absent: exact")
    ann_above: int = Field(150_000, ge=1, description="rows above which `ann` is used")

    @model_validator(mode="after")
    def _reduction_fits_metric(self) -> HubnessConfig:
        from kxbatch.kernels.hub_methods import check_reduction

        check_reduction(self.reduction, self.metric)
        if self.ann is not None and self.metric == "inner":
            raise ValueError("ann: NN-descent has no inner product; use metric 'cosine' or 'euclidean', or no ann")
        if self.queries is not None and (self.rescores or self.ann):
            raise ValueError(
                "queries: reductions by candidate lists and ann need every row to ask; use reduction 'none' or 'centering'"
            )
        return self

    @property
    def rescores(self) -> bool:
        """Whether the reduction works on candidate lists."""
        return self.reduction not in ("none", "centering")

    @property
    def width(self) -> int:
        """Length of the lists that are searched for."""
        return max(self.candidates, self.k) if self.rescores else self.k


class Hubness(FoldStage[HubnessConfig], PairsStage[HubnessConfig]):
    """Pairs: candidate lists. Conclusion: N_k over all lists. Map: every row's own neighbours and counts."""

    config_type = HubnessConfig

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Centring learns the mean first."""
        return ("fold", "pairs", "map") if self.config.reduction == "centering" else ("pairs", "map")

    @classmethod
    def reads(cls, config: HubnessConfig) -> Column:
        """A vector column."""
        return Column(config.column, "vector")

    @classmethod
    def adds(cls, config: HubnessConfig) -> tuple[Column, ...]:
        """Neighbour lists and counts."""
        names = ("neighbor_ids", "neighbor_scores", "k_occurrence", "is_hub", "is_antihub")
        return tuple(Column(name, "other") for name in names)

    @property
    def draws(self) -> bool:
        """The approximate search starts at random."""
        return self.config.ann is not None

    @classmethod
    def also_reads(cls, config: HubnessConfig) -> tuple[str, ...]:
        """The column that tells queries from the rest."""
        return (config.queries,) if config.queries else ()

    def semantic(self, phase: Phase) -> dict[str, Any]:
        """What counts as a hub does not change the lists; how rows are blocked changes nothing."""
        if phase == "fold":
            return {}
        config = self.config
        lists: dict[str, Any] = {
            "metric": config.metric,
            "width": config.width,
            "centre": config.reduction == "centering",
        }
        lists |= {"ann": [config.ann, config.ann_above] if config.ann else None}
        if phase == "pairs":
            return lists | {"statistics": [config.reduction, config.k] if config.rescores else None}
        return lists | {
            "k": config.k,
            "reduction": config.reduction,
            "hub_factor": config.hub_factor,
            "keep": config.keep,
        }

    def fold(self, table: pa.Table, context: Context) -> Arrays:
        """Sum of the usable vectors, for centring."""
        vectors, _, _ = usable_vectors(table, self.column, nonzero=self.config.metric == "cosine")
        return {"n": np.array(len(vectors)), "total": vectors.sum(axis=0, dtype=np.float64)}

    def merge(self, a: Arrays, b: Arrays) -> Arrays:
        """Sum of both."""
        if int(a["n"]) == 0 or int(b["n"]) == 0:
            return b if int(a["n"]) == 0 else a
        return {"n": a["n"] + b["n"], "total": a["total"] + b["total"]}

    def drift(self, pinned: Arrays, current: Arrays) -> float:
        """The centre stays where it was pinned."""
        return 0.0

    def fit(self, pinned: Arrays, current: Arrays, context: Context) -> Artifact:
        """The mean."""
        return Artifact({MEAN: {"mean": pinned["total"] / max(1, int(pinned["n"]))}})

    def block_rows(self, rows: int) -> int:
        """Approximate search wants all rows at once."""
        config = self.config
        return max(rows, 1) if config.ann and rows > config.ann_above else config.block_rows

    def pair(self, a: pa.Table, b: pa.Table | None, context: Context) -> tuple[Arrays, Arrays]:
        """Candidate lists, with row numbers of the other table."""
        from kxbatch.kernels.knn import knn_graph, knn_pair

        config = self.config
        x, mask_a, _ = self._usable(a, context)
        if config.queries is not None:
            return self._cross(a, b, context)
        if b is None:
            if config.ann and config.metric != "inner" and len(x) > config.ann_above:
                from kxbatch.kernels.approximate import approximate_graph

                near, recall = approximate_graph(x, config.width, config.metric, context.threads, context.seed)
                extra = {"recall": np.array(recall)}
            else:
                near, extra = knn_graph(x, config.width, metric=config.metric, threads=context.threads), {}
            return _spread(near, mask_a, mask_a, config.metric) | _directions(x) | extra, {}
        y, mask_b, _ = self._usable(b, context)
        if len(x) == 0 or len(y) == 0:
            width = config.width
            return _no_lists(mask_a, width, config.metric), _no_lists(mask_b, width, config.metric)
        forward, backward = knn_pair(
            x, y, config.width, metric=config.metric, threads=context.threads, offset_a=0, offset_b=0
        )
        return _spread(forward, mask_a, mask_b, config.metric), _spread(backward, mask_b, mask_a, config.metric)

    def _cross(self, a: pa.Table, b: pa.Table | None, context: Context) -> tuple[Arrays, Arrays]:
        """The same where only queries ask and only the others are searched."""
        x, mask_a, _ = self._usable(a, context)
        asks_a = self._asks(a)
        if b is None:
            lists = self._ask(x, mask_a, asks_a, x, mask_a, asks_a, context.threads)
            return lists | {"usable": mask_a & ~asks_a} | _directions(x[~asks_a[mask_a]]), {}
        y, mask_b, _ = self._usable(b, context)
        asks_b = self._asks(b)
        forward = self._ask(x, mask_a, asks_a, y, mask_b, asks_b, context.threads)
        return forward, self._ask(y, mask_b, asks_b, x, mask_a, asks_a, context.threads)

    def _ask(self, x: Any, mask_x: Mask, asks_x: Mask, y: Any, mask_y: Mask, asks_y: Mask, threads: int) -> Arrays:
        """Lists of the queries of one table among the other rows of another."""
        from kxbatch.kernels.knn import knn_cross

        config = self.config
        queries, corpus = x[asks_x[mask_x]], y[~asks_y[mask_y]]
        if len(queries) == 0 or len(corpus) == 0:
            return _no_lists(mask_x, config.width, config.metric)
        near = knn_cross(queries, corpus, config.width, metric=config.metric, threads=threads)
        return _spread(near, mask_x & asks_x, mask_y & ~asks_y, config.metric)

    def _asks(self, table: pa.Table) -> Mask:
        """Which rows are queries; a null is none."""
        column = table.column(self.config.queries)
        if not pa.types.is_boolean(column.type):
            raise DataError(
                f"column '{self.config.queries}' has type {column.type}; queries are told by a boolean column"
            )
        asks: Mask = column.fill_null(False).to_numpy()
        return asks

    def gather(
        self,
        rows: npt.NDArray[np.int64],
        sides: Sequence[Side],
        corpus: Callable[[], Iterator[tuple[int, pa.Table]]],
        context: Context,
    ) -> Arrays:
        """Best candidates over all blocks, and what the reduction keeps of every row."""
        from kxbatch.kernels.hub_reductions import row_statistics
        from kxbatch.kernels.knn import Neighbors, merge

        config = self.config
        lists = []
        for side in sides:
            indices = side.arrays["indices"]
            placed = np.where(indices >= 0, side.rows[indices], -1) if len(side.rows) else indices.astype(np.int64)
            lists.append(Neighbors(placed, side.arrays["scores"]))
        best = merge(lists, config.width, metric=config.metric)
        out = {"indices": best.indices, "scores": best.scores, "statistics": np.empty((len(best.indices), 0))}
        if config.reduction == "dissimlocal":
            out["statistics"] = self._local_spread(rows, best.indices[:, : config.k], corpus, context)
        elif config.rescores:
            out["statistics"] = row_statistics(config.reduction, config.metric, best.indices, best.scores, config.k)
        own = next(side.arrays for side in sides if "unit_sum" in side.arrays)
        return out | {name: own[name] for name in ("usable", "unit_sum", "units", "recall") if name in own}

    def conclude(self, corpus: Corpus, context: Context) -> tuple[Artifact, Iterator[Patch]]:
        """N_k over all lists, before and after the reduction. Holds k numbers a row, and one block of candidates."""
        from kxbatch.stages.hub_conclusion import conclude_hubness

        return conclude_hubness(self.config, self.column, corpus)

    def map(self, table: pa.Table, context: Context) -> Mapped:
        """Every row's neighbours, by id, and how often it is a neighbour."""
        _, mask, rejected = self._usable(table, context)
        patch, config = context.patch, self.config
        assert context.ids is not None
        names = context.ids(patch["indices"][mask])
        kind = pa.list_(pa.field("element", names.type), config.k)
        scores = pa.array(patch["scores"][mask].reshape(-1), mask=(patch["indices"][mask] < 0).reshape(-1))
        counts = patch["counts"][mask]
        asking = self._asks(table)[mask] if config.queries else np.zeros(len(counts), bool)  # nobody finds those
        columns = {
            "neighbor_ids": pa.FixedSizeListArray.from_arrays(names, type=kind),
            "neighbor_scores": pa.FixedSizeListArray.from_arrays(
                scores, type=pa.list_(pa.field("element", pa.float32()), config.k)
            ),
            "k_occurrence": pa.array(counts, mask=asking),
            "is_hub": pa.array(counts >= config.hub_factor * config.k, mask=asking),
            "is_antihub": pa.array(counts == 0, mask=asking),
        }
        return Mapped(columns, rejected)

    def _usable(self, table: pa.Table, context: Context) -> tuple[Any, npt.NDArray[np.bool_], Any]:
        """Vectors to search among; centring can make a vector zero, which has no direction either."""
        cosine = self.config.metric == "cosine"
        vectors, mask, rejected = usable_vectors(table, self.column, nonzero=cosine)
        if self.config.reduction == "centering" and len(vectors):
            from kxbatch.kernels.hub_centroids import center

            assert context.artifact is not None
            vectors = center(vectors, context.artifact(MEAN)["mean"])
            zero = ~vectors.any(axis=1)
            if cosine and zero.any():
                reasons = np.full(len(mask), "", object)
                reasons[np.flatnonzero(mask)[zero]] = "zero-vector"
                words = {"zero-vector": f"column '{self.column}' equals the mean: it has no direction once centred"}
                rejected = sorted([*rejected, *rejections(table, reasons, words)], key=lambda r: r.row)
                vectors, mask = vectors[~zero], mask & (reasons == "")
        return vectors, mask, rejected

    def _local_spread(
        self,
        rows: npt.NDArray[np.int64],
        near: npt.NDArray[np.int64],
        corpus: Callable[[], Iterator[tuple[int, pa.Table]]],
        context: Context,
    ) -> npt.NDArray[np.float64]:
        """Squared distance of every row to the centre of its neighbours; reads the corpus once more, shard by shard."""
        from kxbatch.kernels.hub_centroids import accumulate_centroids, local_spread
        from kxbatch.kernels.whitening import normalize

        own: npt.NDArray[np.float64] | None = None
        for first, table in corpus():
            vectors, mask, _ = self._usable(table, context)
            placed = np.zeros((len(mask), vectors.shape[1]))
            placed[mask] = normalize(vectors.astype(np.float64)) if self.config.metric == "cosine" else vectors
            if own is None:
                own, sums = np.zeros((len(rows), placed.shape[1])), np.zeros((len(rows), placed.shape[1]))
            accumulate_centroids(sums, near, placed, first)
            at = int(np.searchsorted(rows, first))
            if at < len(rows) and rows[at] == first:
                own[at : at + len(placed)] = placed
        assert own is not None
        return local_spread(own, sums, near)


def _spread(near: Any, mask: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], metric: str) -> Arrays:
    """Lists of the usable rows -> lists of all rows; row numbers of the usable rows -> of all rows."""
    rows = np.flatnonzero(other)
    out = _no_lists(mask, near.indices.shape[1], metric)
    out["scores"][mask] = near.scores
    if len(rows):
        out["indices"][mask] = np.where(near.indices >= 0, rows[near.indices], -1)
    return out


def _no_lists(mask: npt.NDArray[np.bool_], width: int, metric: str) -> Arrays:
    """Lists of padding only."""
    padding = np.inf if metric == "euclidean" else -np.inf
    indices = np.full((len(mask), width), -1, np.int32)
    return {"indices": indices, "scores": np.full((len(mask), width), padding), "usable": mask}


def _directions(x: npt.NDArray[np.float32]) -> Arrays:
    """Sum of the unit vectors, from which the mean cosine over all pairs follows.

    In fixed point, because integers add up to the same sum in any order and so for any blocks; an element is off by
    2^-33 at most, and 2^31 rows fit.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    units = x[norms > 0] / norms[norms > 0, None]
    return {"unit_sum": np.rint(units * UNIT).astype(np.int64).sum(axis=0), "units": np.array(len(units))}


STAGE = Hubness
