"""What the trainer costs: its loop against the same model in a bare loop of torch, and DeepSpeed against both.

Trainer: rows read, tokenised, masked, logged, its threads and looks at the clock; states are not saved. Bare loop: the very same
batches, ready in memory; forward, backward, clipping, the same optimiser. Steps a second, the median of several runs, interleaved.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import kxbatch as kx
from kxbatch.data.receipts import read_receipts
from kxbatch.engine.assign import assign
from kxbatch.engine.job import load_job
from kxbatch.engine.phases.shards import corpus_shards
from kxbatch.engine.phases.training import Training
from kxbatch.engine.prepare import prepare
from kxbatch.stages.task import Batch
from kxbatch.training.feed import batches, encoded, order_of, pieces
from kxbatch.training.optimizers import make_optimizer
from tests.bench.bench_embed import docstrings

TRAINER, DEEPSPEED = 0.952, 0.909  # at most 5 % and 10 % on top of what is compared with


def job(folder: Path, executor: str, steps: int, threads: int) -> dict[str, Any]:
    """A GAU encoder of 8M parameters; an output of its own for each executor."""
    training = {"steps": steps, "batch_rows": 32, "log_every": 5, "checkpoint_every": 10**6, "precision": "fp32"}
    encoder = {
        "kind": "masked-lm",
        "name": "encoder",
        "column": "text",
        "tokenizer": "stage:tokenizer",
        "max_length": 128,
    }
    encoder |= {"model": {"dim": 256, "layers": 8}, "training": training, "resources": {"cpus": threads}}
    return {
        "job": {"name": "bench", "output": str(folder / executor), "executor": executor},
        "input": {"path": str(folder / "texts.jsonl"), "shard_size": "500kB"},
        "stage": [{"kind": "tokenizer", "column": "text", "vocabulary": 4000}, encoder],
    }


def trained(folder: Path, executor: str, steps: int, threads: int) -> float:
    """Steps a second of a whole training, the first lines left out: there the first batches are waited for."""
    shutil.rmtree(folder / executor / "encoder", ignore_errors=True)
    result = kx.run(job(folder, executor, steps, threads), quiet=True, report=False)
    if result.exit_code != 0:
        raise RuntimeError(result.message)
    lines = (folder / executor / "encoder/_training/history.jsonl").read_text().splitlines()
    paces = [line["steps_per_second"] for line in map(json.loads, lines) if "loss" in line]
    return statistics.median(paces[2:])


def ready(folder: Path, steps: int, threads: int) -> tuple[list[Batch], Any, Any]:
    """The batches of the first steps, the task and the configuration, from what a training left."""
    loaded = load_job(job(folder, "inline", steps, threads))
    corpus, nodes = prepare(loaded)
    node = nodes[-1]
    training = Training(node, "", read_receipts(node.folder, "survey"), True, "bench")
    session = training.session(assign(loaded, node, corpus, run="bench", token=0), corpus_shards(loaded, corpus, None))
    order = order_of(session)
    tables = (table for piece in pieces(order, 0, steps, 0, 1) for table in encoded(session, order, piece))
    return [batch for _, batch in batches(session, order, tables)], session.task(), session.config


def bare(made: tuple[list[Batch], Any, Any], threads: int) -> float:
    """Steps a second of the loop that everybody writes first."""
    found, task, config = made
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = task.model().train()
    optimizer = make_optimizer(model, config.optimizer)
    paces = []
    for batch in found:
        start = time.perf_counter()
        task.loss(model, batch.tensors).mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        paces.append(time.perf_counter() - start)
    tens = [sum(paces[at : at + 5]) / 5 for at in range(10, len(paces) - 4, 5)]
    return 1 / statistics.median(tens)


def rows(quick: bool) -> list[dict[str, Any]]:
    """The rows of this group."""
    steps, rounds, threads = (40, 2, 1) if quick else (80, 3, 1)
    folder = Path(tempfile.mkdtemp(prefix="bench-training-"))
    try:
        texts = docstrings()[: 2000 if quick else 4000]
        (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        trained(folder, "inline", steps, threads)
        made = ready(folder, steps, threads)
        found: dict[str, list[float]] = {"bare": [], "inline": [], "ray": []}
        for _ in range(rounds):
            found["bare"].append(bare(made, threads))
            found["inline"].append(trained(folder, "inline", steps, threads))
            found["ray"].append(trained(folder, "ray", steps, threads))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    best = {name: statistics.median(values) for name, values in found.items()}
    told = f"{platform.machine()}, {threads} threads, torch {torch.__version__}, {rounds} interleaved rounds"
    return [
        _row("trainer against a bare loop, GAU 8 x 256, fp32", best["inline"], best["bare"], TRAINER, told),
        _row("DeepSpeed ZeRO-1, one worker, against the trainer", best["ray"], best["inline"], DEEPSPEED, told),
    ]


def _row(name: str, ours: float, peer: float, target: float, told: Any) -> dict[str, Any]:
    row = {"name": name, "ours": round(ours, 3), "peer": round(peer, 3), "limit": None, "unit": "steps/s"}
    return row | {"ratio": round(ours / peer, 3), "target": target, "environment": told}


def main() -> None:
    """Print the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(rows(parser.parse_args().quick), indent=2))


if __name__ == "__main__":
    main()
