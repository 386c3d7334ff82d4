"""The efficient span head with its pruned decoder against a dense head of all types with `np.where`; and a training step.

python -m tests.bench.bench_extract [--quick]

CPU seconds, one thread, float32, medians of interleaved runs; 50 types, texts of 256 tokens, states of width 768. The efficient
head is fitted to five spans a text on these very states, so that its scores lie as those of a trained one: most of them far below
0. The dense head is not trained, since its time does not depend on its weights; its threshold lets it find as many spans. Memory
is what the resident set grows by at most. A training step is head and loss, forward and backward, without the encoder.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kxbatch.models.extraction.decoding import decode, decode_dense
from kxbatch.models.extraction.globalpointer import EfficientGlobalPointer, GlobalPointer
from kxbatch.models.extraction.span_losses import factorised_loss, sparse_loss

DIM, TYPES, LENGTH, SPANS = 768, 50, 256, 5


def gold_of(texts: int) -> Tensor:
    """Spans of 1 to 8 tokens."""
    rng = np.random.default_rng(0)
    start = rng.integers(1, LENGTH - 8, size=texts * SPANS)
    columns = (np.repeat(np.arange(texts), SPANS), rng.integers(TYPES, size=len(start)), start)
    return torch.from_numpy(np.stack([*columns, start + rng.integers(1, 9, size=len(start))], axis=1))


def fitted(h: Tensor, valid: Tensor, gold: Tensor) -> EfficientGlobalPointer:
    """A head that finds the gold spans in these states and little else."""
    head = EfficientGlobalPointer(DIM, TYPES)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        factorised_loss(head.parts(h), valid, gold).backward()
        optimizer.step()
    return head


def where(scores: Tensor, threshold: float) -> list[tuple[Any, ...]]:
    """What is written everywhere."""
    found = np.where(scores.numpy() > threshold)
    return [(row, kind, start, end + 1) for row, kind, start, end in zip(*found, strict=True)]


def seconds(work: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """CPU seconds of each, the median of interleaved runs after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for run in range(runs + 1):
        for name, call in work.items():
            start = time.process_time()
            call()
            if run:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def growth(call: Callable[[], object]) -> float:
    """MiB by which the resident set grows at most (Linux with glibc)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what others have freed is taken again, and nothing grows
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def rows(quick: bool) -> list[dict[str, Any]]:
    """Measures everything.

    Args:
        quick: 4 texts in place of 16.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts, runs = (4, 2) if quick else (16, 5)
    h, valid, gold = torch.randn(texts, LENGTH, DIM), torch.ones(texts, LENGTH, dtype=torch.bool), gold_of(texts)
    head, dense = fitted(h, valid, gold), GlobalPointer(DIM, TYPES)
    found = decode(head, h, valid)
    with torch.no_grad():
        scores = dense(h, valid)
        threshold = float(scores.flatten().topk(len(found) + 1)[0][-1])
        if len(decode_dense(head(h, valid))) != len(found) or len(where(scores, threshold)) != len(found):
            raise RuntimeError("the contestants do not find as many spans")
        del scores
    work = _work(head, dense, h, valid, gold, threshold)
    memory = {name: growth(call) for name, call in work.items()}
    taken = {name: texts / value for name, value in seconds(work, runs).items()}
    size = f"{texts} x {LENGTH} tokens, {TYPES} types"
    note = {"note": f"{len(found)} spans, {len(set(map(tuple, gold.tolist())))} of them fitted"}
    return [
        _row(f"head and decoding, {size}: dense head, np.where", taken, "efficient", "dense", 10) | note,
        _row(f"the same, peak memory, {size}", memory, "efficient", "dense", 10, "MiB"),
        _row(f"the efficient head's dense scores, np.where, {size}", taken, "efficient", "its dense scores", None),
        _row(f"training step, factorised loss against sparse, {size}", taken, "factorised", "sparse", None),
        _row(f"the same, peak memory, {size}", memory, "factorised", "sparse", None, "MiB"),
    ]


def _work(
    head: EfficientGlobalPointer, dense: GlobalPointer, h: Tensor, valid: Tensor, gold: Tensor, threshold: float
) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    without = torch.no_grad()
    return {
        "efficient": lambda: decode(head, h, valid),
        "factorised": lambda: factorised_loss(head.parts(h), valid, gold).backward(),
        "its dense scores": without(lambda: where(head(h, valid), 0.0)),
        "sparse": lambda: sparse_loss(head(h, valid), gold).backward(),
        "dense": without(lambda: where(dense(h, valid), threshold)),
    }


def _row(
    name: str, measured: dict[str, float], ours: str, peer: str, target: float | None, unit: str = "texts/CPU s"
) -> dict[str, Any]:
    a, b = measured[ours], measured[peer]
    return {
        "name": name,
        "ours": round(a, 2),
        "peer": round(b, 2),
        "limit": None,
        "unit": unit,
        "ratio": round(b / a if unit == "MiB" else a / b, 2),
        "target": target,
        "environment": f"{platform.machine()}, 1 thread, torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores",
    }


def main() -> None:
    """Prints the table."""
    from tests.bench.table import show

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    found = rows(parser.parse_args().quick)
    print(found[0]["environment"])
    show(found)


if __name__ == "__main__":
    main()
