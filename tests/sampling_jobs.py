"""Models and jobs that tests of sampling share: untrained networks with fixed weights, whose samples are as good as any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import save_file

import kxbatch as kx
from kxbatch.engine.result import RunResult
from kxbatch.models.scaled_weights import CONFIG, WEIGHTS
from kxbatch.models.trained_vae import TrainedVae
from kxbatch.models.vae import Vae
from kxbatch.models.vae_config import VaeArchitecture
from kxbatch.models.vae_inputs import Inputs

WIDTH = 3
CENTRE, SPREAD = np.array([5.0, -2.0, 0.5]), np.array([2.0, 0.1, 1.0])


def vector_model(folder: str = "model", *, bias: float = 0.0) -> tuple[Vae, Path]:
    """A model of vectors in asinh units; `bias` is added to what the decoder says of every value."""
    architecture = VaeArchitecture(WIDTH, latent=2, hidden=(8,), levels=0)
    return _written(folder, architecture, Inputs(CENTRE, SPREAD, "asinh"), bias)


def image_model(folder: str = "model", *, channels: int = 1) -> tuple[Vae, Path]:
    """A model of images of 6 x 5 pixels and 5 levels."""
    shape = (6, 5, channels)
    architecture = VaeArchitecture(30 * channels, 2, shape, hidden=(8,), likelihood="discretised-logistic", levels=5)
    return _written(folder, architecture, Inputs.levels(30 * channels, 5), 0.5)


def _written(folder: str, architecture: VaeArchitecture, inputs: Inputs, bias: float) -> tuple[Vae, Path]:
    torch.manual_seed(0)
    model, path = Vae(architecture).eval(), Path(folder)
    with torch.no_grad():
        list(model.decoder.parameters())[-1].add_(bias)
    trained = TrainedVae(architecture, ("v",), (architecture.values,), 0.1, "refuse", inputs.transform)
    weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
    path.mkdir()
    (path / CONFIG).write_text(json.dumps(trained.to_json()))
    save_file(trained.pack(weights, inputs), path / WEIGHTS)
    return model, path


def sample(**changes: Any) -> dict[str, Any]:
    """Ten samples in shards of four, batches of four."""
    return {"kind": "sample", "model": "model", "count": 10, "shard_rows": 4, "batch_rows": 4} | changes


def job(*stages: dict[str, Any], output: str = "out/s", seed: int = 0) -> dict[str, Any]:
    """A job without an input."""
    return {"job": {"name": "s", "output": output, "executor": "inline", "seed": seed}, "stage": list(stages)}


def done(of: dict[str, Any], **kwargs: Any) -> RunResult:
    """Run it to its good end."""
    result = kx.run(of, quiet=True, **({"report": False} | kwargs))
    assert result.exit_code == 0, result.message + str(result.failures)
    return result


def rows(output: str = "out/s", stage: str = "sample") -> pl.DataFrame:
    """All rows of a stage, in the order of their numbers."""
    return pl.concat([pl.read_parquet(p) for p in sorted(Path(output, stage).glob("part-*.parquet"))])


def fresh(result: RunResult) -> dict[str, list[str]]:
    """Stage -> units that this run did."""
    return {s.name: [u["key"] for u in s.units if not u["reused"]] for s in result.stages}
