"""Choosing beta, gamma and dim of a whitening: on labelled pairs from stored moments, without reading the corpus again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from kxbatch.data.arrays import read_arrays
from kxbatch.data.vectors import to_numpy
from kxbatch.engine.cards import ARTIFACT, STATE
from kxbatch.engine.job import Job, Node
from kxbatch.engine.output import open_output
from kxbatch.engine.prepare import prepare
from kxbatch.errors import ConfigError, nearest
from kxbatch.kernels.correlation import SweepPoint, spearman, sweep
from kxbatch.kernels.moments import Moments, fold
from kxbatch.kernels.whitening import decompose
from kxbatch.stages.base import Context

GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs: vectors float32 `[m, d]` of both sides, gold scores float64 `[m]`; `dropped` had no text or score."""

    left: Vectors
    right: Vectors
    gold: npt.NDArray[np.float64]
    dropped: int


@dataclass(frozen=True)
class Tuning:
    """Result of a sweep.

    Attributes:
        stage: the whitening that was tuned.
        fitted_on: `corpus` (inductive) or `pairs` (transductive).
        rows: rows behind the moments.
        raw: Spearman of the vectors as they are.
        points: every point of the grid.
        best: the point with the highest Spearman on the dev pairs.
        test_raw: Spearman of the raw vectors on the test pairs, None without.
        test: Spearman on the test pairs at the chosen point only, None without.
        pairs: dev pairs used.
        dropped: dev and test pairs left out.
    """

    stage: str
    fitted_on: str
    rows: int
    raw: float | None
    points: list[SweepPoint]
    best: SweepPoint
    test_raw: float | None
    test: float | None
    pairs: int
    dropped: int


def tune_on_pairs(
    job: Job,
    pairs: Path,
    *,
    test: Path | None = None,
    columns: Sequence[str] | None = None,
    stage: str | None = None,
    dims: Sequence[int] | None = None,
    fit_on: Literal["corpus", "pairs"] = "corpus",
) -> Tuning:
    """Sweep the grid.

    Args:
        job: a job with an embed and a whiten stage that has run.
        pairs: Parquet, CSV or TSV with two text columns and a score column.
        test: further pairs, scored only at the chosen point.
        columns: names of first text, second text and score; absent: the first two text columns and the first numeric one.
        stage: name of the whiten stage; needed when there are several.
        dims: widths to try; absent: powers of two below the numerical rank, and the rank.
        fit_on: moments of the corpus as stored, or of the pairs' own texts.

    Raises:
        ConfigError: no such stage, nothing fitted yet, or a file without such columns.
    """
    whiten, embed = _stages(job, stage)
    encoder = _Encoder(embed)
    dev = encoder.pairs(*_read_pairs(pairs, columns))
    moments = _moments(whiten, dev, fit_on)
    width = dev.left.shape[1]
    if len(moments.mean) != width:
        raise ConfigError(
            f"stage {whiten.name}: its moments have width {len(moments.mean)}, the pairs {width}; run the job again"
        )
    rank = decompose(moments, 1.0).rank
    tried = list(dims) if dims else sorted({2**i for i in range(4, 14) if 2**i < rank} | {rank})
    points = sweep(moments, dev.left, dev.right, dev.gold, GRID, GRID, tried)
    scored = [p for p in points if p.spearman is not None]
    if not scored:
        raise ConfigError(f"{pairs}: the scores or the cosines do not vary; nothing can be chosen by them")
    best = max(scored, key=lambda p: (p.spearman or -2.0, -p.dim))
    held = encoder.pairs(*_read_pairs(test, columns)) if test else None
    at_best = (
        sweep(moments, held.left, held.right, held.gold, [best.beta], [best.gamma], [best.dim])[0] if held else None
    )
    return Tuning(
        stage=whiten.name,
        fitted_on=fit_on,
        rows=moments.n,
        raw=_raw(dev),
        points=points,
        best=best,
        test_raw=_raw(held) if held else None,
        test=at_best.spearman if at_best else None,
        pairs=len(dev.gold),
        dropped=dev.dropped + (held.dropped if held else 0),
    )


@dataclass(frozen=True)
class Unlabelled:
    """One point looked at without labels: isotropy and hubness of a sample."""

    beta: float
    gamma: float
    dim: int
    mean_cosine: float | None
    skewness: float | None
    antihub_share: float | None
    max_k_occurrence: int | None


