"""What building a graph costs at the size of KgCLUE: time from the file to the artifact, memory of all processes, bytes, opening.

There is no peer to run: targets are an order of magnitude below the published implementation of dictionaries in Python, which
took 30 minutes and about 30 GB (Su 2021).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.bench import graph_corpus

QUICK = 200_000
TARGETS = {"seconds": 180.0, "GB": 8.0, "bytes": 30.0, "open": 1.0}


def build(triples: Path, output: Path, executor: str) -> tuple[float, float]:
    """Seconds of `kxbatch kg build`, and the most bytes that it and its children held at once, sampled."""
    words = ["kg", "build", str(triples), "--output", str(output), "--executor", executor, "--quiet"]
    code = "from kxbatch.cli import main; main()"
    start, most = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        most = max(most, _held(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"kg build ended with status {process.returncode}")
    return time.perf_counter() - start, most


def opening(output: Path) -> float:
    """Seconds that another process takes to open the graph, imports left out, digests checked; the second time."""
    code = (
        "import sys, time; from pathlib import Path; from kxbatch.models.graph import Graph, opening; Graph.of([('a', 'b', 'c')]);"
        "start = time.perf_counter(); Graph.open(Path(sys.argv[1])); print(time.perf_counter() - start)"
    )
    told = [
        subprocess.run([sys.executable, "-c", code, str(output)], capture_output=True, check=True) for _ in range(2)
    ]
    return float(told[-1].stdout)


def rows(quick: bool, executor: str = "inline") -> list[dict[str, Any]]:
    """The measured rows."""
    with tempfile.TemporaryDirectory() as name:
        triples, output = Path(name) / "triples.parquet", Path(name) / "out"
        graph_corpus.write(triples, QUICK if quick else graph_corpus.TRIPLES)
        return measured(triples, output, executor)


def measured(triples: Path, output: Path, executor: str) -> list[dict[str, Any]]:
    """The rows for a file of triples."""
    seconds, held = build(triples, output, executor)
    about = json.loads((output / "graph/_artifact/graph.json").read_text())
    what = f"{about['rows']} triples, {about['keys']} keys"
    found = (
        (f"kg build, {what}", seconds, "s", TARGETS["seconds"]),
        ("kg build, most memory of all processes", held / 1e9, "GB", TARGETS["GB"]),
        ("trie, bytes per key", about["bytes_per_key"], "bytes", TARGETS["bytes"]),
        ("opening it, digests checked", opening(output), "s", TARGETS["open"]),
    )
    environment = f"{platform.machine()}, {os.cpu_count()} cores, {executor}"
    return [
        {
            "name": name,
            "ours": round(ours, 3),
            "peer": None,
            "limit": limit,
            "unit": unit,
            "ratio": round(limit / ours, 2),  # above 1 is within the limit
            "target": 1.0,
            "note": f"{about['rows'] / seconds:,.0f} rows/s" if unit == "s" and ours == seconds else "",
            "environment": environment,
        }
        for name, ours, unit, limit in found
    ]


def _held(pid: int) -> int:
    """Resident bytes of a process and all below it; what they share is counted for each."""
    total = 0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--executor", choices=("inline", "ray"), default="inline")
    parser.add_argument("--triples", type=Path, help="a file of triples that is there already")
    parser.add_argument("--output", type=Path, help="where to leave the graph built from it")
    given = parser.parse_args()
    made = measured(given.triples, given.output, given.executor) if given.triples else rows(given.quick, given.executor)
    for row in made:
        print(row)
