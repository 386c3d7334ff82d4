"""Densities against their peers: time of an estimate, nats of digits, and outliers found.

    python -m tests.bench.bench_density [--quick]

Time: log p(x) of an image by 1 000 importance samples, 784-200-200-50, Bernoulli, the same weights in pythae's `get_nll`, at its
default batch of 100 samples and at 500, which is best for it. Limit: the decoder's matrix products alone. CPU seconds, one
thread, interleaved. pythae is no dependency: `pip install --no-deps pythae==0.1.2`.

Outliers: learned from the normal rows of a set, AUROC over all others. Shuttle, and digits one class against the rest (mean of
the classes). The peers see standardised values (digits: 0 to 1). The ratio is that of the pairs of an odd and a normal row that
are in the wrong order.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn

import kxbatch as kx
from kxbatch.data.row_draws import row_keys
from kxbatch.models.vae import Vae
from kxbatch.models.vae_config import VaeArchitecture
from kxbatch.models.vae_scoring import Scorer

ROOT = Path(__file__).parents[2]
SAMPLES = 1000
FASTER, BETTER = 4.0, 1.0
VAE_NATS, IWAE_NATS = -95.0, -88.0
Scores = Callable[[npt.NDArray[Any], npt.NDArray[Any]], npt.NDArray[np.float64]]


def rows(quick: bool) -> list[dict[str, Any]]:
    """The rows of this group."""
    torch.set_num_threads(1)
    told = f"{platform.machine()}, 1 thread, torch {torch.__version__}"
    with tempfile.TemporaryDirectory(prefix="bench-density-") as folder:
        found = [*time_rows(2 if quick else 5), *nats_rows(Path(folder)), *shuttle_rows(Path(folder))]
        found += digit_rows(Path(folder), range(3) if quick else range(10))
    return [row | {"environment": told} for row in found]


def _row(
    name: str, ours: float, peer: float | None, unit: str, ratio: float | None, target: float | None, **more: Any
) -> dict[str, Any]:
    row = {"name": name, "ours": ours, "peer": peer, "limit": None, "unit": unit, "ratio": ratio, "target": target}
    return row | more


def _cpu(work: Callable[[], object], images: int) -> float:
    """CPU milliseconds an image."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / images * 1000


def time_rows(rounds: int) -> list[dict[str, Any]]:
    """Ours and pythae's, with the same weights."""
    torch.manual_seed(0)
    config = VaeArchitecture(784, 50, hidden=(200, 200), activation="tanh", likelihood="bernoulli")
    model, images = Vae(config).eval(), (torch.rand(16, 784) < 0.2).float()
    scorer, keys = Scorer(model, SAMPLES, 0), row_keys(range(len(images)))
    noise = torch.randn(SAMPLES, 50)
    ours = lambda: scorer.estimate(images.numpy(), keys)  # noqa: E731
    peer = pythae_nll(model, images)
    works: dict[str, Callable[[], object]] = {"ours": ours, "limit": lambda: [model.decoder(noise) for _ in images]}
    if peer is not None:
        works |= {f"peer {batch}": lambda batch=batch: peer(batch) for batch in (100, 500)}
    times: dict[str, list[float]] = {name: [] for name in works}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, work in works.items():
                times[name].append(_cpu(work, len(images)))
    best = {name: round(statistics.median(values[1:]), 2) for name, values in times.items()}
    name = f"log p of an image by {SAMPLES} samples, 784-200-200-50"
    if peer is None:
        note = "pip install --no-deps pythae==0.1.2"
        return [_row(name, best["ours"], None, "CPU ms", None, FASTER, note=note, limit=best["limit"])]
    mean = scorer.estimate(images.numpy(), keys)[0].log_density.mean().item()
    assert abs(mean - peer(500)) < 0.2, "not the same estimate"
    return [
        _row(
            f"{name}, pythae {kind}",
            best["ours"],
            best[f"peer {batch}"],
            "CPU ms",
            round(best[f"peer {batch}"] / best["ours"], 2),
            FASTER,
            limit=best["limit"],
        )
        for batch, kind in ((100, "as it comes"), (500, "at its best"))
    ]


def pythae_nll(model: Vae, images: Tensor) -> Callable[[int], float] | None:
    """pythae's estimate with our weights, by its batch of samples; None where it is not installed."""
    try:
        from pythae.models import IWAE, IWAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
    except ImportError:
        return None

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Any:
            mean, log_scale = self.net(2 * (x - 0.5)).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)[:, 0]))

    config = IWAEConfig(
        input_dim=(784,),
        latent_dim=50,
        reconstruction_loss="bce",
        number_samples=1,
        uses_default_encoder=False,
        uses_default_decoder=False,
    )
    peer = IWAE(config, Encoder(model.encoder), Decoder(model.decoder)).eval()
    return lambda batch: float(peer.get_nll(images, n_samples=SAMPLES, batch_size=batch))


def shipped(name: str, folder: Path, path: Path) -> dict[str, Any]:
    """A job that ships, in one process, with its output below a folder."""
    job = tomllib.loads((ROOT / f"jobs/{name}.toml").read_text())
    job["job"] |= {"output": str(folder / f"{name}-{path.stem}"), "executor": "inline"}
    job["input"]["path"] = str(path)
    return job