def look_without_labels(
    job: Job, *, stage: str | None = None, dims: Sequence[int] | None = None, sample: int = 5000, k: int = 10
) -> list[Unlabelled]:
    """Isotropy and hubness at every point, on an even sample of the corpus. No choice follows: labels decide, these do not.

    Args:
        job: a job with an embed and a whiten stage that has run.
        stage: name of the whiten stage; needed when there are several.
        dims: widths to try; absent: the width of the vectors.
        sample: rows looked at.
        k: length of the neighbour lists.

    Raises:
        ConfigError: no such stage, or nothing fitted yet.
    """
    from kxbatch.kernels.hub_measures import k_occurrence, measures
    from kxbatch.kernels.knn import knn_graph
    from kxbatch.kernels.moments import mean_cosine
    from kxbatch.kernels.whitening import apply, fit

    whiten, embed = _stages(job, stage)
    moments, x = _moments(whiten, None, "corpus"), _sample(job, embed, sample)
    rows = []
    for beta in GRID:
        for gamma in GRID:
            for dim in dims or [len(moments.mean)]:
                transform = fit(moments, beta, gamma, min(dim, fit(moments, beta, gamma).dim))
                y = apply(transform, x)
                y = y[y.any(axis=1)]
                counts = k_occurrence(knn_graph(y, k, metric="cosine").indices, len(y))
                found = measures(counts, k)
                rows.append(
                    Unlabelled(
                        beta,
                        gamma,
                        transform.dim,
                        mean_cosine(fold(y)),
                        _number(found["skewness"]),
                        _number(found["antihub_share"]),
                        int(counts.max(initial=0)),
                    )
                )
    return rows


def _number(value: float | int | None) -> float | None:
    return None if value is None else float(value)


def _stages(job: Job, name: str | None) -> tuple[Node, Node]:
    """The whiten stage, and the embed stage that its vectors come from."""
    _, nodes = prepare(job)
    by_name = {node.name: node for node in nodes}
    found = [node for node in nodes if node.config.kind == "whiten"]
    names = [node.name for node in found]
    if name is not None and name not in names:
        raise ConfigError(
            f"{job.origin}: no whiten stage '{name}'{nearest(name, names)} (has: {', '.join(names) or 'none'})"
        )
    if name is None and len(found) != 1:
        raise ConfigError(
            f"{job.origin}: say which whiten stage to tune with --stage (has: {', '.join(names) or 'none'})"
        )
    whiten = by_name[name] if name else found[0]
    source = by_name.get(whiten.upstream)
    if source is None or source.config.kind != "embed":
        raise ConfigError(
            f"{job.origin}: stage {whiten.name} must read an embed stage directly, so that pairs can be embedded"
        )
    return whiten, source


def _moments(whiten: Node, pairs: Pairs | None, fit_on: str) -> Moments:
    if fit_on == "pairs" and pairs is not None:
        return fold(np.concatenate([pairs.left, pairs.right]))
    if not whiten.folder.child(ARTIFACT).exists(STATE):
        raise ConfigError(f"stage {whiten.name}: no moments are stored yet; `kxbatch run` the job first")
    return Moments.from_arrays(read_arrays(whiten.folder.child(ARTIFACT), STATE))


class _Encoder:
    """The job's own embed stage, for texts at hand."""

    def __init__(self, node: Node) -> None:
        resources = node.config.resources
        self._node, self._context = node, Context(0, resources.threads, resources.gpus)
        node.stage.open(self._context)

    def pairs(self, left: list[str | None], right: list[str | None], gold: npt.NDArray[np.float64]) -> Pairs:
        """Embed both sides; a pair with an unusable side or score is left out."""
        a, ok_a = self._embed(left)
        b, ok_b = self._embed(right)
        good = ok_a & ok_b & np.isfinite(gold)
        return Pairs(a[good[ok_a]], b[good[ok_b]], gold[good], int((~good).sum()))

    def _embed(self, texts: list[str | None]) -> tuple[Vectors, npt.NDArray[np.bool_]]:
        ids = pa.array([str(i) for i in range(len(texts))])
        table = pa.table({"id": ids, self._node.stage.column: pa.array(texts, pa.string())})
        mapped = self._node.stage.map(table, self._context)
        mask = np.ones(len(texts), bool)
        mask[[r.row for r in mapped.rejected]] = False
        return to_numpy(mapped.columns["embedding"], "embedding"), mask


def _read_pairs(path: Path, columns: Sequence[str] | None) -> tuple[list[str | None], list[str | None], Any]:
    frame = _read_frame(path)
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    names = list(columns) if columns else [*texts[:2], *numbers[:1]]
    have = ", ".join(frame.columns)
    for name in names:
        if name not in frame.columns:
            raise ConfigError(f"{path}: no column '{name}'{nearest(name, frame.columns)} (has: {have})")
    if len(names) != 3:
        raise ConfigError(
            f"{path}: two text columns and a score are needed; name them with --columns a,b,score (has: {have})"
        )
    gold = frame[names[2]].cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    return frame[names[0]].to_list(), frame[names[1]].to_list(), gold


def _read_frame(path: Path) -> pl.DataFrame:
    if path.suffix not in (".parquet", ".csv", ".tsv"):
        raise ConfigError(f"{path}: pairs are read from .parquet, .csv or .tsv")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _raw(pairs: Pairs) -> float | None:
    """Spearman of plain cosines."""
    a, b = pairs.left.astype(np.float64), pairs.right.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return spearman(np.einsum("ij,ij->i", a, b) / np.maximum(norms, 1e-16), pairs.gold)


def _sample(job: Job, embed: Node, rows: int) -> Vectors:
    """An even sample of the corpus's vectors."""
    frame = open_output(job.output.path).scan([embed.name]).select("embedding")
    total = int(frame.select(pl.len()).collect().item())
    every = max(1, total // rows)
    column = frame.gather_every(every).head(rows).collect().to_arrow().column("embedding")
    return to_numpy(column, "embedding")
