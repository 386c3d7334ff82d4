"""Moments of a Parquet corpus against numpy's covariance and scikit-learn's IncrementalPCA, one thread each.

Ours reads the vectors from disk (page cache warm) and folds them; the peers find them in memory. CPU seconds,
medians of interleaved runs: other work on the machine then hits all of them alike.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.decomposition import IncrementalPCA
from threadpoolctl import threadpool_info, threadpool_limits

from kxbatch.kernels.moments import BLOCK, fold, merge_tree

WIDTH = 384
UNIT = "k rows / CPU s"
Vectors = NDArray[np.float32]


def write_corpus(path: Path, x: Vectors) -> None:
    """One file of `embedding: fixed_size_list<float not null>[d] not null`, uncompressed, 16 384 rows a group."""
    kind = pa.list_(pa.field("item", pa.float32(), nullable=False), x.shape[1])
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), type=kind)
    table = pa.table([column], schema=pa.schema([pa.field("embedding", kind, nullable=False)]))
    pq.write_table(
        table, path, row_group_size=2 * BLOCK, compression="none", use_dictionary=False, write_statistics=False
    )


def read_corpus(path: Path) -> Iterator[Vectors]:
    """The vectors, a row group at a time, as views of what Arrow decoded."""
    file = pq.ParquetFile(path, memory_map=True)
    for batch in file.iter_batches(batch_size=2 * BLOCK, use_threads=False):
        column = batch.column(0)
        yield column.flatten().to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)


def incremental_pca(x: Vectors) -> None:
    """The only other streaming fit: partial fits on the same blocks."""
    peer = IncrementalPCA()
    for start in range(0, len(x), BLOCK):
        peer.partial_fit(x[start : start + BLOCK])


def matrix_product(x: Vectors) -> None:
    """Only the products of the fold: what no fold can be faster than."""
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        block.T @ block


def rates(work: dict[str, tuple[int, Callable[[], object]]], runs: int) -> dict[str, float]:
    """Thousand rows per CPU second of each piece of work (rows, call), the median of interleaved runs."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(runs):
        for name, (_, call) in work.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return {name: work[name][0] / float(np.median(seconds[name])) / 1e3 for name in work}


def environment() -> str:
    """Machine, versions and the core that BLAS believes it runs on."""
    blas: dict[str, Any] = next(
        (i for i in threadpool_info() if i["user_api"] == "blas" and "numpy" in i["filepath"]), {}
    )
    return (
        f"{platform.machine()}, 1 thread, numpy {np.__version__}, pyarrow {pa.__version__}, "
        f"{blas.get('internal_api')} {blas.get('version')} as {blas.get('architecture')}"
    )


def rows(quick: bool) -> list[dict[str, Any]]:
    """Measures everything.

    Args:
        quick: half of the rows and three runs in place of five.

    Returns:
        One row for each comparison; `limit` is the bare matrix product in memory, in the same unit.
    """
    n, runs = (65_536, 3) if quick else (131_072, 5)
    x = np.random.default_rng(0).standard_normal((n, WIDTH), dtype=np.float32) + np.float32(0.3)
    few = x[: n // 4]
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        path = Path(folder) / "corpus.parquet"
        write_corpus(path, x)
        rate = rates(
            {
                "read": (n, lambda: [len(block) for block in read_corpus(path)]),
                "parquet": (n, lambda: merge_tree([fold(block) for block in read_corpus(path)])),
                "memory": (n, lambda: fold(x)),
                "cov": (n, lambda: np.cov(x, rowvar=False)),
                "pca": (len(few), lambda: incremental_pca(few)),
                "limit": (n, lambda: matrix_product(x)),
            },
            runs,
        )
    compared = [
        ("moments from Parquet, np.cov in memory", "parquet", "cov", 3.0),
        ("moments from Parquet, IncrementalPCA in memory", "parquet", "pca", 3.0),
        ("moments in memory, np.cov in memory", "memory", "cov", 3.0),
        ("reading the vectors alone, the fold in memory", "read", "memory", 1.0),
    ]
    return [
        {
            "name": f"{name} (d = {WIDTH})",
            "ours": round(rate[ours], 1),
            "peer": round(rate[peer], 1),
            "limit": round(rate["limit"], 1),
            "unit": UNIT,
            "ratio": round(rate[ours] / rate[peer], 2),
            "target": target,
            "environment": environment(),
        }
        for name, ours, peer, target in compared
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    table = rows(parser.parse_args().quick)
    print(table[0]["environment"])
    for row in table:
        print(
            f"{row['name']:<60} {row['ours']:>8} against {row['peer']:>8}  limit {row['limit']:>8} {row['unit']}  "
            f"ratio {row['ratio']:>6}  target {row['target']}"
        )


if __name__ == "__main__":
    main()
