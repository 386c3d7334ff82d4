"""Exact k-NN graph side by side with faiss and scikit-learn, and the memory it takes.

    python tests/bench/bench_knn.py [--quick]

Each contestant runs in a process of its own, with the environment that suits it; their runs are interleaved, and each row
gives medians (CPU seconds on one thread, else wall seconds) and the ratio peer / ours (above 1: ours is better). All lists
are of the same rows: k = 10, cosine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

K = 10
Row = dict[str, Any]


def anisotropic(n: int, d: int) -> NDArray[np.float32]:
    """Like raw sentence embeddings: clusters, a falling spectrum and a mean far from the origin."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, d + 1) ** -0.5
    centres = 0.7 * rng.standard_normal((200, d))
    x = (rng.standard_normal((n, d)) + centres[rng.integers(200, size=n)]) * spectrum + rng.standard_normal(d)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def char_ngrams(n: int, d: int) -> NDArray[np.float32]:
    """Like hashed character n-grams: each row the mean of some random vectors, picked by Zipf's law."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((20_000, d)).astype(np.float32)
    x = np.empty((n, d), np.float32)
    for i, length in enumerate(rng.integers(8, 40, size=n)):
        x[i] = table[np.minimum(rng.zipf(1.3, length), 20_000) - 1].sum(axis=0)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


DATA: dict[str, Callable[[int, int], NDArray[np.float32]]] = {"anisotropic": anisotropic, "char-ngrams": char_ngrams}


def contestant(who: str, x: NDArray[np.float32], threads: int) -> Callable[[], object]:
    """A function that makes the whole graph once."""
    if who.startswith("ours"):
        from kxbatch.kernels.knn import knn_graph

        precision: Any = who.partition("-")[2] or "auto"
        return lambda: knn_graph(x, K, metric="cosine", threads=threads, precision=precision)
    if who == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)

        def search() -> object:
            index = faiss.IndexFlatIP(x.shape[1])
            index.add(x)
            return index.search(x, K + 1)

        return search
    from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]  # has no type information

    # on unit vectors the distance ranks as the cosine does, and has the faster code
    return lambda: NearestNeighbors(algorithm="brute", n_jobs=threads).fit(x).kneighbors(x, K + 1)


def peak_bytes() -> int:
    """Peak resident memory of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def work(who: str, data: str, n: int, d: int, threads: int) -> None:
    """The contestant's process: for each line on stdin one run, for each run one line of JSON."""
    x = DATA[data](n, d)
    run = contestant(who, x, threads)
    contestant(who, x[:3000], threads)()  # loads libraries, compiles, starts threads
    limit = matmul_seconds(n, d, threads) if who == "ours" else None
    before = peak_bytes()
    print(json.dumps({"limit": limit}), flush=True)
    for _ in sys.stdin:
        # CPU time on one thread: other programs on the machine disturb it least
        clock = time.process_time if threads == 1 else time.perf_counter
        start = clock()
        run()
        print(json.dumps({"seconds": clock() - start, "growth": peak_bytes() - before}), flush=True)


def matmul_seconds(n: int, d: int, threads: int) -> float:
    """What the product of each pair of rows once would take at the pace of torch's bfloat16 product of a tile."""
    import torch

    torch.set_num_threads(1)
    a, b = torch.randn(1024, d).bfloat16(), torch.randn(1024, d).bfloat16()
    out, times = torch.empty(1024, 1024, dtype=torch.bfloat16), []
    for _ in range(30):
        start = time.perf_counter()
        torch.mm(a, b.t(), out=out)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * (n / 1024) ** 2 / 2 / threads


def environment(threads: int) -> dict[str, str]:
    """One thread count for all pools, and the BLAS core that suits the CPU (OpenBLAS in faiss picks a 2008 one)."""
    wide = "avx512f" in Path("/proc/cpuinfo").read_text()
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**os.environ, **counts, "OPENBLAS_CORETYPE": "SkylakeX" if wide else "Haswell"}


