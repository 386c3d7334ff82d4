"""Sampling beside the pipeline of `diffusers` with the same network, and on two Ray workers beside one.

python -m tests.bench.bench_diffusion [--quick]

400 images of 8 x 8 in 50 DDIM steps through a small U-Net, wall seconds, medians of interleaved runs. The pipeline makes them as
one batch and as batches of 100, of which the faster counts; ours makes batches of 100, with several threads several at once, where
the pipeline has torch share out each operation. The network is hardly trained: its time does not depend on its weights. On Ray
the time is that of the stage, workers and model loading included.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

import kxbatch as kx
from kxbatch.data.images import encode
from kxbatch.models.diffusion.generator import DiffusionGenerator, Sampling
from kxbatch.models.diffusion.model import DiffusionModel
from kxbatch.models.diffusion.trained import TrainedDiffusion
from kxbatch.models.generation import make_rows

SIDE, STEPS, BATCH, WORKER_BATCHES = 8, 50, 100, 10


class AsUNet(nn.Module):
    """Our network as the pipeline wants one."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, model: DiffusionModel) -> None:
        super().__init__()
        self._model = model
        self.config = SimpleNamespace(in_channels=1, sample_size=SIDE)

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        """Times of the peer begin at 0."""
        times = torch.full((len(x),), int(t) + 1)
        return SimpleNamespace(sample=self._model.network(x.flatten(1), times, None).reshape(x.shape))


def trained(folder: Path) -> Path:
    """A U-Net after two steps on noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, SIDE, SIDE, 1), np.uint8)
    images = pa.array([encode(one) for one in pixels], pa.binary())
    pq.write_table(pa.table({"id": [str(n) for n in range(64)], "image": images}), folder / "images.parquet")
    stage = {"kind": "ddpm", "columns": "image", "network": "unet"}
    stage |= {"unet": {"channels": 32, "multipliers": [1, 2]}, "training": {"steps": 2, "batch_rows": 16}}
    run({"path": str(folder / "images.parquet"), "id": "id"}, [stage], folder / "trained", "inline")
    return folder / "trained/ddpm/_artifact"


def run(source: dict[str, Any] | None, stages: list[dict[str, Any]], output: Path, executor: str) -> float:
    """A job; seconds of its last stage."""
    job = {"job": {"name": "bench", "output": str(output), "executor": executor}, "stage": stages}
    result = kx.run(job | ({"input": source} if source else {}), quiet=True, report=False)
    if result.exit_code != 0:
        raise RuntimeError(result.message)
    return result.stages[-1].seconds


def beside_the_pipeline(model: DiffusionModel, count: int, runs: int, threads: int) -> dict[str, float]:
    """Seconds of each."""
    from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    generator = DiffusionGenerator(model, [Sampling(steps=STEPS)], None, 0)
    pipeline = DDIMPipeline(unet=AsUNet(model), scheduler=DDIMScheduler(1000, clip_sample=False))  # type: ignore[arg-type]
    pipeline.set_progress_bar_config(disable=True)

    def ours() -> None:
        torch.set_num_threads(1)
        make_rows(generator, np.arange(count), BATCH, threads)

    def peer(batch: int) -> None:
        torch.set_num_threads(threads)
        for at in range(0, count, batch):
            pipeline(batch_size=min(batch, count - at), num_inference_steps=STEPS, output_type="np")

    return seconds({"ours": ours, "one batch": lambda: peer(count), "batches": lambda: peer(BATCH)}, runs)


def seconds(work: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Wall seconds of each, the median of interleaved runs after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for number in range(runs + 1):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            if number:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def on_workers(folder: Path, artifact: Path, batches: int, runs: int) -> dict[int, float]:
    """Seconds of the stage by the number of workers."""

    def sample(workers: int, number: int) -> float:
        stage = {"kind": "sample", "model": str(artifact), "count": BATCH * batches, "shard_rows": BATCH}
        stage |= {"steps": STEPS, "batch_rows": BATCH, "resources": {"cpus": 1, "workers": workers}}
        return run(None, [stage], folder / f"made-{workers}-{number}", "ray")

    taken = [(sample(1, number), sample(2, number)) for number in range(runs)]
    return {workers: statistics.median(one[workers - 1] for one in taken) for workers in (1, 2)}


def rows(quick: bool) -> list[dict[str, Any]]:
    """Measures everything.

    Args:
        quick: 200 images, one run.
    """
    count, runs = (200, 1) if quick else (400, 3)
    threads = sorted({1, os.cpu_count() or 1})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        artifact = trained(folder)
        model = TrainedDiffusion.load(artifact)
        taken = {number: beside_the_pipeline(model, count, runs, number) for number in threads}
        workers = on_workers(folder, artifact, WORKER_BATCHES // 4 if quick else WORKER_BATCHES, runs)
    images = BATCH * (WORKER_BATCHES // 4 if quick else WORKER_BATCHES)
    found = []
    for number, one in taken.items():
        name = f"{count} images, {STEPS} DDIM steps, {number} threads: diffusers' pipeline"
        found.append(_row(name, count / one["ours"], count / min(one["one batch"], one["batches"]), 1.0))
    name = f"{images} images, {STEPS} DDIM steps: two Ray workers beside one"
    return [*found, _row(name, images / workers[2], images / workers[1], 1.7)]


def _row(name: str, ours: float, peer: float, target: float) -> dict[str, Any]:
    return {
        "name": name,
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "limit": None,
        "unit": "images/s",
        "ratio": round(ours / peer, 2),
        "target": target,
        "environment": f"{platform.machine()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores",
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