def collected(script: str, path: Path, *arguments: str) -> Path:
    """The corpus that a script in jobs/ writes."""
    command = [sys.executable, str(ROOT / f"jobs/{script}.py"), "--output", str(path), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def run(job: dict[str, Any]) -> None:
    """To its end.

    Raises:
        RuntimeError: it did not get there.
    """
    result = kx.run(job, quiet=True, report=False)
    if result.exit_code != 0:
        raise RuntimeError(result.message)


def nats_rows(folder: Path) -> list[dict[str, Any]]:
    """Digits that the model has not learned from, by 500 samples."""
    path, found = collected("collect_digits", folder / "digits.parquet"), []
    for place, target in ((0, VAE_NATS), (2, IWAE_NATS)):
        job = shipped("density_images", folder, path)
        train, score = job["stage"][place : place + 2]
        score["samples"] = 500
        job["stage"] = [train, score]
        job["job"]["output"] += train["name"]
        start = time.process_time()
        run(job | {"stage": [train]})
        seconds = time.process_time() - start
        run(job)
        facts = json.loads(Path(job["job"]["output"], score["name"], "_artifact/density.json").read_text())
        note = f"{seconds:.0f} CPU s of training, {facts['calibration']['rows']} images held out; wanted: {target:g}"
        found.append(
            _row(
                f"digits, 17 levels, {train['name']}, K = 500",
                facts["calibration"]["mean"],
                None,
                "nats",
                None,
                None,
                note=note,
            )
        )
    return found


def shuttle_rows(folder: Path) -> list[dict[str, Any]]:
    """Three estimators and three peers."""
    path = collected("collect_shuttle", folder / "shuttle.parquet")
    job = shipped("density_tabular", folder, path)
    run(job)
    corpus = pl.read_parquet(path)
    x, normal = np.stack(corpus["readings"].to_numpy()), corpus["normal"].to_numpy()
    z = (x - x[normal].mean(axis=0)) / x[normal].std(axis=0)
    peers = {
        name: wrong_pairs(corpus["odd"].to_numpy()[~normal], score(z[normal], z[~normal]))
        for name, score in PEERS.items()
    }
    found = []
    for stage in ("oddity", "normal-distribution", "distances"):
        ours = pl.read_parquet(Path(job["job"]["output"], stage, "part-*.parquet")).filter(~pl.col("normal"))
        wrong = wrong_pairs(ours["odd"].to_numpy(), ours["density_score"].to_numpy())
        found += auroc_rows(f"shuttle, {stage}", wrong, peers, BETTER if stage == "oddity" else None)
    return found


def digit_rows(folder: Path, classes: range) -> list[dict[str, Any]]:
    """One class against the rest, mean of the classes."""
    peers: dict[str, list[float]] = {name: [] for name in PEERS}
    ours = []
    for label in classes:
        path = collected("collect_digits", folder / f"digits-{label}.parquet", "--normal", str(label))
        job = shipped("density_images", folder, path)
        train, score = job["stage"][:2]
        train["fit_on"] = score["fit_on"] = "normal"
        train["training"] |= {"epochs": 200.0, "validation_share": 0.0}
        score |= {"samples": 100, "calibration_share": 0, "keep": ["odd", "normal"], "labels": "odd"}
        run(job | {"stage": [train, score]})
        scored = pl.read_parquet(Path(job["job"]["output"], score["name"], "part-*.parquet")).filter(~pl.col("normal"))
        ours.append(wrong_pairs(scored["odd"].to_numpy(), scored["density_score"].to_numpy()))
        corpus = pl.read_parquet(path)
        x, normal = np.stack(corpus["pixels"].to_numpy()) / 16, corpus["normal"].to_numpy()
        for name, peer in PEERS.items():
            peers[name].append(wrong_pairs(corpus["odd"].to_numpy()[~normal], peer(x[normal], x[~normal])))
    means = {name: float(np.mean(values)) for name, values in peers.items()}
    return auroc_rows(f"digits, one of {len(classes)} against the rest, vae", float(np.mean(ours)), means, BETTER)


def auroc_rows(name: str, wrong: float, peers: dict[str, float], target: float | None) -> list[dict[str, Any]]:
    """Against each peer; the target is about the forest."""
    return [
        _row(
            f"{name} / {peer}",
            round(1 - wrong, 4),
            round(1 - other, 4),
            "AUROC",
            round(other / wrong, 2),
            target if "Forest" in peer else None,
        )
        for peer, other in peers.items()
    ]


def wrong_pairs(odd: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float:
    """1 - AUROC."""
    from sklearn.metrics import roc_auc_score

    return 1 - float(roc_auc_score(odd, scores))


def _forest(learn: npt.NDArray[Any], score: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    from sklearn.ensemble import IsolationForest

    return -np.asarray(IsolationForest(n_estimators=500, random_state=0).fit(learn).score_samples(score))


def _mixture(learn: npt.NDArray[Any], score: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The number of components by BIC."""
    from sklearn.mixture import GaussianMixture

    counts = [n for n in (1, 2, 4, 8, 16) if n * 20 < len(learn)]
    fits = [GaussianMixture(n, reg_covar=1e-3, random_state=0).fit(learn) for n in counts]
    return -np.asarray(min(fits, key=lambda fit: fit.bic(learn)).score_samples(score))


def _neighbours(learn: npt.NDArray[Any], score: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    from sklearn.neighbors import NearestNeighbors

    return np.asarray(NearestNeighbors(n_neighbors=10).fit(learn).kneighbors(score)[0].mean(axis=1))


PEERS: dict[str, Scores] = {
    "IsolationForest, 500 trees": _forest,
    "GaussianMixture by BIC": _mixture,
    "10 nearest neighbours": _neighbours,
}


def main() -> None:
    """Print the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(rows(parser.parse_args().quick), indent=2))


if __name__ == "__main__":
    main()