def measure(contestants: Sequence[str], data: str, n: int, d: int, threads: int, rounds: int) -> dict[str, Row]:
    """Medians of interleaved runs, or the error of a contestant that could not run."""
    started: dict[str, subprocess.Popen[str]] = {}
    result: dict[str, Row] = {}
    for who in contestants:
        command = [sys.executable, __file__, "--work", who, data, str(n), str(d), str(threads)]
        pipe = subprocess.PIPE
        started[who] = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment(threads)
        )
        result[who] = {"times": [], **ask(started[who], None)}
    for _ in range(rounds):
        for who, process in started.items():
            if "error" not in result[who]:
                answer = ask(process, "run\n")
                result[who]["times"].append(answer.pop("seconds", 0.0))
                result[who].update(answer)
    for who, process in started.items():
        process.communicate()
        result[who]["seconds"] = None if "error" in result[who] else statistics.median(result[who]["times"])
    return result


def ask(process: subprocess.Popen[str], line: str | None) -> Row:
    """Sends a line to a contestant, if any, and reads its answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    if line is not None:
        process.stdin.write(line)
        process.stdin.flush()
    answer = process.stdout.readline()
    if answer:
        return dict(json.loads(answer))
    return {"error": process.stderr.read().strip().rpartition("\n")[2] or f"exit status {process.wait()}"}


def row(name: str, ours: float, peer: Row, unit: str, key: str, target: float, limit: float | None, place: str) -> Row:
    """One line of the result; `peer` is None, with a note, where the peer could not run."""
    value = peer.get(key)
    made = {"name": name, "ours": ours, "peer": value, "limit": limit, "unit": unit}
    made |= {"ratio": value / ours if value is not None else None, "target": target, "environment": place}
    return made | ({"note": peer["error"]} if "error" in peer else {})


def rows(quick: bool) -> list[Row]:
    """All comparisons.

    Args:
        quick: two small cases on one thread: about a minute.

    Returns:
        Rows with name, ours, peer, limit, unit, ratio, target, environment, and a note where a peer could not run.
    """
    cases = [("anisotropic", 20_000, 64, 1), ("char-ngrams", 20_000, 256, 1)]
    if not quick:
        cases = [("anisotropic", n, d, 1) for n in (20_000, 50_000) for d in (64, 256, 384)]
        cases += [("char-ngrams", 50_000, d, 1) for d in (64, 256, 384)]
        cases += [("anisotropic", 50_000, d, 2) for d in (64, 256, 384)]
    made: list[Row] = []
    for data, n, d, threads in cases:
        place = f"{platform.machine()}, {os.cpu_count()} CPUs, {threads} thread(s)"
        fast = measure(["ours", "ours-fp32", "faiss"], data, n, d, threads, 3)
        versus = [(fast, "ours", "faiss", 2.0), (fast, "ours-fp32", "faiss", 1.5)]
        if (data, threads) == ("anisotropic", 1):
            slow = measure(["ours", "scikit-learn"], data, n, d, threads, 1)
            versus.append((slow, "ours", "scikit-learn", 2.0))
        name = f"knn graph, {data}, N={n}, d={d}, {threads} thread(s)"
        limit = fast["ours"].get("limit")
        for found, ours, peer, target in versus:
            if found[ours]["seconds"] is None:
                raise RuntimeError(f"{name}: {found[ours]['error']}")
            label = f"{name}, {ours} against {peer}"
            unit = "CPU s" if threads == 1 else "s"
            made.append(row(label, found[ours]["seconds"], found[peer], unit, "seconds", target, limit, place))
        if (data, n, d, threads) == ("anisotropic", 50_000, 384, 1):
            grown, vectors = fast["ours"]["growth"] / 2**20, n * d * 4 / 2**20
            label = f"{name}, peak memory beside the vectors ({vectors:.0f} MiB) against a budget of 1.5 GiB"
            made.append(row(label, grown, {"growth": 1536.0}, "MiB", "growth", 1.0, None, place))
    return made


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        who, data, *sizes = arguments.work
        work(who, data, *(int(size) for size in sizes))
        return
    for one in rows(arguments.quick):
        cells = [f"{one[key]:.3f}" if one[key] is not None else "-" for key in ("ours", "peer", "limit", "ratio")]
        print(f"{one['name']:<95}{one['unit']:>6}", *(f"{cell:>9}" for cell in cells), one.get("note", ""))


if __name__ == "__main__":
    main()
